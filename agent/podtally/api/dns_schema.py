# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/dns`` and ``/api/v1/names``: the shapes of their replies; times as everywhere."""

import msgspec

UNANSWERED = "unanswered"
MAX_ROWS = 8192  # of a reply


class DnsParty(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoint that asked, and the resolver."""

    namespace: str
    pod: str
    workload: str
    interface: str  # "": the host
    resolver: str  # its address; "": one of very many
    resolver_name: str = ""  # a Service or a pod: NAMESPACE/WORKLOAD
    trusted: bool  # its answers count for verdicts


class DnsQuery(DnsParty, frozen=True, kw_only=True):
    """A question of an endpoint."""

    at: str
    name: str
    type: str  # TYPE123 if it has no name
    rcode: str  # `unanswered` if nothing answered within 10 s
    seconds: float | None  # until the answer


class DnsQueries(msgspec.Struct, frozen=True):
    """The latest questions, the last first."""

    queries: list[DnsQuery]
    remembered: int  # of all endpoints, whatever is selected
    left_off: int = 0  # selected, but beyond the limit


class NameAnswer(DnsParty, frozen=True, kw_only=True):
    """An address that an endpoint got for a name."""

    at: str
    address: str
    ttl: int  # seconds
    expires: str
    expired: bool  # at the time of the query
    chain: list[str]  # aliases, from the name on
    hint: bool  # an address hint of a service record: rules by name do not count it


class NameAnswers(msgspec.Struct, frozen=True):
    """Answers for a name, the last first; with ``at``, what endpoints knew at that time."""

    name: str
    at: str
    answers: list[NameAnswer]
    left_off: int = 0  # beyond the limit
