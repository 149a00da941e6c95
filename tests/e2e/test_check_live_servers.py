# SPDX-License-Identifier: Apache-2.0
"""``podtally check --live`` where a server answers what is seldom answered."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.live_support import DENY_STRAYS, Run, Scripted, live, pod, runner

EMPTY: dict[str, Any] = {"metadata": {}, "items": []}
ADMIN = "/apis/policy.networking.k8s.io"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def empty(target: str) -> tuple[int, Any] | None:
    """A cluster in which nothing is, and which has no custom resources."""
    path = target.partition("?")[0]
    there = path.startswith("/api/v1/") or path.startswith("/apis/networking.k8s.io/v1/")
    return (200, EMPTY) if there else None


def test_an_expired_list_restarts(run: Run, tmp_path: Path) -> None:
    """What was read of it before is not kept: it may have gone meanwhile."""
    asked: list[str] = []

    def answers(target: str) -> tuple[int, Any] | None:
        if not target.startswith("/api/v1/pods"):
            return empty(target)
        asked.append(target.partition("?")[2])
        if "continue" in target:
            return (410, {"reason": "Expired", "message": "too old"}) if len(asked) == 2 else None
        name = "gone" if len(asked) == 1 else "there"
        token = {"continue": "next", "remainingItemCount": 3} if len(asked) == 1 else {}
        return 200, {"metadata": token, "items": [pod(name, "10.99.0.1")]}

    with Scripted(answers) as server:
        out = run("check", *live(tmp_path, server.url)).out
    assert asked == ["limit=500", "limit=500&continue=next", "limit=2000"]
    assert "1 of 1 pods not isolated in egress: there" in out


def test_another_version_of_a_resource_is_not_taken_for_nothing(run: Run, tmp_path: Path) -> None:
    item = {"apiVersion": "policy.networking.k8s.io/v1beta9", "kind": "ClusterNetworkPolicy"}
    answers = {
        ADMIN: {"versions": [{"version": "v1beta9"}]},
        f"{ADMIN}/v1beta9": {"resources": [{"name": "clusternetworkpolicies"}]},
        f"{ADMIN}/v1beta9/clusternetworkpolicies?limit=500": {
            "metadata": {},
            "items": [item | DENY_STRAYS],
        },
    }
    with Scripted(lambda t: (200, answers[t]) if t in answers else empty(t)) as server:
        status, out, _ = run("check", *live(tmp_path, server.url))
    assert status == 1
    assert (
        "strays: apiVersion: 'policy.networking.k8s.io/v1beta9' is not supported for this kind"
        in out
    )


def test_missing_rights_are_reported_for_existing_resources(run: Run, tmp_path: Path) -> None:
    there = {
        ADMIN: (200, {"versions": [{"version": "v1alpha1"}, {"version": "v1alpha2"}]}),
        f"{ADMIN}/v1alpha1": (200, {"resources": [{"name": "adminnetworkpolicies"}]}),
        f"{ADMIN}/v1alpha2": (200, {"resources": []}),
        f"{ADMIN}/v1alpha1/adminnetworkpolicies?limit=500": (403, {"message": "may\nnot"}),
    }
    asked: list[str] = []

    def answers(target: str) -> tuple[int, Any] | None:
        asked.append(target)
        return there.get(target) or empty(target)

    with Scripted(answers) as server:
        status, out, err = run("check", *live(tmp_path, server.url))
        assert (status, out) == (2, "")
        assert "does not list adminnetworkpolicies: 403 may not; give the user" in err
        assert sum("/adminnetworkpolicies" in target for target in asked) == 1
        there[ADMIN] = (403, {"message": "no discovery"})
        assert "does not list the versions" in run("check", *live(tmp_path, server.url)).err


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"metadata": {}}',
        b'{"metadata": {}, "items": [1]}',
        b'{"metadata": {}, "items": [{"metadata": {"name": 7}}]}',
        b'{"metadata": {}, "items": [' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"]}",
    ],
)
def test_what_is_not_a_list_is_refused(body: bytes, run: Run, tmp_path: Path) -> None:
    is_pods = "/api/v1/pods?limit=500"
    with Scripted(lambda t: (200, body) if t == is_pods else empty(t)) as server:
        status, out, err = run("check", *live(tmp_path, server.url))
    assert (status, out, err.count("\n")) == (2, "", 1)
