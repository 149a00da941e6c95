# SPDX-License-Identifier: Apache-2.0
"""Finds the accounts of many connections at once: who is at both ends, whose port it is, and
what policy says of it.

Where a name may still come, a connection waits under its interface's waiting account;
once patience has run out, it is booked under `unknown`.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.arrays.distinct import distinct
from podtally.identity.model import UNKNOWN_ENDPOINT, Endpoint
from podtally.identity.name_table import Names
from podtally.ledger import host_sockets, openers
from podtally.ledger.account import (
    GROUP_PORT,
    UNKNOWN_PORT,
    Account,
    flooded,
    forwarded,
    waiting,
)
from podtally.ledger.account_groups import Groups, Parts
from podtally.ledger.accounts import AccountTable
from podtally.ledger.connections import (
    BEGAN_HERE,
    BEGAN_SIDE,
    BEGAN_THERE,
    BEGAN_UNKNOWN,
    TCP,
    Flags,
)
from podtally.ledger.epoch_context import EpochContext
from podtally.ledger.event_matching import EventMatcher, JudgedConnections
from podtally.ledger.events import NO_EVENT, Events
from podtally.ledger.interfaces import Interfaces
from podtally.ledger.judge_input import JudgeInput, exposures, judge_input, may_come_in, undeclared
from podtally.ledger.new_connections import NewConnections
from podtally.ledger.ownership import FLOODED, FOREIGN, GROUP, OWN, Ownership, Packets
from podtally.ledger.peer_columns import UNKNOWN_PEER, PeerColumns, PeerKind
from podtally.ledger.peers import PeerFinder
from podtally.ledger.shares import rank
from podtally.ledger.verdicts import VerdictStage

_CGROUP_BITS = 48
_ELSEWHERE = 1 << _CGROUP_BITS  # beside a cgroup: its socket has an address that is not the host's
_SLOT_SHIFT = _CGROUP_BITS + 1
MOST_WAITING = 4096  # connections of one interface that wait for names; the rest go without
_PROTOCOL_BITS = 8
_SETTLE_NS = 3_000_000_000  # an address that a pod has just got is heard of within
_TO_A_GROUP = ("external", "", "multicast", "private")  # as a peer in the labels


class AttributedConnections(NamedTuple):
    """What connections are booked under. (n,) each"""

    account: NDArray[np.int64]
    event: NDArray[np.int32]


class ExplainedConnections(NamedTuple):
    """Of connections, in words."""

    reasons: Sequence[str]  # of their verdicts
    exposures: Sequence[str]  # how they are declared to be exposed


class LocalEndpoints(NamedTuple):
    """Who is at our end."""

    who: NDArray[np.int64]  # (n,) places in _Learnt.whos
    final: NDArray[np.bool_]
    passing: NDArray[np.bool_]  # through an uplink, from and to others
    kind: NDArray[np.int8]  # whether they are the endpoint's own: ``ownership``

    def take(self, index: NDArray[np.int64]) -> "LocalEndpoints":
        return LocalEndpoints._make(column[index] for column in self)


class AttributionSettings(NamedTuple):
    """``patience_ns``: how long a connection waits for its names."""

    patience_ns: int
    events: Events
    undeclared_events: bool = False
    by_pod: bool = False  # pods stand in the place of workloads
    forwarders: Sequence[str] = ()  # globs of workloads that send and receive for others


class _Learnt:
    """What stays as it is until names change, or an account is closed."""

    def __init__(self) -> None:
        self.whos: list[tuple[int, Endpoint]] = []  # with the slots of their interfaces
        self.final = np.zeros(0, np.bool_)  # of each
        self.party = np.zeros(0, np.int32)  # of each, for the judge
        self.is_pod = np.zeros(0, np.bool_)  # whether each has an interface of its own
        self.owning = np.zeros(0, np.int64)  # of each, for ``Ownership``
        self.forwards = np.zeros(0, np.bool_)  # whether each may send for others
        self.places: dict[int, int] = {}  # in ``whos``, by slot and cgroup
        self.groups = Groups()


class Attribution:
    """Over the interfaces and accounts of one ledger."""

    def __init__(
        self,
        interfaces: Interfaces,
        accounts: AccountTable,
        flags: Flags,
        settings: AttributionSettings,
    ) -> None:
        self.interfaces = interfaces
        self._accounts = accounts
        self._flags = flags
        self.patience_ns = settings.patience_ns
        self.judging = VerdictStage()
        self._noting = EventMatcher(settings.events, self.judging, settings.undeclared_events)
        self._by_pod = settings.by_pod
        self._forwarders = settings.forwarders
        self._remotes = PeerFinder(settings.by_pod)
        self._ownership = Ownership()
        self._learnt = _Learnt()
        self._learnt_of: tuple[Names | None, int, int] = (None, 0, 0)
        self._unknown_cgroups: set[int] = set()
        self._waiting = np.zeros(0, np.int64)  # how many wait, by slot
        self.name_timeouts = 0  # connections booked under `unknown` after their wait

    def take_unknown_cgroups(self) -> set[int]:
        """Cgroups that were met since this was last asked and are not in the table of names."""
        taken, self._unknown_cgroups = self._unknown_cgroups, set()
        return taken

    def learn(self, present: EpochContext) -> None:
        """Take in who there is and what is declared, without naming anybody."""
        self.judging.learn(present)
        self._ownership.learn(present.names)
        of = (present.names, self._accounts.closed, self.judging.version)
        if self._learnt_of != of:
            self._learnt, self._learnt_of = _Learnt(), of

    def name(
        self, flows: NewConnections, present: EpochContext, wait: bool = True
    ) -> AttributedConnections:
        """Accounts and events of connections; the loop is over what differs in a label.

        ``wait`` is False for those that are booked already, and cannot wait any more.
        """
        self.learn(present)
        slot = self.interfaces.slots(flows.key["ifindex"].astype(np.int64))
        here = self._here(slot, flows, present)
        openers.contest_mirrored(flows, here.kind == FOREIGN)
        there = self._remotes.find(flows, present)
        named = AttributedConnections(
            np.empty(len(slot), np.int64), np.full(len(slot), NO_EVENT, np.int32)
        )
        apart = here.passing | (here.kind == FLOODED)
        if wait:
            waits = self._waits(here, there, flows, slot, present.now_ns)
            if waits.any():
                named.account[waits] = self._one_a_slot(slot[waits], waiting, present.now_ns)
                apart = apart | waits
        for rows, make in ((here.passing, forwarded), (here.kind == FLOODED, flooded)):
            if rows.any():
                named.account[rows] = self._one_a_slot(slot[rows], make, present.now_ns)
        groups = np.flatnonzero(~apart & (here.kind == GROUP))
        if len(groups):
            named.account[groups] = self._of_groups(here.who[groups], flows.key[groups], present)
            apart = apart | (here.kind == GROUP)
        if not apart.any():
            return self._booked(flows, here, there, present)
        rest = np.flatnonzero(~apart)
        if len(rest):
            parts = (flows.take(rest), here.take(rest), there.take(rest))
            named.account[rest], named.event[rest] = self._booked(*parts, present)
        return named

    def explain(
        self, flows: NewConnections, verdicts: Sequence[str], present: EpochContext
    ) -> ExplainedConnections:
        """Why connections were given their verdicts, as far as that is still so."""
        self.learn(present)
        slot = self.interfaces.slots(flows.key["ifindex"].astype(np.int64))
        here, there = self._here(slot, flows, present), self._remotes.find(flows, present)
        ends = self._ends(flows, here, there)
        reasons = self.judging.reasons(ends, self.judging.judge(ends), verdicts)
        if present.exposure is None:
            return ExplainedConnections(reasons, [""] * len(reasons))
        outside = self._from_outside(ends, here)
        return ExplainedConnections(reasons, exposures(ends, outside, present.exposure))

    def _booked(
        self, flows: NewConnections, here: LocalEndpoints, there: PeerColumns, present: EpochContext
    ) -> AttributedConnections:
        """Accounts and events of those that neither wait nor only pass."""
        ends = self._ends(flows, here, there)
        outside = self._from_outside(ends, here)
        if present.exposure is not None:
            ends = ends._replace(exposed=undeclared(ends, outside, present.exposure))
        verdicts = self.judging.judge(ends)
        opened = np.where(verdicts.port_known, verdicts.opened, BEGAN_UNKNOWN)
        kinds = (there.kind, verdicts.judgement)
        known = self._learnt.groups
        groups, place = distinct(known.pack(here.who, kinds, ~there.final, flows.key, opened))
        account = self._accounts_of_groups(groups, there.kinds, present.now_ns)[place]
        whos = [endpoint for _, endpoint in self._learnt.whos]
        port = np.select(
            [opened == BEGAN_HERE, opened == BEGAN_THERE],
            [ends.peer_port, ends.here_port],
            UNKNOWN_PORT,
        )
        is_missed = self.judging.missed(verdicts)
        judged = JudgedConnections(
            ends, verdicts, is_missed, outside, here.who, flows.at_ns, port, whos
        )
        return AttributedConnections(account, self._noting.note(judged, present))

    def _ends(self, flows: NewConnections, here: LocalEndpoints, there: PeerColumns) -> JudgeInput:
        ends = judge_input(flows, self._learnt.party[here.who], there)
        unopened = (flows.key["protocol"] == TCP) & (flows.began & BEGAN_SIDE == BEGAN_UNKNOWN)
        under_way = openers.under_way(flows.key, flows.at_ns, self.interfaces)
        unparsed = np.uint64(self._flags.unparsed | self._flags.unparsed << self._flags.shift)
        bare = unopened & ~flows.has_data & (flows.seen & unparsed == 0)
        quiet = under_way & (flows.began == BEGAN_UNKNOWN) | bare
        return ends._replace(foreign=here.kind == FOREIGN, quiet=quiet)

    def _of_groups(
        self, who: NDArray[np.int64], key: NDArray[np.void], present: EpochContext
    ) -> NDArray[np.int64]:
        """Accounts of what came to multicast and broadcast addresses: a workload's in one series
        for each protocol, since it is not known who among those that it reaches has joined.
        """
        different, place = distinct(who << _PROTOCOL_BITS | key["protocol"])
        found = []
        for packed in different.tolist():
            slot, endpoint = self._learnt.whos[packed >> _PROTOCOL_BITS]
            account = Account(
                slot,
                endpoint.namespace,
                endpoint.name if self._by_pod else endpoint.workload,
                "Pod" if self._by_pod and endpoint.uid else endpoint.workload_kind,
                *_TO_A_GROUP,
                packed & (1 << _PROTOCOL_BITS) - 1,
                GROUP_PORT,
                endpoint=endpoint.name,
                endpoint_namespace=endpoint.namespace,
            )
            found.append(self._accounts.index_of(account, present.now_ns))
        return np.array(found, np.int64)[place]

    def _from_outside(self, ends: JudgeInput, here: LocalEndpoints) -> NDArray[np.bool_]:
        """What somebody outside the cluster began to a pod. (n,)"""
        found: NDArray[np.bool_] = may_come_in(ends.began) & self._learnt.is_pod[here.who]
        return found & self.judging.outside(ends.owner)

    def _accounts_of_groups(
        self, groups: NDArray[np.int64], kinds: list[PeerKind], now_ns: int
    ) -> NDArray[np.int64]:
        known = self._learnt.groups
        new = ~known.knows(groups)
        if new.any():
            groups[new], many = known.shared(groups[new], kinds, self._accounts.shares)
            self._accounts.limited += many
            fresh = np.unique(groups[new])
            fresh = fresh[~known.knows(fresh)]
            made = (self._account(each, kinds) for each in fresh.tolist())
            known.add(fresh, [self._accounts.index_of(each, now_ns) for each in made])
        return known.accounts(groups)

    def begin_waiting(self) -> None:
        """Count those that wait from zero; call before all of them are named again."""
        self._waiting = np.zeros(0, np.int64)

    def _waits(
        self,
        here: LocalEndpoints,
        there: PeerColumns,
        flows: NewConnections,
        slot: NDArray[np.int64],
        now_ns: int,
    ) -> NDArray[np.bool_]:
        """Whose names may still come. (n,)

        How long an endpoint may go without one is the directory's to say, which then calls
        it final; twice our patience is only the bound of that.
        """
        unsettled: NDArray[np.bool_] = (here.kind == FOREIGN) & (now_ns - flows.at_ns < _SETTLE_NS)
        unnamed: NDArray[np.bool_] = ~(here.final & there.final | here.passing)
        unnamed &= here.kind != FLOODED
        if not (unnamed.any() or unsettled.any()):
            return unnamed
        patience = np.where(here.final, self.patience_ns, 2 * self.patience_ns)
        waits: NDArray[np.bool_] = unnamed & (now_ns - flows.at_ns < patience) | unsettled
        self._bound(waits, slot)
        self.name_timeouts += int(np.count_nonzero(unnamed & ~waits))
        return waits

    def _bound(self, waits: NDArray[np.bool_], slot: NDArray[np.int64]) -> None:
        """Let no more than MOST_WAITING of each interface wait. (n,) each"""
        rows = np.flatnonzero(waits)
        short = max(0, len(self.interfaces) - len(self._waiting))
        self._waiting = np.pad(self._waiting, (0, short))
        late = self._waiting[slot[rows]] + rank(slot[rows]) >= MOST_WAITING
        waits[rows[late]] = False
        np.add.at(self._waiting, slot[rows[~late]], 1)

    def _here(
        self, slot: NDArray[np.int64], flows: NewConnections, present: EpochContext
    ) -> LocalEndpoints:
        """Pods by their interface; on the host's own interfaces, sockets by their cgroup."""
        mixed = slot << _SLOT_SHIFT
        passing = np.zeros(len(slot), np.bool_)
        shared = np.flatnonzero(self.interfaces.host[slot])
        if len(shared):
            found = host_sockets.of(flows.take(shared), present, self._remotes, self._flags)
            # Whoever asks again later finds it in the key.
            flows.key["cgroup_high"][shared] = found.cgroup >> 32
            flows.key["cgroup_low"][shared] = found.cgroup & 0xFFFFFFFF
            passing[shared] = found.passing
            mixed[shared] |= found.cgroup
            elsewhere = host_sockets.elsewhere(flows.take(shared), found, present, self._remotes)
            mixed[shared[elsewhere]] |= _ELSEWHERE
        different, place = distinct(mixed)
        places = [self._place(each, present.names) for each in different.tolist()]
        who = np.array(places, np.int64)[place]
        final, kind = self._learnt.final[who], np.full(len(slot), OWN, np.int8)
        rows = np.flatnonzero(self._learnt.is_pod[who] & final)
        packets = Packets(
            self._learnt.owning[who], flows.key["local_address"], flows.at_ns, flows.sent
        )
        kind[rows] = self._ownership.kinds(packets.take(rows), present.names, present.now_ns)
        kind[(kind != GROUP) & self._learnt.forwards[who]] = OWN
        return LocalEndpoints(who, final, passing, kind)

    def _place(self, mixed: int, names: Names) -> int:
        """In ``whos``: of an interface's endpoint, or of a socket's."""
        learnt = self._learnt
        place = learnt.places.get(mixed)
        if place is None:
            place = learnt.places[mixed] = len(learnt.whos)
            slot, cgroup = mixed >> _SLOT_SHIFT, mixed & (1 << _CGROUP_BITS) - 1
            endpoint: Endpoint | None = names.endpoint(int(self.interfaces.ifindex[slot]))
            if cgroup:
                endpoint = names.sockets.get(cgroup)
            if endpoint is not None and endpoint.uid and mixed & _ELSEWHERE:
                endpoint = endpoint._replace(host_network=False)  # macvlan, ipvlan: a pod's own
            if endpoint is None:
                self._unknown_cgroups.add(cgroup)
                endpoint = UNKNOWN_ENDPOINT._replace(final=False)
            learnt.whos.append((slot, endpoint))
            learnt.final = np.append(learnt.final, endpoint.final)
            shares = bool(self.interfaces.host[slot])
            learnt.party = np.append(learnt.party, np.int32(self.judging.number(endpoint)))
            learnt.is_pod = np.append(learnt.is_pod, not shares)
            learnt.owning = np.append(learnt.owning, self._ownership.number(endpoint))
            forwards = self._forwards(f"{endpoint.namespace}/{endpoint.workload}")
            learnt.forwards = np.append(learnt.forwards, forwards)
        return place

    def _forwards(self, workload: str) -> bool:
        return any(fnmatchcase(workload, pattern) for pattern in self._forwarders)

    def _one_a_slot(
        self, slot: NDArray[np.int64], make: Callable[[int], Account], now_ns: int
    ) -> NDArray[np.int64]:
        different, place = distinct(slot)
        found = [self._accounts.index_of(make(s), now_ns) for s in different.tolist()]
        return np.array(found, np.int64)[place]

    def _account(self, group: int, kinds: list[PeerKind]) -> Account:
        parts = Parts(group)
        slot, endpoint = self._learnt.whos[parts.here]
        if not endpoint.final:
            endpoint = UNKNOWN_ENDPOINT
        kind, judgement = self._learnt.groups.there(parts.there)
        remote = kinds[kind]
        account = Account(
            slot,
            endpoint.namespace,
            endpoint.name if self._by_pod else endpoint.workload,
            "Pod" if self._by_pod and endpoint.uid else endpoint.workload_kind,
            *(UNKNOWN_PEER if parts.late else remote.peer),
            parts.protocol,
            parts.port,
            endpoint.name if self.interfaces.host[slot] else "",
            remote.backend,
            self.judging.judgements[judgement],
            endpoint.name,
            endpoint.namespace,
        )
        return parts.account(account)
