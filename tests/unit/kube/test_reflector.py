# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes client against a server with all faults that real servers have."""

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from podtally.kube.access import Access, ApiServerAddress
from podtally.kube.credentials import CredentialData, FileCredentials
from tests.apiserver.server import ApiServer, Fault
from tests.apiserver.store import Object
from tests.unit.kube.kube_reflector_support import filled
from tests.unit.kube_support import (
    BOUND_SECONDS,
    PATIENT,
    QUICK,
    Watching,
    pod,
    resource,
    wait_for,
)


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
        api.restart()  # once more, too short to be reported
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
