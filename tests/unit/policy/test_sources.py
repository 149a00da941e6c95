# SPDX-License-Identifier: Apache-2.0
"""Policies of files and of the API together: which apply, when they change, what is reported."""

import json
import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podtally.kube.model import ApiEvent
from podtally.kube.source import KubeSource
from podtally.policy.load import file_reader
from podtally.policy.load.api_resources import POLICY_RESOURCE_NAMES, POLICY_RESOURCES
from podtally.policy.load.live_policies import LivePolicies
from podtally.policy.load.policy_files import LoadedFiles, PolicyFiles
from podtally.policy.load.policy_sources import DeclaredPolicies, PolicySources
from podtally.policy.model import ALLOWED, DENIED, UNKNOWN, Policy
from podtally.policy.reference.engine import Engine
from tests.apiserver.server import ApiServer
from tests.unit.kube_support import BOUND_SECONDS, PATIENT, access_to, wait_for
from tests.unit.policy.policy_api import Json, changed, ingress, network_policy, page
from tests.unit.policy.policy_support import ask, pod

QUESTION = ask(pod("shop/a"), pod("shop/b", "10.99.0.2"))
HOST = {
    "apiVersion": "podtally.io/v1alpha1",
    "kind": "HostPolicy",
    "metadata": {"name": "ssh"},
    "spec": {"host": True, "ingress": [{"ports": [{"port": 22}]}]},
}


def written(path: Path, *items: Json) -> None:
    """NetworkPolicies, unless they say what they are; replaced in one step."""
    head = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    whole = {"apiVersion": "v1", "kind": "List", "items": [head | item for item in items]}
    fresh = path.with_name(".fresh")
    fresh.write_text(json.dumps(whole))
    fresh.rename(path)


@contextmanager
def running(*paths: Path, live: LivePolicies | None = None) -> Iterator[PolicySources]:
    sources = PolicySources(PolicyFiles(paths) if paths else None, None, live)
    sources.start()
    try:
        yield sources
    finally:
        sources.stop()


def heard_of_all() -> LivePolicies:
    live = LivePolicies()
    for name in POLICY_RESOURCE_NAMES:
        live.apply(page(name, []))
    return live


def names(declared: DeclaredPolicies) -> list[str]:
    return sorted(f"{policy.namespace}/{policy.name}" for policy in declared.policies)


def verdict(sources: PolicySources) -> str:
    return Engine(sources.declared().policies).judge(QUESTION).verdict


def reloaded(sources: PolicySources, before: DeclaredPolicies) -> DeclaredPolicies:
    """Wait until there is something else than before."""
    sources.reload()
    wait_for(lambda: sources.declared() is not before)
    return sources.declared()


def test_files_are_in_force_when_start_returns(tmp_path: Path) -> None:
    written(tmp_path / "a.json", network_policy("shop/a"), network_policy("shop/b"), HOST)
    sources = PolicySources(PolicyFiles([tmp_path]))
    assert verdict(sources) == UNKNOWN  # not read yet: so "undeclared" cannot be said
    with running(tmp_path) as sources:
        declared = sources.declared()
        assert names(declared) == ["/ssh", "shop/a", "shop/b"]
        assert declared.ingresses_known
        assert sources.state().counts == {"NetworkPolicy": 2, "HostPolicy": 1}
        assert sources.declared() is declared


def test_a_file_that_changes_is_read_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    written(path, network_policy("shop/a"))
    with running(tmp_path) as sources:
        before = sources.declared()
        assert verdict(sources) == DENIED
        written(path, network_policy("shop/a", ingress=[{}]))
        wait_for(lambda: sources.declared() is not before)
        assert verdict(sources) == ALLOWED


def test_reload_reads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reader, "INTERVAL_SECONDS", 600.0)
    path = tmp_path / "a.json"
    written(path, network_policy("shop/a"))
    with running(tmp_path) as sources:
        before = sources.declared()
        written(path, network_policy("shop/b"))
        assert names(reloaded(sources, before)) == ["shop/b"]


