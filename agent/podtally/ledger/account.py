# SPDX-License-Identifier: Apache-2.0
"""What a connection is booked under: an interface, and what its labels show.

Connections share an account if they differ in nothing that a label shows.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections import BEGAN_HERE, BEGAN_THERE
from podtally.ledger.label_sets import (
    OTHER,
    UNKNOWN,
    CandidateLabels,
    DeniedLabels,
    ExposedLabels,
    FlowLabels,
    SpoofedLabels,
    UndecidedLabels,
    UnknownLabels,
    protocol_name,
)

NO_PORT = 0
UNKNOWN_PORT = -1  # who began the connection is not known, so neither is whose port is whose
LIMITED_PORT = -2
WAITING_PORT = -3
FORWARDED_PORT = -4
MANY_PORT = -5  # one of more ports or peers than are shown one by one
MANY_PROTOCOLS = 255  # (reserved, RFC 5237) with MANY_PORT: one of those that few use
SHOWN_PROTOCOLS = (1, 6, 17, 58, 132)  # the rest is "other" where peers are
FLOODED_PORT = -6
GROUP_PORT = -7
APART = (WAITING_PORT, FORWARDED_PORT, FLOODED_PORT)  # ports of accounts that are in no series


class PeerBackend(NamedTuple):
    """Who answers behind a Service's address, as far as that is known."""

    namespace: str
    workload: str
    port: int  # the pod's own; NO_PORT if it is not known


class Judgement(NamedTuple):
    """What policy says of a connection, in the words of the metrics' labels."""

    verdict: str = UNKNOWN
    direction: str = ""  # of the connection, where a series below shows it
    policy: str = ""  # what denies it at our end; "" where it is denied at the other end only
    cause: str = ""  # why it is unknown
    exposed: bool = False  # it comes from outside, and nothing declares that it may
    candidate: str = ""  # the verdict if the candidates were applied, where that is another
    candidate_policy: str = ""
    missed: bool = False  # policies isolate our end, and yet its verdict is unknown
    foreign: bool = False  # it is sent from an address that is not the endpoint's


UNJUDGED = Judgement()


class Account(NamedTuple):
    """What makes an account: an interface's slot, and the labels that its flows have."""

    slot: int
    namespace: str
    workload: str
    workload_kind: str
    peer_kind: str
    peer_namespace: str
    peer_workload: str
    scope: str
    protocol: int
    port: int  # the server's; NO_PORT, UNKNOWN_PORT
    pod: str = ""  # on an interface that several share (the host's): whose total this adds to
    backend: PeerBackend | None = None
    judgement: Judgement = UNJUDGED
    endpoint: str = ""  # whose it is by name and namespace, whatever the labels say
    endpoint_namespace: str = ""
    limited_scope: str = ""  # how far it goes, where the series limit takes that from the label

    @property
    def distance(self) -> str:
        """The scope: what a price is of."""
        return self.limited_scope or self.scope

    @property
    def verdict(self) -> str:
        return self.judgement.verdict


def with_any_port(account: Account) -> Account:
    """The account of connections to more ports of a peer than are shown one by one."""
    backend = account.backend and account.backend._replace(port=NO_PORT)
    return account._replace(port=MANY_PORT, backend=backend)


def with_any_peer(account: Account) -> Account:
    """The account of connections to more peers than are shown one by one: who has them, how
    far they go and what policy says stays exact.
    """
    return account._replace(
        peer_kind=OTHER,
        peer_namespace=OTHER,
        peer_workload=OTHER,
        protocol=account.protocol if account.protocol in SHOWN_PROTOCOLS else MANY_PROTOCOLS,
        port=MANY_PORT,
        backend=None,
    )


def overflow_account(account: Account) -> Account:
    """Where an account goes for which there is no series; its pod's total stays its own."""
    others = (OTHER,) * 6
    namespace = account.namespace if account.pod else OTHER
    judgement = account.judgement._replace(verdict=OTHER)  # the rest of it has tables of its own
    return Account(
        account.slot,
        namespace,
        *others,
        0,
        LIMITED_PORT,
        account.pod,
        None,
        judgement,
        account.endpoint,
        account.endpoint_namespace,
        account.distance,
    )


