# SPDX-License-Identifier: Apache-2.0
"""The history's rows: their sums are those of the counters, whatever happens between."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from podtally.identity.model import Endpoint
from podtally.identity.name_table import Names
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.metrics.families import BOOKS, FLOWS
from podtally.ledger.recording import history_rows
from podtally.ledger.recording.history_rows import MINUTE_NS, OTHER_PORT, Batch, RowLabels
from tests.unit.rows import (
    ACK,
    FIN,
    FLAGS,
    RST,
    SECOND,
    SYN,
    TCP,
    UDP,
    Flow,
    accounts_of,
    book,
    from_here,
    names,
    to_here,
)

WALL_NS = 1_700_000_000 * SECOND  # 20 s before a minute begins
DIRECTIONS = ("egress", "ingress")
WEB = Endpoint("shop", "web-0", "web", "Deployment", "static", uid="web-uid")
LATE = Endpoint("?", "?", "?", "?", "?", final=False)

Sums = Counter[tuple[str, ...]]


def make(stream: str = "stream") -> Ledger:
    return Ledger(FLAGS, Limits(10_000, 10_000, 300 * SECOND, history=stream), keep_closed=True)


def present(who: Names, now_ns: int) -> EpochContext:
    return EpochContext(who, now_ns, wall_ns=WALL_NS + now_ns)


def turn(ledger: Ledger, flows: Sequence[Flow], who: Names, now_ns: int) -> None:
    if flows:
        book(ledger, present(who, now_ns), flows, now_ns)
    ledger.settle(present(who, now_ns), [])


def rows_of(batch: Batch) -> Iterator[tuple[RowLabels, history_rows.HistoryRows]]:
    for i, label in enumerate(batch.rows.label.tolist()):
        yield batch.labels[label], batch.rows.take(np.array([i]))


def open_batch(ledger: Ledger) -> Batch:
    return ledger.recorder.open_minute(ledger.connections.columns, ledger.pending.held)


def by_interface(batches: Sequence[Batch]) -> Sums:
    sums: Sums = Counter()
    for batch in batches:
        for label, row in rows_of(batch):
            account = "other" if label.account == "other" else label.account
            for i, direction in enumerate(DIRECTIONS):
                sums[label.interface, direction, account] += int(row.bytes[0, i])
    return +sums


def by_workload(batches: Sequence[Batch]) -> Sums:
    sums: Sums = Counter()
    for batch in batches:
        for label, row in rows_of(batch):
            for i, direction in enumerate(DIRECTIONS):
                key = (label.namespace, label.workload, label.peer_kind, label.verdict, direction)
                if label.account == "flows":
                    sums[key] += int(row.bytes[0, i])
    return +sums


def books(ledger: Ledger) -> Sums:
    sums: Sums = Counter()
    for labels, row in zip(*ledger.view()[BOOKS], strict=True):
        for account, value in zip(("flows", "other", "overflow"), row.tolist(), strict=True):
            sums[labels.interface, labels.direction, account] += value
    return +sums


def series(ledger: Ledger) -> Sums:
    sums: Sums = Counter()
    for each, row in zip(*ledger.view()[FLOWS], strict=True):
        key = (each.namespace, each.workload, each.peer_kind, each.verdict, each.direction)
        sums[key] += int(row[0])
    return +sums


class Life:
    """A random life of one ledger: traffic, late names, renamed interfaces, restarts."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ledger = make()
        self.now_ns = 5 * SECOND
        self.others: Counter[tuple[int, int]] = Counter()
        self.ports = 1000
        self.alive: list[Flow] = []
        self.endpoints = {7: WEB, 9: LATE, 11: WEB._replace(name="web-1", uid="other-uid")}
        self.batches: list[Batch] = []
        self.at_minute: dict[int, Sums] = {}
        for ifindex in self.endpoints:
            self.ledger.interfaces.appeared(ifindex, f"veth{ifindex}", (0, 0))
            self.ledger.interfaces.attached(ifindex, True, (0, 0))

    def step(self) -> None:
        r = self.random
        before = (WALL_NS + self.now_ns) // MINUTE_NS
        self.now_ns += r.choice((1, 1, 1, 7, 31)) * SECOND
        if (WALL_NS + self.now_ns) // MINUTE_NS != before:
            self.at_minute[before] = books(self.ledger)
        self._change()
        who = names(self.endpoints)
        flows = {flow.fingerprint: flow for flow in self._flows()}
        context = present(who, self.now_ns)
        if flows:
            book(self.ledger, context, list(flows.values()), self.now_ns)
        ifindex = r.choice(list(self.endpoints))
        self.others[ifindex, r.randrange(2)] += r.randrange(1000)
        amounts = {key: (value, value // 3, value // 60, 1) for key, value in self.others.items()}
        self.ledger.book_kernel_accounts(accounts_of(amounts))
        gone = [ifindex] if r.random() < 0.03 and len(self.endpoints) > 1 else []
        self.ledger.settle(context, gone)
        for each in gone:
            self.ledger.let_go(each)
            self.ledger.counter_deltas.closed(each)
            del self.endpoints[each]
            self.alive = [flow for flow in self.alive if flow.ifindex != each]
            for direction in (0, 1):
                self.others.pop((each, direction), None)
        self._restart()

    def _change(self) -> None:
        r = self.random
        if r.random() < 0.1:
            ifindex = r.choice(list(self.endpoints))
            named = r.random() < 0.5
            self.endpoints[ifindex] = WEB._replace(name=f"web-{r.randrange(9)}") if named else LATE
            self.ledger.rename([ifindex])
        if r.random() < 0.05:
            self.ledger.interfaces.renamed(r.choice(list(self.endpoints)), f"if{r.randrange(99)}")
        if r.random() < 0.05:
            fresh = 20 + self.ports
            self.endpoints[fresh] = r.choice((WEB, LATE))
            self.ledger.interfaces.appeared(fresh, f"veth{fresh}", (0, 0))
            self.ledger.interfaces.attached(fresh, True, (0, 0))

    def _flows(self) -> list[Flow]:
        r = self.random
        for _ in range(r.randrange(8)):
            self.ports += 1
            flow = Flow(
                remote=f"203.0.113.{r.randrange(4)}",
                local_port=self.ports,
                protocol=r.choice((TCP, UDP)),
                ifindex=r.choice(list(self.endpoints)),
                seen=r.choice((from_here(SYN), 0, to_here(SYN))),
                first_seen_ns=self.now_ns - 1,
            )
            self.alive.append(flow)
        some = [flow for flow in self.alive if r.random() < 0.3]
        flags = (0, from_here(FIN | ACK) | to_here(FIN | ACK), from_here(RST), from_here(SYN))
        return [
            flow._replace(
                bytes=(r.randrange(9999), r.randrange(9999)),
                packets=(r.randrange(1, 9), r.randrange(9)),
                seen=flow.seen | r.choice(flags),
            )
            for flow in some
        ]

    def _restart(self) -> None:
        """Take batches as a store would, and sometimes go on from the checkpoint."""
        if self.random.random() < 0.5:
            for batch in self.ledger.recorder.outbox:
                self.batches.append(batch)
                self.ledger.recorder.taken(batch.stream, batch.number)
        if self.random.random() < 0.1:
            after = make("another stream")
            after.load(self.ledger.save(), self.now_ns)
            self.ledger = after

    def all(self) -> list[Batch]:
        return [*self.batches, *self.ledger.recorder.outbox]


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))]
)
def test_sums_are_those_of_the_counters(seed: int) -> None:
    life = Life(seed)
    for _ in range(100):
        life.step()
    ledger, written = life.ledger, life.all()
    numbers = [batch.number for batch in written]
    assert numbers == list(range(len(numbers)))
    assert {batch.stream for batch in written} == {"stream"}
    # End the wait for names, so that nothing is in neither.
    for _ in range(3):
        life.now_ns += 61 * SECOND
        turn(life.ledger, [], names(life.endpoints), life.now_ns)
    assert not len(ledger.pending)
    written = life.all()
    assert by_interface([*written, open_batch(ledger)]) == books(ledger)
    assert by_workload([*written, open_batch(ledger)]) == series(ledger)
    # Minute by minute: the growth of the books between the minutes' ends.
    minutes: dict[int, Sums] = defaultdict(Counter)
    for batch in written:
        for minute in np.unique(batch.rows.minute).tolist():
            only = batch._replace(rows=batch.rows.take(batch.rows.minute == minute))
            minutes[minute].update(by_interface([only]))
    total: Sums = Counter()
    for minute in sorted(life.at_minute):
        total.update(minutes.pop(minute, Counter()))
        assert +total == life.at_minute[minute], minute


