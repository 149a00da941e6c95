# SPDX-License-Identifier: Apache-2.0
"""What the agent holds while pods come and go: bounded by what is there, not by what was."""

from collections import Counter
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import pytest

from podtally.identity import addresses
from podtally.identity.interface_endpoints import address_number
from podtally.identity.local.directory import Directory
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.metrics.families import FLOWS
from podtally.ledger.verdicts import policy_endpoints
from podtally.netlink.model import AddressesChanged
from podtally.policy.vector import endpoints as vector_endpoints
from tests.unit.rows import FLAGS, NETWORKS, SECOND, UDP, Flow, book

SINK = 2  # ifindex of the pod that stays
LIVES = 3  # epochs: pods at a time
EPOCH_NS = 10 * SECOND
NUMBERS = 200  # of addresses, which pods take in turn
START_NS = 1000 * SECOND
WALL_NS = 1_700_000_000 * SECOND
GRACE_NS = 60 * SECOND
SETTLED = 80  # pods: what is remembered of former ones is all there by then
PODS = 150
IDLE = 25  # epochs: until connections are over, and the grace
TOLERATED = 0.1  # of all: numbers of what is gone are reused when they are many


class Node:
    """A directory and a ledger; in each epoch a pod comes, talks with the sink, and one goes."""

    def __init__(self) -> None:
        self.directory = Directory((), NETWORKS)
        self.ledger = Ledger(FLAGS, Limits(10_000, 10_000, GRACE_NS, history="stream"))
        self.number = 0
        self._now_ns = START_NS
        self._appear(SINK, "sink", "10.98.0.2")

    def run(self, pods: int) -> None:
        for _ in range(pods):
            self._change()

    def rest(self, epochs: int) -> None:
        """Let epochs go by without traffic; no pod comes or goes."""
        for _ in range(epochs):
            self._epoch([], [])

    def present(self) -> range:
        """The pods that are there, by number."""
        return range(max(0, self.number - LIVES), self.number)

    def _change(self) -> None:
        number = self.number
        self.number += 1
        self._appear(*self._place(number))
        flows = [each for pod in self.present() for each in self._flows(pod)]
        gone = [self._place(number - LIVES)[0]] if number >= LIVES else []
        self._epoch(flows, gone)

    def _epoch(self, flows: list[Flow], gone: list[int]) -> None:
        self._now_ns += EPOCH_NS
        for ifindex in gone:
            self.directory.gone(ifindex, self._now_ns, removed=True)
        self.directory.refresh(self._now_ns)
        wall_ns = WALL_NS + self._now_ns
        context = EpochContext(self.directory.names, self._now_ns, wall_ns=wall_ns)
        if flows:
            book(self.ledger, context, flows, self._now_ns)
        self.ledger.settle(context, gone)
        self.ledger.close_books(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), self._now_ns)
        for ifindex in gone:
            self.ledger.let_go(ifindex)
        recorder = self.ledger.recorder
        recorder.taken("stream", max((each.number for each in recorder.outbox), default=0))
        self.ledger.save()
        self.ledger.view()
        self.ledger.expire(self.directory.names, self._now_ns)

    def _place(self, number: int) -> tuple[int, str, str]:
        return 10 + number, f"p{number}", f"10.99.{number % NUMBERS}.2"

    def _flows(self, number: int) -> Iterator[Flow]:
        ifindex, _, address = self._place(number)
        now_ns = self._now_ns
        pod = Flow("10.98.0.2", UDP, 9, 9, ifindex, address, bytes=(100, 100), packets=(1, 1))
        sink = Flow(address, UDP, 9, 9, SINK, "10.98.0.2", 1, bytes=(100, 100), packets=(1, 1))
        yield pod._replace(first_seen_ns=now_ns)
        yield sink._replace(first_seen_ns=now_ns)

    def _appear(self, ifindex: int, name: str, address: str) -> None:
        packed = address_number(address).to_bytes(16, "big")
        self.directory.appeared(ifindex, f"veth{ifindex}", name, host=False, at_ns=self._now_ns)
        self.directory.apply_addresses(AddressesChanged(ifindex, (packed,), self._now_ns))
        self.ledger.interfaces.appeared(ifindex, f"veth{ifindex}", (0, 0))
        self.ledger.interfaces.attached(ifindex, True, (0, 0))


def held(root: object) -> Counter[str]:
    """The objects, array rows and long texts that are reachable, by the path to them."""
    sizes: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, each = waiting.pop()
        if id(each) in seen or isinstance(each, type | ModuleType):
            continue
        seen.add(id(each))
        if isinstance(each, np.ndarray):
            sizes[path] += len(each) if each.ndim else 1
        elif isinstance(each, str | bytes):
            sizes[path] += len(each) // 100
        elif isinstance(each, dict):
            sizes[path] += len(each)
            waiting += [(f"{path}[]", part) for pair in each.items() for part in pair]
        elif isinstance(each, tuple | list | set | frozenset):
            sizes[path] += len(each)
            waiting += [(f"{path}[]", part) for part in each]
        elif isinstance(each, FunctionType | MethodType):
            cells = getattr(each, "__closure__", None) or ()
            waiting += [(f"{path}()", cell.cell_contents) for cell in cells]
            waiting.append((path, getattr(each, "__self__", None)))
        else:
            names = getattr(each, "__dict__", None) or {}
            slots = getattr(type(each), "__slots__", ())
            names = dict(names) | {s: getattr(each, s, None) for s in slots if s[:2] != "__"}
            waiting += [(f"{path}.{name}", part) for name, part in names.items()]
    return sizes


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    for module in (addresses, vector_endpoints, policy_endpoints):
        for name in ("_SPARE", "_SPARE_OWNERS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 8)
    return Node()


def test_former_pods_leave_nothing_behind(node: Node) -> None:
    node.run(SETTLED)
    before = held(node)
    node.run(PODS)
    grown = held(node) - before
    assert grown.total() <= TOLERATED * before.total(), grown.most_common(10)


def test_only_series_with_former_peers_go(node: Node) -> None:
    node.run(SETTLED)
    peers = {each.peer_workload for each in node.ledger.view()[FLOWS].labels}
    assert len(peers) <= IDLE + LIVES
    node.rest(IDLE)
    present = {each.peer_workload for each in node.ledger.view()[FLOWS].labels}
    assert present == {"sink", *(f"p{number}" for number in node.present())}