def waiting(slot: int) -> Account:
    """Where an interface's connections are booked until they can be named."""
    return Account(slot, *("",) * 7, 0, WAITING_PORT)


def forwarded(slot: int) -> Account:
    """What passes an uplink on its way to and from others, and is booked under them."""
    return Account(slot, *("",) * 7, 0, FORWARDED_PORT)


def flooded(slot: int) -> Account:
    """What a bridge sends to every port, for addresses that are not the endpoint's."""
    return Account(slot, *("",) * 7, 0, FLOODED_PORT)


def flow_labels(account: Account, direction: str) -> FlowLabels:
    return FlowLabels(
        namespace=OTHER if account.port == LIMITED_PORT else account.namespace,
        workload=account.workload,
        workload_kind=account.workload_kind,
        direction=direction,
        peer_kind=account.peer_kind,
        peer_namespace=account.peer_namespace,
        peer_workload=account.peer_workload,
        scope=account.scope,
        protocol=protocol_of(account),
        port=port_name(account.port),
        verdict=account.verdict,
    )


def denied_labels(account: Account) -> DeniedLabels | None:
    judgement = account.judgement
    return _labels_of_policy(account, judgement.policy) if judgement.policy else None


def unknown_labels(account: Account) -> UnknownLabels | None:
    cause = account.judgement.cause
    return UnknownLabels(cause) if cause else None


def undecided_labels(account: Account) -> UndecidedLabels | None:
    judgement = account.judgement
    if not judgement.missed:
        return None
    return UndecidedLabels(
        namespace=account.namespace,
        workload=account.workload,
        direction=judgement.direction,
        peer_kind=account.peer_kind,
        protocol=protocol_of(account),
        cause=judgement.cause,
    )


def spoofed_labels(account: Account) -> SpoofedLabels | None:
    if not account.judgement.foreign:
        return None
    return SpoofedLabels(account.namespace, account.workload)


def exposed_labels(account: Account) -> ExposedLabels | None:
    if not account.judgement.exposed:
        return None
    return ExposedLabels(
        namespace=account.namespace,
        workload=account.workload,
        scope=account.scope,
        protocol=protocol_of(account),
        port=port_name(account.port),
    )


def candidate_labels(account: Account) -> CandidateLabels | None:
    judgement = account.judgement
    if not judgement.candidate:
        return None
    labels = _labels_of_policy(account, judgement.candidate_policy)
    return CandidateLabels(
        **labels._asdict(), verdict=judgement.verdict, candidate=judgement.candidate
    )


def _labels_of_policy(account: Account, policy: str) -> DeniedLabels:
    return DeniedLabels(
        namespace=account.namespace,
        workload=account.workload,
        direction=account.judgement.direction,
        peer_kind=account.peer_kind,
        peer_namespace=account.peer_namespace,
        peer_workload=account.peer_workload,
        protocol=protocol_of(account),
        port=port_name(account.port),
        policy=policy,
    )


def protocol_of(account: Account) -> str:
    many = account.port == MANY_PORT and account.protocol == MANY_PROTOCOLS
    return OTHER if many or account.port == LIMITED_PORT else protocol_name(account.protocol)


def port_name(port: int) -> str:
    names = {
        UNKNOWN_PORT: UNKNOWN,
        LIMITED_PORT: OTHER,
        MANY_PORT: OTHER,
        GROUP_PORT: str(NO_PORT),
    }
    return names.get(port, str(port))


def server_port(
    began: NDArray[np.uint8], local_port: NDArray[np.uint16], remote_port: NDArray[np.uint16]
) -> NDArray[np.int64]:
    """The port of whoever was asked, UNKNOWN_PORT if that is not known; never the client's. (n,)"""
    asked = np.where(began == BEGAN_HERE, remote_port, local_port).astype(np.int64)
    asked[(began != BEGAN_HERE) & (began != BEGAN_THERE)] = UNKNOWN_PORT
    return asked
