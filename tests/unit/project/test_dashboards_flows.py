# SPDX-License-Identifier: Apache-2.0
"""The commands on dashboards: as Grafana fills them in, the history answers them."""

import datetime
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally.commands.flows import query_words
from podtally.commands.stored.history_file import flows_of_file
from podtally.history.store import Store
from podtally.outcomes.decision import OUTCOMES
from podtally.plugin import cli
from tests.unit.history.test_store import START, batch, write
from tests.unit.project.dashboards_support import dashboards, fill, used, variables

ALL = dashboards()
LAST = datetime.datetime.fromtimestamp((START + 2) * 60, datetime.UTC)
TIMES = {
    "__from": (LAST - datetime.timedelta(hours=3)).isoformat(timespec="milliseconds"),
    "__to": LAST.isoformat(timespec="milliseconds"),
}
CHOICES = {
    "one": {"namespace": "shop", "workload": "web"},
    "several": {"namespace": "shop,office", "workload": "web,db"},
    "all": {"namespace": ".*", "workload": ".*"},
}


def commands() -> Iterator[tuple[str, str]]:
    for name, dashboard in ALL.items():
        for panel in dashboard["panels"]:
            if panel["type"] == "text":
                for block in re.findall(
                    r"```sh\n(.*?)\n```", panel["options"]["content"], re.DOTALL
                ):
                    yield name, block


COMMANDS = list(commands())


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "history.db"
    store = Store(path)
    write(store, [batch(0, START, 5)])
    store.close()
    return path


def rows(history: Path, command: str, choice: str) -> list[dict[str, object]]:
    program, plugin, *words = shlex.split(fill(command, TIMES | CHOICES[choice]))
    assert (program, plugin) == ("kubectl", "podtally")
    args = cli.build_parser((words[0],)).parse_args(words)
    found = flows_of_file(history, query_words(args, LAST), ({"internet": 0.09}, {}))
    return [dict(each) for each in found.rows]


def test_the_dashboards_of_traffic_have_them() -> None:
    assert {name for name, _ in COMMANDS} == {"overview", "pod", "egress", "policy", "health"}


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_the_selection_is_filled_in_and_answered(history: Path, name: str, command: str) -> None:
    assert set(re.findall(r"--outcome (\S+)", command)) <= set(OUTCOMES)
    assert used(command) - {"__from", "__to"} <= set(variables(ALL[name]))
    one, several, every = (rows(history, command, choice) for choice in CHOICES)
    assert {each.get("workload") for each in one} <= {"web"}
    assert several == every
    assert len(one) <= len(every)
    expected = 0 if "--outcome" in command or "unknown" in command else 1
    assert len(every) >= expected


def test_a_time_just_ahead_is_now(history: Path) -> None:
    parser = cli.build_parser(("flows",))
    ahead = (LAST + datetime.timedelta(seconds=30)).isoformat()
    args = parser.parse_args(["flows", "--since", TIMES["__from"], "--until", ahead])
    assert "until" not in query_words(args, LAST)