def test_a_long_connection_is_in_every_minute_in_which_it_moved() -> None:
    ledger, who = make(), names({7: WEB})
    flow = Flow(seen=from_here(SYN) | to_here(SYN | ACK), bytes=(23, 46), first_seen_ns=SECOND)
    for second in (2, 3, 85, 200, 203, 290):
        turn(ledger, [flow], who, second * SECOND)
    first, second_, third = ledger.recorder.outbox
    seconds = [
        [
            ((each.rows.first_ns - WALL_NS) / SECOND).tolist(),
            ((each.rows.last_ns - WALL_NS) / SECOND).tolist(),
        ]
        for each in (first, second_, third)
    ]
    assert seconds == [[[1.0], [3.0]], [[85.0], [85.0]], [[200.0], [203.0]]]
    assert [each.rows.connections.tolist() for each in (first, second_, third)] == [[1], [0], [0]]
    assert [each.rows.bytes.tolist() for each in (first, third)] == [[[46, 92]], [[46, 92]]]
    [label] = first.labels
    assert label._replace(verdict="") == RowLabels(
        interface="ifindex 7",
        account="flows",
        namespace="shop",
        pod="web-0",
        uid="web-uid",
        workload="web",
        workload_kind="Deployment",
        peer_kind="external",
        peer_workload="office",
        scope="internet",
    )
    assert (first.rows.port.tolist(), first.rows.protocol.tolist()) == ([443], [TCP])


