# SPDX-License-Identifier: Apache-2.0
"""Recordings of a real cluster, replayed by the test server and read through the client."""

import json

import pytest

from podtally.kube.http import ApiError, Client
from tests.apiserver.recordings import PLAYED, RECORDINGS, Player, listed, watched
from tests.apiserver.server import ApiServer
from tests.apiserver.store import KINDS, Object, key_of
from tests.unit.kube_support import PATIENT, QUICK, Watching, access_to, resource, wait_for

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="no ../shared/k8s-recordings")


@pytest.mark.parametrize("disturbed", [False, True])
def test_the_recordings_end_as_the_cluster_did(disturbed: bool) -> None:
    with ApiServer() as api:
        player = Player(api.store)
        watched_ifindexes = [resource(name) for name in PLAYED]
        with Watching(api, watched_ifindexes, QUICK if disturbed else PATIENT) as watching:
            watching.agrees("pods")
            for at in range(0, 200, 20):
                player.play_until(at)
                if disturbed:
                    api.restart(lose_history=at % 40 == 0)
            for name in PLAYED:
                watching.agrees(name)
                end = {key_of(item): item for item in listed(name, "list.end")}
                there = {key: whole(name, item) for key, item in watching.table.there[name].items()}
                assert there == end, name


def whole(name: str, item: Object) -> Object:
    """Return an item with its kind, which items of a list lack."""
    return {"kind": KINDS[name].kind, "apiVersion": KINDS[name].api_version} | item


def test_a_watch_of_a_replay_gets_what_was_recorded() -> None:
    with ApiServer() as api:
        player = Player(api.store, ("pods",))
        chosen = resource("pods", "spec.nodeName=node1")
        with Watching(api, [chosen], PATIENT) as watching:
            wait_for(lambda: watching.source.listed("pods"))
            player.play(factor=200.0)
            recorded = [(e.type, e.object) for e in watched("pods.node1")]
            wait_for(lambda: len(watching.table.changes("pods")) >= len(recorded))
            heard = [(c.kind, c.object) for c in watching.table.changes("pods")]
            # an unscheduled pod is no pod of the node: it is ADDED when it is bound, in both
            assert heard == recorded


@pytest.mark.parametrize(
    "name",
    [
        "401.bad-token",
        "404.no-such-resource",
        "410.list.expired-continue",
        "504.future-version.list",
    ],
)
def test_recorded_errors_are_replayed(name: str) -> None:
    """The test server's Status objects are those of a real one, as far as a client reads them."""
    recorded = json.loads((RECORDINGS / "errors" / f"{name}.json").read_text())
    with ApiServer(authorizations={"Bearer right"}) as api:
        api.store.compact(1_000)
        asked = recorded["request"]
        if "continue=" in asked:
            asked = "/api/v1/pods?limit=3&continue=NTMwIDM"  # version 530, from the fourth on
        token = "wrong" if recorded["status"] == 401 else "right"
        client = Client(access_to(api, token), QUICK)
        with pytest.raises(ApiError) as caught:
            client.get(asked, "application/json")
        status = caught.value.status
        assert (status.code, status.reason) == (recorded["status"], recorded["body"]["reason"])
        assert recorded["body"]["message"].startswith(status.message[:55])
