# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes client against a server with all faults that real servers have."""

import itertools
import logging
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from podtally.kube.access import Access, ApiServerAddress
from podtally.kube.backoff import ClientTiming
from podtally.kube.credentials import CredentialData, FileCredentials
from tests.apiserver import ApiServer, Fault
from tests.apiserver_store import Object
from tests.unit.kube_support import (
    BOUND_SECONDS,
    PATIENT,
    QUICK,
    Watching,
    access_to,
    pod,
    resource,
    wait_for,
)


def filled(api: ApiServer, count: int = 7) -> ApiServer:
    for number in range(count):
        api.put("pods", pod(f"pod-{number}"))
    return api


def test_a_list_comes_in_pages_and_changes_follow() -> None:
    with filled(ApiServer()) as api, Watching(api) as watching:
        watching.agrees()
        pages = watching.table.pages("pods")
        assert [len(page.objects) for page in pages] == [3, 3, 1]
        assert [(page.first, page.last) for page in pages] == [
            (True, False),
            (False, False),
            (False, True),
        ]
        api.put("pods", pod("pod-0", team="pay"))
        api.put("pods", pod("new"))
        api.delete("pods", "shop", "pod-3")
        watching.agrees()
        kinds = [change.kind for change in watching.table.changes("pods")]
        assert kinds == ["MODIFIED", "ADDED", "DELETED"]
        assert len(watching.table.pages("pods")) == 3
        lists = api.asked_for("pods", "list")
        assert all("resourceVersion" not in request.query for request in lists)


def test_an_empty_list_is_an_event() -> None:
    with ApiServer() as api, Watching(api) as watching:
        wait_for(lambda: len(watching.table.pages("pods")) == 1)
        (page,) = watching.table.pages("pods")
        assert (list(page.objects), page.first, page.last) == ([], True, True)


def test_a_field_selector_goes_with_lists_and_watches() -> None:
    with filled(ApiServer(), 2) as api:
        elsewhere = pod("elsewhere")
        elsewhere["spec"]["nodeName"] = "node2"
        api.put("pods", elsewhere)
        with Watching(api, [resource("pods", "spec.nodeName=node1")]) as watching:
            wait_for(lambda: len(watching.table.versions("pods")) == 2)
            api.put("pods", elsewhere)
            api.put("pods", pod("here"))
            wait_for(lambda: len(watching.table.versions("pods")) == 3)
            assert [c.object["metadata"]["name"] for c in watching.table.changes("pods")] == [
                "here"
            ]


def test_bookmarks_carry_a_quiet_watch_over_a_compaction() -> None:
    with filled(ApiServer()) as api:
        api.bookmark_seconds = 0.05
        api.watch_limit_seconds = 0.3
        with Watching(api) as watching:
            watching.agrees()
            for _ in range(23):
                api.put("nodes", {"metadata": {"name": "node1"}})
            version = api.store.visible()

            def result() -> bool:
                watches = api.asked_for("pods", "watch")
                return bool(watches) and int(watches[-1].query["resourceVersion"]) == version

            wait_for(result)
            api.store.compact()
            before = len(api.asked_for("pods", "watch"))
            wait_for(lambda: len(api.asked_for("pods", "watch")) >= before + 2)
            assert watching.source.lists("pods") == 1
            assert watching.source.errors("pods") == 0


@pytest.mark.parametrize("by_http", [True, False])
def test_after_410_a_new_list_removes_what_disappeared(by_http: bool) -> None:
    with filled(ApiServer()) as api, Watching(api) as watching:
        watching.agrees()
        api.faults.gone_by_http = by_http
        api.away()
        api.delete("pods", "shop", "pod-2")
        api.put("pods", pod("meanwhile"))
        api.store.compact()
        api.back()
        watching.agrees()
        assert watching.source.lists("pods") == 2
        assert [change.kind for change in watching.table.changes("pods")] == []
        api.put("pods", pod("after"))
        watching.agrees()


