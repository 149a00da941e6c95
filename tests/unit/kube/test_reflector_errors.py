# SPDX-License-Identifier: Apache-2.0
"""Errors of the API server, missing rights, and undecodable lines."""

import itertools
import logging
import socket
import time
from dataclasses import replace

import pytest

from podtally.kube.backoff import ClientTiming
from tests.apiserver.server import ApiServer, Fault
from tests.unit.kube.kube_reflector_support import filled
from tests.unit.kube_support import (
    BOUND_SECONDS,
    PATIENT,
    Watching,
    access_to,
    pod,
    resource,
    wait_for,
)


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


def test_a_missing_right_is_named_and_the_rest_works(caplog: pytest.LogCaptureFixture) -> None:
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