def test_what_is_in_a_file_counts_before_the_api(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.json"
    written(path, network_policy("shop/a"), ingress("shop/web") | {"kind": "Ingress"})
    live = heard_of_all()
    live.apply(page("networkpolicies", [network_policy("shop/a", ingress=[{}])]))
    published = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
    live.apply(page("ingresses", [ingress("shop/web", status=published), ingress("shop/x")]))
    with running(path, live=live) as sources:
        declared = sources.declared()
        addresses = {each.name: each.addresses for each in declared.ingresses}
        assert addresses == {"web": ("203.0.113.7",), "x": ()}  # which only the API has
        assert (names(declared), verdict(sources)) == (["shop/a"], DENIED)
        assert sorted(each.name for each in declared.ingresses) == ["web", "x"]
        sources.apply(changed("networkpolicies", "ADDED", network_policy("pay/a")))
        sources.declared()
        twice = [record.message for record in caplog.records]
        assert twice == [
            "policies: api: NetworkPolicy shop/a: is also in a file, which overrides it; remove one",
            "policies: api: Ingress shop/web: is also in a file, which overrides it; remove one",
        ]
        path.write_text("")
        sources.reload()
        wait_for(lambda: verdict(sources) == ALLOWED)


def test_a_file_that_cannot_be_read_does_not_let_the_apis_namesake_count(tmp_path: Path) -> None:
    written(tmp_path / "a.json", network_policy("shop/a", wrong=1))
    live = heard_of_all()
    live.apply(page("networkpolicies", [network_policy("shop/a", ingress=[{}])]))
    with running(tmp_path, live=live) as sources:
        assert verdict(sources) == UNKNOWN


def test_what_the_api_has_not_listed_yet_is_unknown_and_is_not_counted_as_unreadable() -> None:
    with running(live=LivePolicies()) as sources:
        assert sources.alive  # without files there is no thread that could die
        assert verdict(sources) == UNKNOWN
        assert not sources.declared().ingresses_known
        state = sources.state()
        assert (state.unreadable, frozenset(state.unsynced)) == (0, POLICY_RESOURCE_NAMES)


def test_candidates_are_apart_and_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "a.json", network_policy("shop/a"))
    folder = tmp_path / "candidates"
    folder.mkdir()
    written(folder / "b.json", network_policy("shop/a"), ingress("shop/web") | {"kind": "Ingress"})
    files, candidates = PolicyFiles([tmp_path / "a.json"]), PolicyFiles([folder], candidate=True)
    sources = PolicySources(files, candidates)
    sources.start()
    try:
        declared = sources.declared()
        assert [policy.candidate for policy in declared.policies] == [False]
        assert [policy.candidate for policy in declared.candidates] == [True]
        assert sources.state().candidates == 1
        assert declared.ingresses == ()
        assert "Ingress shop/web: is ignored: an Ingress judges no traffic" in caplog.text
        written(folder / "b.json", network_policy("shop/a"), network_policy("shop/c"))
        assert len(reloaded(sources, declared).candidates) == 2
    finally:
        sources.stop()


def test_problems_are_reported_once_and_so_is_that_they_are_fixed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="podtally")
    path = tmp_path / "a.json"
    bad = [network_policy(f"shop/bad-{n}", wrong=1) for n in range(23)]
    written(path, *bad)
    live = heard_of_all()
    with running(path, live=live) as sources:
        first = sources.declared()
        state = sources.state()
        assert (state.unreadable, state.errors, state.counts) == (23, 23, {})
        lines = [record.message for record in caplog.records]
        assert len(lines) == 21
        assert lines[0].startswith(f"policies: {path}:1: NetworkPolicy shop/bad-0: spec.wrong")
        assert lines[20] == "policies: and 3 more problems"
        sources.apply(changed("networkpolicies", "ADDED", network_policy("pay/a")))
        again = sources.declared()
        assert len(caplog.records) == 21
        written(path, network_policy("shop/good"))
        reloaded(sources, again)
        assert caplog.records[21].message == f"policies: {path} is fixed"
        assert first is not again
        sources.apply(changed("networkpolicies", "MODIFIED", network_policy("pay/a", wrong=1)))
        sources.declared()
        assert "api: NetworkPolicy pay/a: spec.wrong" in caplog.records[22].message
        sources.apply(changed("networkpolicies", "DELETED", network_policy("pay/a")))
        sources.declared()
        assert "api: NetworkPolicy pay/a is fixed" in caplog.records[23].message
        assert len(caplog.records) == 24


def test_what_cannot_be_read_is_counted_and_what_is_skipped_is_not(tmp_path: Path) -> None:
    live = heard_of_all()
    with running(tmp_path, live=live) as sources:
        live.apply(changed("networkpolicies", "ADDED", network_policy("shop/a")))
        before = sources.declared()
        (tmp_path / "values.yaml").write_text("replicaCount: 1\n")
        sources.reload()
        wait_for(lambda: sources.declared() is before and sources.state().errors == 0)
        (tmp_path / "broken.yaml").write_text("a: [")
        sources.reload()
        wait_for(lambda: sources.state().unreadable == 1)
        (tmp_path / "template.yaml").write_text("kind: NetworkPolicy\nname: {{ .Name }}\n")
        sources.reload()
        wait_for(lambda: sources.state().unreadable == 2)
        assert verdict(sources) == DENIED
        live.apply(changed("networkpolicies", "MODIFIED", network_policy("shop/a", brandNew=1)))
        assert sources.state().unreadable == 3  # and its last good version is in force
        assert verdict(sources) == DENIED


