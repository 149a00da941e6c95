# SPDX-License-Identifier: Apache-2.0
"""A cluster with API objects that tests write."""

from podtally.identity.cluster.state import Clocks, ClusterState
from podtally.identity.model import Claim, Owner
from podtally.identity.services import parse_address
from podtally.kube.model import Changed, ObjectPage
from podtally.kube.objects import RESOURCES
from tests.unit.kube_json import Json, list_of

DECODERS = {resource.name: resource for resource in RESOURCES}
SECOND = 1_000_000_000
WALL = 1_800_000_000
BOOT = 5000


def ns(at: float) -> int:
    return round((at + BOOT) * SECOND)


class Api:
    """Feeds objects to the ClusterState of the node ``here``; times in seconds from ``WALL``."""

    def __init__(self) -> None:
        self.cluster = ClusterState("here")
        self.claims: dict[tuple[str, str], list[Claim]] = {}

    def show(self, resource: str, *items: Json, at: float = 0.0) -> None:
        self.pages(resource, [items], at)

    def pages(self, resource: str, pages: list[tuple[Json, ...]], at: float) -> None:
        for number, items in enumerate(pages):
            objects = DECODERS[resource].decode_list(list_of(*items)).objects
            last = number == len(pages) - 1
            page = ObjectPage(resource, objects, number == 0, last, ns(at))
            self.cluster.apply(page, self.clocks(at))
        self.settle(at)

    def report(self, resource: str, kind: str, item: Json, at: float) -> None:
        (decoded,) = DECODERS[resource].decode_list(list_of(item)).objects
        self.cluster.apply(Changed(resource, kind, decoded, ns(at)), self.clocks(at))
        self.settle(at)

    def settle(self, at: float) -> None:
        self.cluster.settle(self.clocks(at))
        for key, claims in self.cluster.changed_claims():
            self.claims[key] = list(claims)

    def clocks(self, at: float) -> Clocks:
        return Clocks(round((WALL + at) * SECOND), ns(at))

    def owner(self, kind: str, uid: str) -> Owner:
        return self.claims[kind, uid][-1].owner


def packed(text: str) -> int:
    address = parse_address(text)
    assert address is not None
    return address
