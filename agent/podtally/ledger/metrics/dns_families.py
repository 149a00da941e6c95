# SPDX-License-Identifier: Apache-2.0
"""Declares the metrics of DNS: what workloads ask, how it is answered, and how soon."""

from typing import NamedTuple

from podtally.dns.tracker import BUCKETS
from podtally.ledger.metrics.family import Family, Metric, Section, histogram


class DnsLabels(NamedTuple):
    namespace: str
    workload: str
    resolver: str  # a Service or a pod: NAMESPACE/WORKLOAD; else the address
    type: str
    rcode: str  # unanswered, if nothing answered


class DnsWorkloadLabels(NamedTuple):
    namespace: str
    workload: str


class DnsTroubleLabels(NamedTuple):
    namespace: str
    workload: str
    kind: str


class DnsResolverLabels(NamedTuple):
    namespace: str
    workload: str
    resolver: str


class DnsLongNameLabels(NamedTuple):
    namespace: str
    workload: str
    domain: str


DNS_QUERIES = Family(
    name="dns_queries",
    labels=DnsLabels,
    sums=("queries",),
    section=Section.DNS,
    metrics=(
        Metric(
            name="podtally_dns_queries",
            help="DNS questions of endpoints, by resolver, type and answer.",
            note="`rcode` is `unanswered` if no answer came within 10 s.",
            cardinality="careful: workloads × resolvers × types × rcodes",
        ),
    ),
)
DNS_SECONDS = histogram(
    "dns_seconds",
    DnsWorkloadLabels,
    Section.DNS,
    Metric(
        name="podtally_dns_response_seconds",
        help="Time from a DNS question to its answer, as they pass the endpoint's interface.",
        cardinality="careful: workloads × 15 series",
        bounds=BUCKETS,
    ),
)
DNS_TROUBLE = Family(
    name="dns_trouble",
    labels=DnsTroubleLabels,
    sums=("messages",),
    section=Section.DNS,
    metrics=(
        Metric(
            name="podtally_dns_messages",
            help="DNS messages with a problem, by kind.",
            note="`truncated` (the client has to retry over TCP), `unsolicited` (answers "
            "without a query here: they name nothing), `unreadable`, `lost` (the kernel dropped "
            "them: the endpoint sent more than its bound).",
            cardinality="fine: workloads that have any × 4",
        ),
    ),
)
DNS_BYPASS = Family(
    name="dns_bypass",
    labels=DnsResolverLabels,
    sums=("queries",),
    section=Section.DNS,
    metrics=(
        Metric(
            name="podtally_dns_untrusted_queries",
            help="DNS questions to resolvers that are not trusted: their answers do not count for "
            "verdicts.",
            cardinality="fine: workloads that do so × resolvers",
        ),
    ),
)
DNS_LONG_NAMES = Family(
    name="dns_long_names",
    labels=DnsLongNameLabels,
    sums=("queries",),
    section=Section.DNS,
    metrics=(
        Metric(
            name="podtally_dns_long_names",
            help="DNS questions for names of more than 52 characters, by the domain above them: "
            "many of them may be a tunnel.",
            cardinality="fine: workloads × 10 domains",
        ),
    ),
)
DNS_FAMILIES = (DNS_QUERIES, DNS_SECONDS, DNS_TROUBLE, DNS_BYPASS, DNS_LONG_NAMES)