def test_an_expired_token_starts_the_list_again() -> None:
    with filled(ApiServer()) as api:
        api.faults.hang = True
        with Watching(api, timing=PATIENT) as watching:
            wait_for(lambda: len(api.asked_for("pods", "list")) == 1)
            # every further page comes too late: only a list in one page can succeed
            answered = threading.Event()
            plain = api.store.items

            def late(resource: str, version: int) -> list[Object]:
                items = plain(resource, version)
                if not answered.is_set():
                    answered.set()
                    api.put("pods", pod("in-between"))
                    api.delete("pods", "shop", "pod-0")
                    api.store.compact()
                return items

            api.store.items = late  # type: ignore[method-assign]
            api.release()
            watching.agrees()
            lists = api.asked_for("pods", "list")
            assert [request.query["limit"] for request in lists] == ["3", "3", "12"]
            firsts = [page.first for page in watching.table.pages("pods")]
            assert firsts == [True, True]
            assert "continue" not in lists[-1].query


def test_a_line_cut_in_the_middle_is_no_event_and_none_is_lost() -> None:
    with filled(ApiServer()) as api, Watching(api) as watching:
        watching.agrees()
        for cut in (1, 23, 10_000):
            api.faults.cut_after_bytes = cut
            api.put("pods", pod(f"cut-at-{cut}"))
            api.put("pods", pod(f"after-{cut}"))
            watching.agrees()
        assert watching.source.lists("pods") == 1
        names = [c.object["metadata"]["name"] for c in watching.table.changes("pods")]
        assert names == [f"{when}-{cut}" for cut in (1, 23, 10_000) for when in ("cut-at", "after")]


def test_a_silent_watch_is_replaced_by_a_list() -> None:
    with filled(ApiServer()) as api, Watching(api, timing=QUICK) as watching:
        watching.agrees()
        api.faults.freeze = True
        api.put("pods", pod("unheard"))
        wait_for(lambda: watching.source.errors("pods") > 0)
        wait_for(lambda: len(watching.table.versions("pods")) == 8)
        assert watching.source.lists("pods") >= 2  # more: the next watch is as silent
        api.faults.freeze = False
        api.put("pods", pod("heard"))
        watching.agrees()


def test_a_server_that_never_answers() -> None:
    with filled(ApiServer()) as api:
        api.faults.hang = True
        with Watching(api, timing=QUICK) as watching:
            wait_for(lambda: watching.source.errors("pods") >= 2)
            assert watching.source.unsynced("pods") == "never synced"
            api.release()
            watching.agrees()
            age_ns = time.monotonic_ns() - watching.source.contact_ns("pods")
            assert 0 <= age_ns < BOUND_SECONDS * 1e9


@pytest.mark.parametrize("lose_history", [False, True])
def test_a_restarted_server(lose_history: bool) -> None:
    with filled(ApiServer()) as api, Watching(api) as watching:
        watching.agrees()
        for round_ in range(3):
            api.away()
            api.put("pods", pod(f"round-{round_}"))
            api.delete("pods", "shop", f"pod-{round_}")
            if lose_history:
                api.store.compact()
            api.back()
            watching.agrees()
        assert watching.source.lists("pods") == (4 if lose_history else 1)


def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="podtally")
    resources = [resource("pods"), resource("nodes"), resource("services")]
    with filled(ApiServer()) as api, Watching(api, resources) as watching:
        for name in ("pods", "nodes", "services"):
            watching.agrees(name)
        api.away()
        wait_for(lambda: watching.source.errors("pods") > 0)
        contact = watching.source.contact_ns("pods")
        wait_for(lambda: all(watching.source.errors(r.name) > 5 for r in resources))
        assert watching.source.contact_ns("pods") == contact
        api.back()
        wait_for(lambda: " is back " in caplog.text)
        api.restart()  # once more, too short to be told
        wait_for(lambda: watching.source.contact_ns("pods") > contact)
        levels = [record.levelname for record in caplog.records]
        assert levels[:2] == ["WARNING", "INFO"]
        assert "Connection refused" in caplog.text
        assert len(levels) <= 4


def test_a_rotated_token_is_read_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with filled(ApiServer(authorizations={"Bearer first"})) as api:
        access = Access(
            ApiServerAddress("127.0.0.1", api.port, tls=False),
            FileCredentials(token=CredentialData("token", token)),
        )
        with Watching(api, access=access) as watching:
            watching.agrees()
            api.authorizations = {"Bearer second"}
            api.restart()
            wait_for(lambda: watching.source.errors("pods") >= 3)
            api.put("pods", pod("unseen"))
            token.write_text("second\n")
            watching.agrees()
            assert watching.source.lists("pods") == 1