def test_what_became_of_a_connection() -> None:
    """As far as it is decided when the minute ends."""
    ledger, who = make(), names({7: WEB})
    flow = Flow(seen=from_here(SYN), first_seen_ns=41 * SECOND)
    turn(ledger, [flow, flow._replace(ifindex=9)], who, 42 * SECOND)
    for second in (60, 102):
        turn(ledger, [], who, second * SECOND)
    [batch] = ledger.recorder.outbox
    assert {label.outcome for label in batch.labels} == {"unanswered"}


def test_client_ports_make_one_conversation() -> None:
    ledger, who = make(), names({7: WEB})
    flows = [Flow(local_port=2000 + i, seen=from_here(SYN)) for i in range(23)]
    turn(ledger, flows, who, 2 * SECOND)
    turn(ledger, [], who, 62 * SECOND)
    [batch] = ledger.recorder.outbox
    assert batch.rows.connections.tolist() == [23]
    assert batch.rows.bytes.tolist() == [[23 * 23, 0]]


def test_a_name_that_comes_late_names_earlier_minutes() -> None:
    ledger = Ledger(FLAGS, Limits(10_000, 10_000, 1, 3600 * SECOND, history="stream"))
    flow = Flow(seen=from_here(SYN), first_seen_ns=SECOND)
    turn(ledger, [flow], names({7: LATE}), 2 * SECOND)
    turn(ledger, [flow], names({7: LATE}), 61 * SECOND)
    again = Ledger(FLAGS, Limits(10_000, 10_000, 1, 3600 * SECOND, history="another"))
    again.load(ledger.save(), 61 * SECOND)
    again.rename([7])
    turn(again, [], names({7: WEB}), 62 * SECOND)
    turn(again, [], names({7: WEB}), 162 * SECOND)
    minute = (WALL_NS + 2 * SECOND) // MINUTE_NS
    [batch] = again.recorder.outbox
    assert sorted(batch.rows.minute.tolist()) == [minute, minute + 1]
    assert {label.workload for label in batch.labels} == {"web"}
    assert batch.rows.bytes.sum() == 46


def test_a_scan_of_one_endpoint_is_bounded_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_rows, "MAX_ROWS", 23)
    ledger, who = make(), names({7: WEB, 9: WEB._replace(name="web-1", uid="1")})
    scan = [
        Flow(
            remote=f"198.18.{i // 250}.{i % 250}",
            remote_port=1 + i,
            seen=from_here(SYN),
            bytes=(i, 0),
        )
        for i in range(500)
    ]
    turn(ledger, [*scan, Flow(ifindex=9, seen=from_here(SYN))], who, 2 * SECOND)
    turn(ledger, [], who, 62 * SECOND)
    [batch] = ledger.recorder.outbox
    other = batch.rows.port == OTHER_PORT
    assert np.count_nonzero(~other) == 23 + 1  # the other endpoint's row keeps its address
    assert batch.rows.bytes.sum() == sum(range(500)) + 23
    assert sorted(batch.rows.bytes[~other].sum(axis=1).tolist())[-1] == 499
    assert not batch.rows.address[other].any()


def test_without_a_stream_nothing_is_recorded() -> None:
    ledger, who = make(""), names({7: WEB})
    for second in (2, 62, 122):
        turn(ledger, [Flow(seen=from_here(SYN))], who, second * SECOND)
    assert not ledger.recorder.outbox
    later = make("stream")
    later.load(ledger.save(), 122 * SECOND)
    turn(later, [Flow(bytes=(7, 0))], who, 123 * SECOND)
    turn(later, [], who, 190 * SECOND)
    [batch] = later.recorder.outbox  # what was counted before is not in it
    assert batch.rows.bytes.tolist() == [[7, 0]]


def test_the_oldest_batches_are_lost_when_no_store_takes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("podtally.ledger.recording.recorder.MAX_OUTBOX_ROWS", 3)
    ledger, who = make(), names({7: WEB})
    for minute in range(6):
        turn(ledger, [Flow(seen=from_here(SYN))], who, (2 + 60 * minute) * SECOND)
    assert [batch.number for batch in ledger.recorder.outbox] == [2, 3, 4]
    assert ledger.recorder.lost_rows == 2
