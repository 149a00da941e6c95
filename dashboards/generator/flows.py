# SPDX-License-Identifier: Apache-2.0
"""The flows behind a dashboard: commands for the history, with the dashboard's selection."""

from typing import NamedTuple

from dashboards.generator.model import Panel, Row

_TIMES = "--since '${__from:date:iso}' --until '${__to:date:iso}'"
# Grafana joins several with commas; All is .*
_SELECTED = "--namespace '${namespace:csv}' --workload '${workload:csv}'"
_LINE = 2  # cells that a command takes


class Flows(NamedTuple):
    """A question, and the options of `flows` that answer it."""

    question: str
    options: str


def flows_row(*asked: Flows) -> Row:
    """Return a row with a command for each question."""
    text = "\n\n".join(
        f"{each.question}\n\n```sh\nkubectl podtally flows {_SELECTED} {_TIMES} {each.options}\n```"
        for each in asked
    )
    note = (
        "From a laptop, for what is selected above ([how](${docs}/kubectl.md)); on a host without "
        "Kubernetes the same without `kubectl`. [History](${docs}/history.md) has what is kept, "
        "and for how long."
    )
    panel = Panel(
        kind="text",
        title="Flows in the selected time range",
        description="Addresses, names and times of what the panels sum up, from the history.",
        width=24,
        height=3 + 2 * _LINE * len(asked),
        targets=(),
        options={"mode": "markdown", "content": f"{text}\n\n{note}"},
        defaults={},
    )
    return Row("The flows behind it", (panel,))


DENIED = Flows("What is denied:", "--verdict denied --by workload,peer,address,port,policy")
EVERYTHING = Flows("Every conversation, with addresses and domains:", "--connections --top 50")
FAILED = Flows(
    "What failed, by server:",
    "--outcome refused --outcome unanswered --outcome rejected --outcome half_open "
    "--by workload,peer,address,port,outcome",
)
INTERNET = Flows("What goes to the internet:", "--to internet --by workload,domain,address,port")
COST = Flows("What it costs:", "--to internet --by workload,domain --cost")
NEW = Flows("What is new:", "--new --by workload,peer,domain,port")
UNKNOWN = Flows(
    "What is undecided, and why:", "--verdict unknown --by workload,peer,address,port,cause"
)
