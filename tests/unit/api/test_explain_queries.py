# SPDX-License-Identifier: Apache-2.0
"""Explanations and candidates over HTTP: a real server, queried by the commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.podtally_command import podtally
from tests.unit.api.test_api import Served, ask, serve, served
from tests.unit.lookup_host import INTO_WEB, NO_EGRESS, Host, shop
from tests.unit.verdict_support import ONLY_MYSQL, declare, epoch, into, make, out, present

__all__ = ["served"]


@pytest.fixture
def judging() -> Iterator[tuple[Served, Host]]:
    """Serve a host with the API's pods; what was counted is another's."""
    host = shop()
    ledger, declared = make(), declare(ONLY_MYSQL, candidates=[INTO_WEB, EXCEPT_NOBODY])
    flows = [out("203.0.113.10", 3306), into("203.0.113.5", 80), into("198.18.7.7", 80)]
    epoch(ledger, present(declared), [*flows, into("198.18.7.8", 80)])
    made = serve(host.answers, ledger.view())
    yield made, host
    made.server.close()


EXCEPT_NOBODY = ONLY_MYSQL.replace(", except: [203.0.113.10/32]", "")


def test_the_agent_explains(judging: tuple[Served, Host]) -> None:
    served, host = judging
    host.declare(INTO_WEB)
    status, body = served.get("/api/v1/explain?from=people/user&to=shop/web&port=8080")
    assert status == 200
    assert body.pop("steps")
    assert body == {
        "from": "people/user-0 (10.99.1.4)",
        "to": "shop/web-0 (10.99.0.2)",
        "protocol": "TCP",
        "port": 8080,
        "verdict": "allowed",
        "ingress": "allowed",
        "egress": "undeclared",
        "reason": "shop/into-web ingress[0]",
    }
    assert served.get("/api/v1/explain?from=host&to=shop/web-0&port=53/udp")[1]["protocol"] == "UDP"


def test_explain_asks_the_agent(judging: tuple[Served, Host]) -> None:
    served, host = judging
    host.declare(INTO_WEB)
    asked = ("explain", "shop/db", "shop/web", "8080")
    code, out, err = ask(served, *asked)
    assert (code, err) == (1, "")
    assert out.startswith("shop/db-0 (10.99.0.3) to shop/web-0 (10.99.0.2), TCP 8080\n\negress of ")
    assert out.splitlines()[-1].startswith(
        "denied: denied by default: shop/into-web selects it and no ingress rule allows this; nearest "
    )
    assert "candidate" not in out
    code, out, _ = ask(served, *asked, "--output", "json")
    assert code == 1
    query = "from=shop/db&to=shop/web&port=8080"
    assert json.loads(out) == served.get(f"/api/v1/explain?{query}")[1]
    assert ask(served, "explain", "people/user", "shop/web", "8080")[0] == 0
    code, out, err = ask(served, "explain", "shop/wep-0", "shop/db", "80")
    assert (code, out) == (2, "")
    assert "refuses: unknown endpoint 'shop/wep-0'; known names: shop/web-0" in err


def test_explain_includes_the_candidates(judging: tuple[Served, Host]) -> None:
    served, host = judging
    host.declare(INTO_WEB, candidates=[NO_EGRESS])
    _, out, _ = ask(served, "explain", "shop/db", "203.0.113.9", "80")
    now, _, then = out.partition("\nwith the candidates\n")
    assert (
        now.splitlines()[-1]
        == "undeclared: no policy isolates shop/db-0 in egress; 203.0.113.9 is not a pod, so no policy selects it"
    )
    assert "shop/no-egress  selects the source and isolates it" in then
    assert then.splitlines()[-1].startswith("with the candidates denied: denied by default: ")
    _, out, _ = ask(served, "explain", "people/user", "203.0.113.9", "80")
    assert out.endswith("\nwith the candidates: the same\n")


def test_what_is_only_used_for_the_agent_goes_with_nothing_else() -> None:
    for flag in ("--policies", "--cluster"):
        code, _, err = podtally("explain", "a/b", "a/c", "80", "--listen", ":1", flag, "x.yaml")
        assert code == 2
        assert "--listen is only used to query the running agent; drop it, or" in err


def test_what_to_explain_it_by_has_to_be_whole(tmp_path: Path) -> None:
    for flag in ("--policies", "--cluster"):
        code, _, err = podtally("explain", "a/b", "a/c", "80", flag, str(tmp_path / "x.yaml"))
        assert code == 2
        assert "give --live, or both --policies and --cluster" in err


def test_what_candidates_would_change(judging: tuple[Served, Host]) -> None:
    served, host = judging
    host.declare(ONLY_MYSQL, candidates=[INTO_WEB, EXCEPT_NOBODY])
    code, out, err = ask(served, "candidates")
    assert (code, err) == (1, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "NOW THEN ENDPOINT DIRECTION PEER PROTOCOL PORT POLICY CONNECTIONS BYTES",
        "undeclared denied shop/web ingress external tcp 80 shop/into-web 2 46",
        "denied allowed shop/web egress external:office tcp 3306 - 1 23",
        "undeclared unknown shop/web ingress external:office tcp 80 - 1 23",
    ]
    code, out, _ = ask(served, "candidates", "--output", "json")
    result = json.loads(out)
    assert (code, result) == (1, served.get("/api/v1/candidates")[1])
    assert result["policies"][0] == {
        "kind": "NetworkPolicy", "namespace": "shop", "name": "into-web", "unreadable": "",
    }  # fmt: skip
    assert sum(row["bytes"] for row in result["changes"]) == 92


def test_candidates_that_change_nothing_and_none_at_all(judging: tuple[Served, Host]) -> None:
    served, host = judging
    code, out, err = ask(served, "candidates")
    assert (code, out) == (2, "")
    assert (
        err
        == "podtally: the agent has no candidates; start it with --candidate PATH or --candidate-delete NAME; files that were just written there are read within seconds\n"
    )
    code, out, _ = ask(served, "candidates", "--output", "json")
    assert (code, json.loads(out)["policies"]) == (2, [])
    host.declare(candidates=[INTO_WEB, "{"])
    quiet = serve(host.answers)
    code, out, err = ask(quiet, "candidates")
    quiet.server.close()
    assert code == 0
    assert out == "nothing observed would change; candidates: shop/into-web, unreadable/next\n"
    assert err.startswith("podtally: unreadable/next is unreadable: next:")
