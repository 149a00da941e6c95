# SPDX-License-Identifier: Apache-2.0
"""The agent's own counters: on /metrics, and over a restart."""

import time

import pytest
from prometheus_client import generate_latest

from podtally.export.agent_metrics import AgentMetrics

START_TIME = "podtally_counters_start_time_seconds"


def shown(metrics: AgentMetrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_counters_and_histograms_go_on_over_a_restart() -> None:
    before = AgentMetrics()
    before.loader_runs.inc(23)
    for seconds in (0.001, 0.005, 0.3, 100.0):
        before.swap.observe(seconds)

    after = AgentMetrics()
    after.restore(before.dump())
    after.swap.observe(0.3)
    assert "podtally_swap_seconds_count 4.0" in shown(after)  # not before it is written down
    after.checkpoint_written(23, after.dump())

    text = shown(after)
    assert "podtally_loader_runs_total 23.0" in text
    assert 'podtally_swap_seconds_bucket{le="0.005"} 2.0' in text
    assert 'podtally_swap_seconds_bucket{le="0.5"} 4.0' in text
    assert 'podtally_swap_seconds_bucket{le="+Inf"} 5.0' in text
    assert "podtally_swap_seconds_count 5.0" in text
    assert "podtally_swap_seconds_sum 100.606" in text


def start_time(metrics: AgentMetrics) -> float:
    (line,) = (line for line in shown(metrics).splitlines() if line.startswith(f"{START_TIME} "))
    return float(line.removeprefix(START_TIME))


def test_the_counters_start_time_is_kept_over_a_restart() -> None:
    first = AgentMetrics()
    assert start_time(first) == pytest.approx(time.time(), abs=60)
    dumped = first.dump() | {"counters_start_time_seconds": [time.monotonic() - 7000]}
    after = AgentMetrics()
    after.restore(dumped)
    assert start_time(after) == pytest.approx(time.time() - 7000, abs=60)


def test_counters_of_unknown_age_are_not_new() -> None:
    """A checkpoint of before there was a start time: they began at some time of this boot."""
    metrics = AgentMetrics()
    metrics.restore({"loader_runs": [5.0]})
    assert start_time(metrics) == pytest.approx(time.time() - time.monotonic(), abs=60)


def test_what_an_older_or_newer_agent_wrote_is_taken_as_far_as_it_fits() -> None:
    metrics = AgentMetrics()
    metrics.restore({"loader_runs": [5.0], "swap_seconds": [1.0, 2.0], "not_known": [3.0]})
    assert "podtally_loader_runs_total 5.0" in shown(metrics)
    assert "podtally_swap_seconds_count 0.0" in shown(metrics)
