# SPDX-License-Identifier: Apache-2.0
"""The account of a connection: an interface, and the values of its labels.

Connections with the same labels on the same interface share an account.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.ledger.connections.connections import INITIATOR_ENDPOINT, INITIATOR_PEER
from podtally.ledger.series.label_sets import (
    OTHER,
    UNKNOWN,
    CandidateLabels,
    DeniedLabels,
    ExpiredLabels,
    ExposedLabels,
    FlowLabels,
    SpoofedLabels,
    UndecidedLabels,
    UnknownLabels,
    protocol_name,
)

NO_PORT = 0
UNKNOWN_PORT = -1  # the initiator is unknown, so the server is, too
LIMITED_PORT = -2
WAITING_PORT = -3
FORWARDED_PORT = -4
MANY_PORT = -5  # one of more ports or peers than have series of their own
MANY_PROTOCOLS = 255  # (reserved, RFC 5237) with MANY_PORT: a rare protocol
SHOWN_PROTOCOLS = (1, 6, 17, 58, 132)  # others are "other" where peers are
FLOODED_PORT = -6
GROUP_PORT = -7
APART = (WAITING_PORT, FORWARDED_PORT, FLOODED_PORT)  # ports of accounts without series


class PeerBackend(NamedTuple):
    """The backend behind a Service's address, as far as it is known."""

    namespace: str
    workload: str
    port: int  # the pod's; NO_PORT if it is not known


class Judgement(NamedTuple):
    """The judgement of policy on a connection, in values of the metrics' labels."""

    verdict: str = UNKNOWN
    direction: str = ""  # of the connection, for the families that show it
    policy: str = ""  # that denies it at the endpoint; "" if only the peer's policies do
    cause: str = ""  # why the verdict is unknown
    exposed: bool = False  # it comes from outside, and no Ingress or Service declares it
    candidate: str = ""  # the verdict with the candidates, if it differs
    candidate_policy: str = ""
    undecided: bool = False  # policies isolate the endpoint, and its verdict is unknown
    foreign: bool = False  # sent from an address that is not the endpoint's
    allowed_by: str = ""  # the policy that allows it, where policies isolate the endpoint
    strict: str = ""  # the endpoint's verdict where DNS answers end with their TTL, if it differs
    by_expired: str = ""  # the policy that allows it by an answer that had expired
    peer_policy: str = ""  # that denies it at the peer, if the endpoint's policies do not


UNJUDGED = Judgement()


class Account(NamedTuple):
    """An interface's slot, and the labels that its flows have."""

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
    pod: str = ""  # on a shared interface (the host's): the pod that this adds to
    backend: PeerBackend | None = None
    judgement: Judgement = UNJUDGED
    endpoint: str = ""  # the name of the endpoint, whatever the labels say
    endpoint_namespace: str = ""
    limited_scope: str = ""  # the scope, where the series limit replaces the label
    peer_domain: str = ""  # of a peer outside
    uid: str = ""  # of the endpoint, if it is a pod
    nat: bool = False  # its traffic passes a NAT gateway

    @property
    def distance(self) -> str:
        """The scope, for prices."""
        return self.limited_scope or self.scope

    @property
    def verdict(self) -> str:
        return self.judgement.verdict


def with_any_port(account: Account) -> Account:
    """Return the account of a peer's ports beyond those with series of their own."""
    backend = account.backend and account.backend._replace(port=NO_PORT)
    return account._replace(port=MANY_PORT, backend=backend)


def with_any_peer(account: Account) -> Account:
    """Return the account of peers beyond those with series of their own.

    Workload, scope and verdict stay exact.
    """
    return account._replace(
        peer_kind=OTHER,
        peer_namespace=OTHER,
        peer_workload=OTHER,
        protocol=account.protocol if account.protocol in SHOWN_PROTOCOLS else MANY_PROTOCOLS,
        port=MANY_PORT,
        backend=None,
        peer_domain=OTHER,
    )


def overflow_account(account: Account) -> Account:
    """Return the account that replaces one without room; its pod's total stays exact."""
    return Account(
        slot=account.slot,
        namespace=account.namespace if account.pod else OTHER,
        workload=OTHER,
        workload_kind=OTHER,
        peer_kind=OTHER,
        peer_namespace=OTHER,
        peer_workload=OTHER,
        scope=OTHER,
        protocol=0,
        port=LIMITED_PORT,
        pod=account.pod,
        judgement=account.judgement._replace(verdict=OTHER),  # other families keep the rest
        endpoint=account.endpoint,
        endpoint_namespace=account.endpoint_namespace,
        limited_scope=account.distance,
        peer_domain=OTHER,
        uid=account.uid,
        nat=account.nat,
    )


def waiting(slot: int) -> Account:
    """Return the account of an interface's connections that wait for a name."""
    return Account(slot, *("",) * 7, 0, WAITING_PORT)


def forwarded(slot: int) -> Account:
    """Return the account of traffic that passes an uplink for other interfaces, which book it."""
    return Account(slot, *("",) * 7, 0, FORWARDED_PORT)


def flooded(slot: int) -> Account:
    """Return the account of frames that a bridge floods, for addresses of others."""
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
        peer_domain=account.peer_domain,
    )


def denied_labels(account: Account) -> DeniedLabels | None:
    judgement = account.judgement
    return _labels_of_policy(account, judgement.policy) if judgement.policy else None


def unknown_labels(account: Account) -> UnknownLabels | None:
    cause = account.judgement.cause
    return UnknownLabels(cause) if cause else None


def undecided_labels(account: Account) -> UndecidedLabels | None:
    judgement = account.judgement
    if not judgement.undecided:
        return None
    return UndecidedLabels(
        namespace=account.namespace,
        workload=account.workload,
        direction=judgement.direction,
        peer_kind=account.peer_kind,
        protocol=protocol_of(account),
        cause=judgement.cause,
    )


def expired_labels(account: Account) -> ExpiredLabels | None:
    judgement = account.judgement
    if not judgement.by_expired:
        return None
    return ExpiredLabels(
        namespace=account.namespace,
        workload=account.workload,
        protocol=protocol_of(account),
        port=port_name(account.port),
        policy=judgement.by_expired,
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
        peer_domain=account.peer_domain,
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
    initiator: NDArray[np.uint8], local_port: NDArray[np.uint16], remote_port: NDArray[np.uint16]
) -> NDArray[np.int64]:
    """Return the server's port, never the client's; UNKNOWN_PORT if it is not known. (n,)"""
    server = np.where(initiator == INITIATOR_ENDPOINT, remote_port, local_port).astype(np.int64)
    server[(initiator != INITIATOR_ENDPOINT) & (initiator != INITIATOR_PEER)] = UNKNOWN_PORT
    return server