def test_a_network_policy_for_endpoints_other_than_pods_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "a.json", network_policy("netns/a"), network_policy("shop/a"))
    with running(tmp_path) as sources:
        sources.declared()
        (line,) = [record.message for record in caplog.records]
        assert "NetworkPolicy netns/a: selects nothing: podtally uses namespace netns" in line


def test_a_broken_file_that_was_good_is_stale_and_in_force(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    written(path, network_policy("shop/a"))
    with running(path) as sources:
        before = sources.declared()
        path.write_text("{")
        sources.reload()
        wait_for(lambda: sources.state().stale_files == 1)
        assert sources.state().errors == 1
        assert sources.declared() is before  # what is in force did not change


def test_a_path_that_is_not_there_makes_all_unknown(tmp_path: Path) -> None:
    with running(tmp_path / "nowhere") as sources:
        assert verdict(sources) == UNKNOWN
        assert sources.state().unreadable == 1  # one file, though it may be for pods and hosts


class Slow(PolicyFiles):
    """Files on a disk that takes its time."""

    def __init__(self, path: Path) -> None:
        super().__init__([path])
        self.seconds = 0.3
        self.quick = threading.Event()
        self.begun = threading.Event()

    def load(self) -> LoadedFiles:
        self.begun.set()
        self.quick.wait(self.seconds)
        return super().load()


def test_start_waits_for_what_takes_long_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="podtally")
    monkeypatch.setattr(file_reader, "_LOG_AFTER_SECONDS", 0.1)
    written(tmp_path / "a.json", network_policy("shop/a"))
    files = Slow(tmp_path)
    sources = PolicySources(files)
    sources.start()
    assert names(sources.declared()) == ["shop/a"]
    assert "reading policy files" in caplog.messages[0]
    assert "policy files loaded in" in caplog.messages[1]
    files.seconds = 3000.0
    files.begun.clear()
    sources.reload()
    assert files.begun.wait(BOUND_SECONDS)
    began = time.monotonic()
    sources.stop()
    assert time.monotonic() - began < BOUND_SECONDS
    files.quick.set()
    wait_for(lambda: not sources.alive)


class Broken(PolicyFiles):
    def load(self) -> LoadedFiles:
        raise MemoryError("as a bug would")


def test_a_thread_that_fails_is_reported_and_nothing_is_undeclared(tmp_path: Path) -> None:
    sources = PolicySources(Broken([tmp_path]))
    sources.start()
    assert "as a bug would" in sources.trouble
    assert verdict(sources) == UNKNOWN
    sources.stop()
    assert not sources.alive


def test_stop_ends_the_thread(tmp_path: Path) -> None:
    with running(tmp_path) as sources:
        assert sources.alive
        assert "policy-files" in [thread.name for thread in threading.enumerate()]
    assert not sources.alive
    assert "policy-files" not in [thread.name for thread in threading.enumerate()]


def test_a_real_list_and_watch_ends_in_what_is_declared() -> None:
    with ApiServer() as api, running(live=LivePolicies()) as sources:
        api.put("networkpolicies", network_policy("shop/a"))
        events: queue.SimpleQueue[ApiEvent] = queue.SimpleQueue()

        def now() -> str:
            while not events.empty():
                sources.apply(events.get())
            return verdict(sources)

        kube = KubeSource(access_to(api), POLICY_RESOURCES, events.put, PATIENT)
        kube.start()
        try:
            wait_for(lambda: now() == DENIED)
            assert sources.state().unsynced == ()
            api.put("networkpolicies", network_policy("shop/a", ingress=[{}]))
            wait_for(lambda: now() == ALLOWED)
            api.put("networkpolicies", network_policy("shop/b", brandNew=[{}]))
            api.delete("networkpolicies", "shop", "a")
            wait_for(lambda: now() == UNKNOWN)
            assert sources.state().unreadable == 1
            assert sum(map(kube.errors, kube.resources)) == 0
        finally:
            kube.stop()
    (policy,) = sources.declared().policies
    assert isinstance(policy, Policy)
