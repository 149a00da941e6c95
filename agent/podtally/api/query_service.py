# SPDX-License-Identifier: Apache-2.0
"""Answers queries for endpoints, address owners, explanations and candidates.

Called from HTTP threads while the main thread works: it reads values that are replaced as a
whole, and changes none.
"""

import datetime
import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from podtally.api.dns_lookup import DnsLookup, SeenDns
from podtally.api.dns_schema import DnsQueries, NameAnswers
from podtally.api.dns_views import DnsViews
from podtally.api.explanation import explain_connection, parse_port
from podtally.api.flows import flows_reply
from podtally.api.name_lookup import is_domain_name, no_answer
from podtally.api.party_lookup import PartyLookup
from podtally.api.schema import (
    AddressOwner,
    AuditedPolicy,
    CandidateDeletion,
    CandidatePolicy,
    EndpointRow,
    Explanation,
    Flows,
)
from podtally.errors import PodtallyError
from podtally.history.access import HistoryAccess
from podtally.history.query_text import Prices, parse_query
from podtally.identity.interface_endpoints import InterfaceEndpoint, address_number
from podtally.identity.local.directory import Directory
from podtally.identity.model import FOREVER, Claim, Endpoint, Owner
from podtally.policy.cluster.model import connection_ends
from podtally.policy.explain.formatting import format_policy
from podtally.policy.load.candidates import has_candidates, missing_deletions, with_candidates
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.policy.model import PolicyEndpoint

_WORD = (1 << 64) - 1


class QueryService:
    """``QuerySource`` over one directory; ``declared`` returns the policies in force."""

    def __init__(
        self,
        directory: Directory,
        declared: Callable[[], DeclaredPolicies],
        dns: Callable[[], SeenDns] = SeenDns,
        history: HistoryAccess | None = None,
        prices: Prices = ({}, {}),
    ) -> None:
        self._dns = dns
        self._history = history
        self._prices = prices
        self._directory = directory
        self._declared = declared
        self._node_name = directory.cluster_labels().node_name  # does not change

    def endpoints(self) -> list[EndpointRow]:
        names = self._directory.names
        rows = [
            _row(resident, names.endpoint(resident.ifindex))
            for resident in list(self._directory.interface_endpoints())
            if not resident.gone_ns
        ]
        sockets = [_socket(endpoint) for endpoint in dict.fromkeys(names.sockets.values())]
        return sorted(rows, key=lambda row: row.ifindex) + sorted(
            sockets, key=lambda row: (row.namespace, row.pod)
        )

    def resolve(self, address: str, at_wall: float | None) -> list[AddressOwner]:
        """Return who has it and had it; if no one, the named network that contains it, if any."""
        claims = self._directory.book.claims(address_number(address))
        if at_wall is not None:
            at_ns = int((at_wall - time.time()) * 1e9) + time.monotonic_ns()
            claims = [claim for claim in claims if claim.from_ns <= at_ns < claim.until_ns]
        return [_held(claim) for claim in claims] or self._of_network(address)

    def explain(self, source: str, destination: str, port: str) -> Explanation:
        port_number, protocol = parse_port(port)
        declared = self._declared()
        now_ns = time.monotonic_ns()
        lookup = PartyLookup(self._directory, self._node_name, now_ns)
        opener = lookup.find(source)
        names = DnsLookup(self._dns(), self._directory, opener, now_ns)
        connection = connection_ends(opener, _find(destination, source, lookup, names))
        question = connection.question(protocol, port_number)
        question = question._replace(names=names.known(question.destination_ip))
        candidates = with_candidates(declared) if has_candidates(declared) else ()
        return explain_connection(question, declared.policies, candidates)

    def candidates(self) -> list[CandidatePolicy]:
        """Return each once; an unreadable text stands for two, one of pods and one of hosts."""
        found = [
            CandidatePolicy(each.kind, each.namespace, each.name, each.unreadable)
            for each in self._declared().candidates
        ]
        return list(dict.fromkeys(found))

    def policies(self) -> list[AuditedPolicy]:
        """Return the policies in force, each once; unreadable ones isolate nothing for certain."""
        found = [
            AuditedPolicy(format_policy(each), each.namespace)
            for each in self._declared().policies
            if not each.unreadable
        ]
        return sorted(set(found), key=lambda each: each.name)

    def deletions(self) -> list[CandidateDeletion]:
        declared = self._declared()
        missing = set(missing_deletions(declared))
        return [CandidateDeletion(*name, name not in missing) for name in declared.deleted]

    def stale_candidates(self) -> list[str]:
        return list(self._declared().stale_candidates)

    def flows(self, words: Mapping[str, Sequence[str]]) -> Flows:
        if self._history is None:
            raise PodtallyError("the agent keeps no history", "set history to a path")
        query = parse_query(words, self._prices)
        answer = self._history.answer(query)
        return flows_reply(answer, any(self._prices))

    def dns(self, words: Mapping[str, Sequence[str]]) -> DnsQueries:
        return DnsViews(self._dns(), self._directory).queries(words)

    def names(self, words: Mapping[str, Sequence[str]]) -> NameAnswers:
        return DnsViews(self._dns(), self._directory).answers(words)

    def _of_network(self, address: str) -> list[AddressOwner]:
        networks = self._directory.names.networks
        high, low = (
            np.array([word], np.uint64) for word in divmod(address_number(address), _WORD + 1)
        )
        owner = networks.owners[int(networks.ranges.look_up(high, low)[0])]
        if not owner.name:
            return []
        return [_address_owner(owner)]


def _find(text: str, source: str, lookup: PartyLookup, names: DnsLookup) -> PolicyEndpoint:
    """Return the endpoint of the text, which may be a domain name that the source asked for."""
    if not is_domain_name(text):
        return lookup.find(text)
    found = names.addresses(text)
    if found:
        return lookup.find(str(ipaddress.IPv6Address(found[0])))
    try:
        return lookup.find(text)  # names of units, containers and nodes have dots, too
    except PodtallyError:
        raise no_answer(source, text) from None


def _row(resident: InterfaceEndpoint, endpoint: Endpoint) -> EndpointRow:
    held = [each.address for each in resident.addresses if each.until_ns == FOREVER]
    return msgspec.structs.replace(
        _socket(endpoint),
        interface=resident.interface,
        ifindex=resident.ifindex,
        since=_wall(resident.appeared_ns),
        addresses=held,
    )


def _socket(endpoint: Endpoint) -> EndpointRow:
    """Return the row of an endpoint that uses the host's sockets, with no interface of its own."""
    return EndpointRow(
        interface="",
        ifindex=0,
        namespace=endpoint.namespace,
        pod=endpoint.name,
        workload=endpoint.workload,
        workload_kind=endpoint.workload_kind,
        source=endpoint.source,
        since="",
        uid=endpoint.uid,
        labels=dict(endpoint.labels),
        waiting=not endpoint.final,
    )


def _held(claim: Claim) -> AddressOwner:
    owner = claim.owner
    return msgspec.structs.replace(
        _address_owner(owner),
        from_=_wall(claim.from_ns),
        until="" if claim.until_ns == FOREVER else _wall(claim.until_ns),
    )


def _address_owner(owner: Owner) -> AddressOwner:
    return AddressOwner(
        kind=owner.kind,
        namespace=owner.namespace,
        name=owner.name,
        workload=owner.workload,
        scope=owner.scope,
    )


def _wall(at_ns: int) -> str:
    """Return RFC 3339, in UTC; "" for a time before this host started."""
    if at_ns <= 0:
        return ""
    seconds = time.time() + (at_ns - time.monotonic_ns()) / 1e9
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