def test_the_first_401_is_retried_at_once() -> None:
    slow = replace(PATIENT, first_bound_seconds=5000.0, error_max_seconds=5000.0)
    with filled(ApiServer()) as api:
        api.faults.errors.append(Fault(401, "Unauthorized"))
        with Watching(api, timing=slow) as watching:
            watching.agrees()


def test_429_waits_for_retry_after() -> None:
    with filled(ApiServer()) as api:
        api.faults.errors.append(Fault(429, "TooManyRequests", 1, "pods", "list"))
        with Watching(api) as watching:
            watching.agrees()
            first, second = api.asked_for("pods", "list")[:2]
            assert second.at - first.at >= 1.0


def test_two_agents_come_back_at_different_times() -> None:
    slow = replace(PATIENT, first_bound_seconds=0.1, error_max_seconds=0.4)
    with filled(ApiServer()) as api:
        fault = Fault(503, "ServiceUnavailable", times=-1)
        api.faults.errors.append(fault)
        with (
            Watching(api, [resource("pods")], slow) as one,
            Watching(api, [resource("nodes")], slow) as other,
        ):
            wait_for(lambda: min(one.source.errors("pods"), other.source.errors("nodes")) >= 6)
            fault.times = 0
            one.agrees()
        waits = [
            [second.at - first.at for first, second in itertools.pairwise(requests[:6])]
            for requests in (api.asked_for("pods", "list"), api.asked_for("nodes", "list"))
        ]
        apart = [abs(a - b) for a, b in zip(*waits, strict=True)]
        assert sum(apart) > 0.05, waits


@pytest.mark.parametrize("code", [500, 503, 504])
def test_errors_of_the_server_pass(code: int) -> None:
    with filled(ApiServer()) as api:
        api.faults.errors.append(Fault(code, "InternalError", times=3))
        with Watching(api) as watching:
            watching.agrees()
            assert watching.source.errors("pods") == 3


def test_an_error_event_other_than_410_continues_the_watch() -> None:
    with filled(ApiServer()) as api, Watching(api) as watching:
        watching.agrees()
        api.faults.error_event = (500, "InternalError")
        api.put("pods", pod("one"))
        wait_for(lambda: watching.source.errors("pods") >= 2)
        api.release()
        watching.agrees()
        assert watching.source.lists("pods") == 1


def test_a_version_from_the_future_is_listed_again() -> None:
    with filled(ApiServer()) as api, Watching(api) as watching:
        watching.agrees()
        api.away()
        fault = Fault(504, "Too large resource version", resource="pods", verb="watch")
        api.faults.errors.append(fault)
        api.back()
        wait_for(lambda: watching.source.lists("pods") == 2)
        watching.agrees()


def test_a_missing_right_is_named_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="podtally")
    with filled(ApiServer()) as api:
        fault = Fault(403, "Forbidden", resource="endpointslices", times=-1)
        api.faults.errors.append(fault)
        with Watching(api, [resource("endpointslices"), resource("pods")]) as watching:
            watching.agrees("pods")
            wait_for(lambda: watching.source.unsynced("endpointslices") == "forbidden")
            wait_for(lambda: bool(caplog.records))
            assert watching.source.unsynced("pods") == ""
            (record,) = caplog.records
            assert record.levelname == "ERROR"
            assert "refuses endpointslices: the right to list is missing" in record.message
            assert 'apiGroups: ["discovery.k8s.io"]' in record.message
            fault.times = 0
            watching.agrees("endpointslices")
            assert caplog.records[-1].message == "the Kubernetes API allows endpointslices now"
            assert watching.source.unsynced("endpointslices") == ""


