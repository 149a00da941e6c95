# SPDX-License-Identifier: Apache-2.0
"""Resources of CRDs that not every cluster has: a 404 is no error, and checked again."""

import logging
import random
import time
from dataclasses import replace

import pytest

from podtally.kube.backoff import Backoff, ClientTiming
from tests.apiserver.server import ApiServer, Fault
from tests.apiserver.store import Object
from tests.unit.kube_support import BOUND_SECONDS, PATIENT, Watching, resource, wait_for

NAME = "adminnetworkpolicies"
ADMIN = resource(NAME)._replace(optional=True)
EAGER = replace(PATIENT, absent_seconds=(0.02, 0.1))
SLOW = replace(PATIENT, absent_seconds=(5000.0, 5000.0), error_max_seconds=0.05)


def policy(name: str) -> Object:
    return {"metadata": {"name": name}, "spec": {"priority": 1}}


def test_an_absent_resource_is_logged_once_and_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="podtally")
    with ApiServer() as api, Watching(api, [ADMIN], EAGER) as watching:
        source = watching.source
        wait_for(lambda: len(api.asked_for(NAME, "list")) >= 7)
        (page,) = watching.table.pages(NAME)
        assert (list(page.objects), page.first, page.last) == ([], True, True)
        assert (source.listed(NAME), source.absent(NAME)) == (True, True)
        assert (source.errors(NAME), source.lists(NAME)) == (0, 0)
        assert source.contact_ns(NAME) >= page.at_ns
        (record,) = caplog.records
        assert record.levelname == "INFO"
        assert f"has no {NAME}.policy.networking.k8s.io" in record.message


def test_a_crd_that_is_installed_later_is_found_and_one_that_goes_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="podtally")
    with ApiServer() as api, Watching(api, [ADMIN], EAGER) as watching:
        wait_for(lambda: watching.source.absent(NAME))
        api.install(NAME)
        for number in range(5):
            api.put(NAME, policy(f"policy-{number}"))
        wait_for(lambda: len(watching.table.versions(NAME)) == 5)
        watching.agrees(NAME)
        assert not watching.source.absent(NAME)
        assert caplog.records[-1].message == f"the Kubernetes API has {NAME} now"
        api.uninstall(NAME)
        wait_for(lambda: watching.source.absent(NAME))
        assert watching.table.versions(NAME) == {}
        api.install(NAME)
        api.put(NAME, policy("again"))
        watching.agrees(NAME)
        assert not watching.source.absent(NAME)
        assert watching.source.errors(NAME) == 0


def test_an_absent_resource_is_seldom_requested_and_still_fresh() -> None:
    with ApiServer() as api, Watching(api, [ADMIN, resource("pods")], SLOW) as watching:
        wait_for(lambda: watching.source.absent(NAME))
        asked = len(api.asked_for(NAME, "list"))
        before = watching.source.contact_ns(NAME)
        api.put("pods", {"metadata": {"namespace": "shop", "name": "a"}})
        watching.agrees("pods")
        assert watching.source.contact_ns(NAME) == watching.source.contact_ns("pods") > before
        api.away()
        last = watching.source.contact_ns("pods")
        wait_for(lambda: watching.source.errors("pods") > 2)
        assert watching.source.contact_ns(NAME) == last  # nor is it fresher
        assert len(api.asked_for(NAME, "list")) == asked == 2


def test_a_404_of_a_starting_server_removes_nothing() -> None:
    with ApiServer() as api:
        api.install(NAME)
        api.put(NAME, policy("a"))
        with Watching(api, [ADMIN], EAGER) as watching:
            watching.agrees(NAME)
            api.faults.errors.append(Fault(404, "NotFound", resource=NAME, times=4))
            api.restart()
            wait_for(lambda: not api.faults.errors[0].times)
            api.put(NAME, policy("b"))
            watching.agrees(NAME)
            pages = watching.table.pages(NAME)
            assert all(page.objects for page in pages)
            assert not watching.source.absent(NAME)


def test_a_missing_right_to_it_is_an_error_as_with_others(caplog: pytest.LogCaptureFixture) -> None:
    with ApiServer() as api:
        api.faults.errors.append(Fault(403, "Forbidden", resource=NAME, times=-1))
        with Watching(api, [ADMIN], EAGER) as watching:
            wait_for(lambda: watching.source.errors(NAME) >= 3)
            assert watching.table.pages(NAME) == []
            assert not watching.source.listed(NAME)
            wait_for(lambda: 'apiGroups: ["policy.networking.k8s.io"]' in caplog.text)
            assert watching.source.unsynced(NAME) == "forbidden"


def test_without_being_optional_a_404_is_an_error() -> None:
    with ApiServer() as api, Watching(api, [resource(NAME)], EAGER) as watching:
        wait_for(lambda: watching.source.errors(NAME) >= 3)
        assert not watching.source.absent(NAME)
        assert watching.table.pages(NAME) == []


def test_stop_is_prompt_while_waiting_for_the_next_request() -> None:
    with ApiServer() as api:
        watching = Watching(api, [ADMIN], SLOW)
        wait_for(lambda: watching.source.absent(NAME))
        began = time.monotonic()
        watching.source.stop()
        assert time.monotonic() - began < BOUND_SECONDS  # it would look again in an hour
        wait_for(lambda: not watching.source.alive(NAME))


def test_waits_for_an_absent_resource_grow_to_ten_minutes() -> None:
    first, last = ClientTiming().absent_seconds
    assert (first, last) == (60.0, 600.0)
    for seed in range(100):
        backoff = Backoff(ClientTiming(), random.Random(seed))
        waits = [backoff.next("absent", last, first) for _ in range(8)]
        assert all(wait <= min(last, first * 2**n) for n, wait in enumerate(waits))
        assert max(waits) > 120
