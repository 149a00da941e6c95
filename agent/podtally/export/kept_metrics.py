# SPDX-License-Identifier: Apache-2.0
"""Metrics with values that the checkpoint keeps."""

import bisect
import time
from collections.abc import Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)


class CounterMetric:
    """A counter."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self.value = 0.0

    def inc(self, by: float = 1.0) -> None:
        self.value += by

    def dump(self) -> list[float]:
        return [self.value]

    def restore(self, dumped: Sequence[float]) -> None:
        (self.value,) = dumped

    def family(self, dumped: Sequence[float]) -> Metric:
        return CounterMetricFamily(f"podtally_{self.name}", self.text, value=dumped[0])


class HistogramMetric:
    """A histogram of seconds; ``buckets`` are the upper bounds, without +Inf."""

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        self.name, self.text = name, text
        self._buckets = buckets
        self._counts = [0.0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(self._buckets, seconds)] += 1
        self._sum += seconds

    def dump(self) -> list[float]:
        return [*self._counts, self._sum]

    def restore(self, dumped: Sequence[float]) -> None:
        if len(dumped) == len(self._counts) + 1:  # else its buckets were different
            self._counts, self._sum = list(dumped[:-1]), dumped[-1]

    def family(self, dumped: Sequence[float]) -> Metric:
        cumulative, below = [], 0.0
        for bound, count in zip((*map(str, self._buckets), "+Inf"), dumped[:-1], strict=True):
            below += count
            cumulative.append((bound, below))
        return HistogramMetricFamily(f"podtally_{self.name}", self.text, cumulative, dumped[-1])


class StartTime:
    """When the counters started at zero, kept as CLOCK_MONOTONIC and shown as Unix time.

    With this gauge, queries can count the first values of a new agent's counters.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._monotonic = time.monotonic()

    def dump(self) -> list[float]:
        return [self._monotonic]

    def restore(self, dumped: Sequence[float]) -> None:
        """Without ``dumped``, the age of the counters is unknown: they are as old as the boot."""
        self._monotonic = dumped[0] if dumped else 0.0

    def family(self, dumped: Sequence[float]) -> Metric:
        began = round(time.time() - time.monotonic() + dumped[0])
        return GaugeMetricFamily(f"podtally_{self.name}", self.text, value=began)