@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_starts_refuses_for_a_moment(
    caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """Before it knows the cluster's roles."""
    caplog.set_level(logging.WARNING, logger="podtally")
    slow = replace(PATIENT, forbidden_after_seconds=60.0)
    with filled(ApiServer()) as api:
        api.faults.errors.append(Fault(code, "Forbidden", times=2))
        with Watching(api, timing=slow) as watching:
            watching.agrees()
    assert not [record for record in caplog.records if "right" in record.message]


def test_a_resource_never_in_contact_is_as_old_as_the_agent() -> None:
    with ApiServer() as api:
        api.away()
        before = time.monotonic_ns()
        with Watching(api) as watching:
            assert watching.source.unsynced("pods") == "never synced"
            assert watching.source.contact_ns("pods") >= before


def test_a_granted_right_is_seen_within_ten_seconds() -> None:
    assert ClientTiming().forbidden_max_seconds + 1 < 10


def test_undecodable_lines_are_counted_and_listed_again() -> None:
    wild = replace(PATIENT, error_max_seconds=0.05)
    plain = resource("pods")

    def decode(line: bytes) -> object:
        if b'"name": "poison"' in line:
            raise ValueError("poison")
        return plain.decode_event(line)

    picky = plain._replace(decode_event=decode)  # type: ignore[arg-type]
    with filled(ApiServer()) as api, Watching(api, [picky], wild) as watching:
        watching.agrees()
        api.put("pods", pod("poison"))
        watching.agrees()
        api.put("pods", pod("good"))
        watching.agrees()
        assert watching.source.lists("pods") == 2
        assert watching.source.errors("pods") == 1


@pytest.mark.parametrize("state", ["watching", "hanging", "away", "frozen", "throttled"])
def test_stop_does_not_wait_for_the_server(state: str) -> None:
    never = 100 * BOUND_SECONDS
    timing = replace(
        PATIENT,
        quiet_seconds=never,
        response_seconds=never,
        watch_seconds=(never, never),
        first_bound_seconds=never if state == "away" else PATIENT.first_bound_seconds,
        unreachable_max_seconds=never,
        retry_after_seconds=never,
    )
    with filled(ApiServer()) as api:
        api.faults.hang = state == "hanging"
        api.faults.freeze = state == "frozen"
        if state == "throttled":
            api.faults.errors.append(Fault(429, "TooManyRequests", int(never)))
        watching = Watching(api, timing=timing)
        try:
            if state in ("watching", "away", "frozen"):
                watching.agrees()
                wait_for(lambda: bool(api.asked_for("pods", "watch")))
            if state == "hanging":
                wait_for(lambda: bool(api.asked_for("pods", "list")))
            if state == "away":
                api.away()
            if state in ("away", "throttled"):
                wait_for(lambda: watching.source.errors("pods") > 0)
        finally:
            began = time.monotonic()
            watching.source.stop()
        assert time.monotonic() - began < BOUND_SECONDS
        wait_for(lambda: not watching.source.alive("pods"))


def test_late_answers_are_consistent() -> None:
    with filled(ApiServer()) as api:
        api.lag_seconds = 0.3
        with Watching(api) as watching:
            watching.agrees()
            for number in range(23):
                api.put("pods", pod(f"late-{number}"))
            watching.agrees()
            names = [c.object["metadata"]["name"] for c in watching.table.changes("pods")]
            assert names == [f"late-{number}" for number in range(23)]


def test_watches_have_different_timeouts_and_bookmarks() -> None:
    long = replace(PATIENT, watch_seconds=(300.0, 600.0))
    with filled(ApiServer()) as api:
        api.watch_limit_seconds = 0.05
        with Watching(api, timing=long):
            wait_for(lambda: len(api.asked_for("pods", "watch")) >= 6)
        queries = [request.query for request in api.asked_for("pods", "watch")]
        assert len({query["timeoutSeconds"] for query in queries}) > 1
        assert all(300 <= int(query["timeoutSeconds"]) <= 600 for query in queries)
        assert {query["allowWatchBookmarks"] for query in queries} == {"true"}


def test_a_connection_is_used_again() -> None:
    with filled(ApiServer()) as api:
        opened: list[socket.socket] = []
        plain = api.opened

        def noted(connection: socket.socket) -> None:
            opened.append(connection)
            plain(connection)

        api.opened = noted  # type: ignore[method-assign]
        api.watch_limit_seconds = 0.1
        # however short a watch is for a busy machine, it is none that has failed
        with Watching(api, timing=replace(PATIENT, first_bound_seconds=0.0), access=access_to(api)):
            wait_for(lambda: len(api.asked_for("pods", "watch")) >= 4)
        assert len(opened) == 1
