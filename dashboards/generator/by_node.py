# SPDX-License-Identifier: Apache-2.0
"""Panels with one line per node: gauges as they are, counters per second."""

from dashboards.generator.model import Panel
from dashboards.generator.panels import COUNT, PER_SECOND, Line, Look, lines
from dashboards.generator.queries import AGENTS

NODE = "{{instance}}"
QUARTER = Look(COUNT, 6, 7)
THIRD = Look(COUNT, 8, 7)
THIRD_RATE = Look(PER_SECOND, 8, 7)


def now(metric: str, title: str, description: str, look: Look, *by: str) -> Panel:
    """Return a panel of a gauge by node and labels."""
    expr = f"sum by ({', '.join(('instance', *by))}) ({metric}{{{AGENTS}}})"
    return lines(title, description, Line(expr, _legend(by)), look)


def rate_of(metric: str, title: str, description: str, look: Look, *by: str) -> Panel:
    """Return a panel of a counter's rate by node and labels."""
    return lines(title, description, Line(per_second(metric, *by), _legend(by)), look)


def per_second(metric: str, *by: str) -> str:
    labels = ", ".join(("instance", *by))
    return f"sum by ({labels}) (rate({metric}{{{AGENTS}}}[$__rate_interval]))"


def _legend(by: tuple[str, ...]) -> str:
    return " ".join((NODE, *(f"{{{{{label}}}}}" for label in by)))
