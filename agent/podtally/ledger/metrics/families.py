# SPDX-License-Identifier: Apache-2.0
"""Declares every metric that the ledger counts under labels.

The tables, the checkpoint, the view, /metrics, docs/metrics.md (scripts/generate-docs) and the
check of the dashboards are made from these declarations.
"""

from typing import Any

from podtally.ledger.connections.account import (
    candidate_labels,
    denied_labels,
    expired_labels,
    exposed_labels,
    spoofed_labels,
    undecided_labels,
    unknown_labels,
)
from podtally.ledger.metrics.costs import kubecost_labels
from podtally.ledger.metrics.dns_families import DNS_FAMILIES
from podtally.ledger.metrics.family import (
    BYTES,
    CONNECTIONS,
    EGRESS,
    INGRESS,
    ONLY_CONNECTIONS,
    PACKETS,
    TRAFFIC,
    AccountSeries,
    Counts,
    Family,
    Metric,
    Section,
    opened_connections,
)
from podtally.ledger.metrics.outcome_families import (
    AUDIT,
    ENDINGS,
    ENFORCEMENT,
    HANDSHAKES,
    INTERFACE_DROPS,
    OUTCOMES,
    RETRANSMITS,
    RETRANSMITS_LOST,
)
from podtally.ledger.series.label_sets import (
    ACCOUNTS,
    DROPS,
    BookLabels,
    CandidateLabels,
    CostLabels,
    DeniedLabels,
    ExpiredLabels,
    ExposedLabels,
    FlowLabels,
    KubecostLabels,
    PodLabels,
    ScanLabels,
    SpoofedLabels,
    UndecidedLabels,
    UnknownLabels,
)

# -- traffic ----------------------------------------------------------------------------

PODS = Family(
    name="pods",
    labels=PodLabels,
    sums=TRAFFIC[:2],
    section=Section.TRAFFIC,
    metrics=(
        Metric(
            name="podtally_pod_bytes",
            help="Bytes on the endpoint's interfaces, all accounts together.",
            cardinality="fine: 2 per pod",
            column=BYTES,
        ),
        Metric(
            name="podtally_pod_packets",
            help="Packets on the endpoint's interfaces, as on the wire.",
            cardinality="fine: 2 per pod",
            on_dashboards=False,
            column=PACKETS,
        ),
    ),
)
FLOWS = Family(
    name="flows",
    labels=FlowLabels,
    sums=TRAFFIC,
    section=Section.TRAFFIC,
    metrics=(
        Metric(
            name="podtally_flow_bytes",
            help="Bytes of flows; direction is that of the bytes, port the server's.",
            cardinality="careful: workloads × peers × ports, at most `series_limit`",
            column=BYTES,
        ),
        Metric(
            name="podtally_flow_packets",
            help="Packets of flows, as on the wire.",
            cardinality="careful: the same",
            column=PACKETS,
        ),
        Metric(
            name="podtally_connections",
            help="New connections: egress if the endpoint opened them, ingress if its peer did.",
            cardinality="careful: the same",
            column=CONNECTIONS,
        ),
    ),
)
BOOKS = Family(
    name="books",
    labels=BookLabels,
    sums=ACCOUNTS,
    section=Section.TRAFFIC,
    metrics=(
        Metric(
            name="podtally_books_bytes",
            help="Bytes booked on an interface, by account: flows, other, overflow.",
            note="Booked at the end of each epoch, before names are known.",
            cardinality="fine: 6 per interface",
            label_of_columns="account",
        ),
    ),
)
DROPS_BYTES = Family(
    name="drops",
    labels=BookLabels,
    sums=DROPS,
    section=Section.TRAFFIC,
    metrics=(
        Metric(
            name="podtally_books_drops_bytes",
            help="Bytes that only the interface or only podtally counted, by kind.",
            note="`after_hook`: booked, then dropped (the pod's interface is down, a qdisc is "
            "full); `before_hook`: counted by the interface, then dropped (XDP, backlog); "
            "`header`: Ethernet headers that a veth with XDP or GRO, or a VLAN, does not count.",
            cardinality="fine: 3 per interface and direction that had any",
            label_of_columns="kind",
        ),
    ),
)
GAPS = Family(
    name="gaps",
    labels=BookLabels,
    sums=TRAFFIC[:1],
    section=Section.TRAFFIC,
    metrics=(
        Metric(
            name="podtally_books_gap_bytes",
            kind="gauge",
            help="Bytes that the interface counted, less those booked and drops.",
            note="0 when the books close, also under load.",
            cardinality="fine: 2 per interface",
        ),
    ),
    kept=False,
)

# -- cost -------------------------------------------------------------------------------

COSTS = Family(
    name="costs",
    labels=CostLabels,
    sums=("dollars", "parts"),
    section=Section.COST,
    metrics=(
        Metric(
            name="podtally_egress_cost_dollars",
            help="Estimated cost of sent bytes, by the prices in the configuration.",
            cardinality="fine: workloads × scopes that have a price",
            is_dollars=True,
            only=("direction", "egress"),
        ),
        Metric(
            name="podtally_ingress_cost_dollars",
            help="Estimated cost of received bytes, by the prices in the configuration.",
            cardinality="fine: the same; none by default",
            is_dollars=True,
            only=("direction", "ingress"),
        ),
    ),
)
KUBECOST = Family(
    name="kubecost",
    labels=KubecostLabels,
    sums=TRAFFIC[:1],
    section=Section.COST,
    metrics=(
        Metric(
            name="kubecost_pod_network_egress_bytes",
            help="Bytes that pods sent, with the labels of Kubecost's network costs.",
            cardinality="avoid: pods × scopes × named networks; with `kubecost_alias`",
            if_any=True,
        ),
    ),
    of_accounts=AccountSeries(labels=kubecost_labels, counts=Counts.TRAFFIC, direction=EGRESS),
    is_on=lambda options: options.kubecost,
)
KUBECOST_INGRESS = Family(
    name="kubecost_ingress",
    labels=KubecostLabels,
    sums=TRAFFIC[:1],
    section=Section.COST,
    metrics=(
        Metric(
            name="kubecost_pod_network_ingress_bytes",
            help="Bytes that pods received, with the labels of Kubecost's network costs.",
            cardinality="avoid: the same",
            if_any=True,
            on_dashboards=False,
        ),
    ),
    of_accounts=AccountSeries(labels=kubecost_labels, counts=Counts.TRAFFIC, direction=INGRESS),
    is_on=lambda options: options.kubecost,
)

# -- policy -----------------------------------------------------------------------------

DENIED = opened_connections(
    "denied",
    DeniedLabels,
    denied_labels,
    Metric(
        name="podtally_policy_denied",
        help="Connections that policy denies, counted at the end that denies them.",
        cardinality="careful: only what is denied",
    ),
)
UNKNOWN_VERDICTS = opened_connections(
    "unknown_verdicts",
    UnknownLabels,
    unknown_labels,
    Metric(
        name="podtally_verdict_unknown_connections",
        help="Connections with the verdict unknown, by cause.",
        cardinality="fine: 9",
    ),
)
UNDECIDED = opened_connections(
    "undecided",
    UndecidedLabels,
    undecided_labels,
    Metric(
        name="podtally_policy_undecided",
        help="Connections of isolated endpoints on which policy cannot be decided.",
        note="See below.",
        cardinality="careful: only what is unknown there",
    ),
)
EXPIRED = opened_connections(
    "expired",
    ExpiredLabels,
    expired_labels,
    Metric(
        name="podtally_policy_expired_names",
        help="Connections that policy allows only by an expired DNS answer.",
        note="An implementation that enforces TTLs denies them.",
        cardinality="careful: only such connections",
    ),
)
SPOOFED = Family(
    name="spoofed",
    labels=SpoofedLabels,
    sums=TRAFFIC[1:2],
    section=Section.POLICY,
    metrics=(
        Metric(
            name="podtally_spoofed_packets",
            help="Packets that an endpoint sent from addresses that are not its own.",
            cardinality="fine: workloads that do so",
        ),
    ),
    of_accounts=AccountSeries(labels=spoofed_labels, counts=Counts.TRAFFIC, direction=EGRESS),
)
EXPOSED = opened_connections(
    "exposed",
    ExposedLabels,
    exposed_labels,
    Metric(
        name="podtally_undeclared_exposure_connections",
        help="Connections from outside the cluster to pods that no Ingress, LoadBalancer, "
        "NodePort or external IP declares.",
        note="Needs the Kubernetes API.",
        cardinality="careful: only what is undeclared",
    ),
)
SCANS = Family(
    name="scan_connections",
    labels=ScanLabels,
    sums=ONLY_CONNECTIONS,
    section=Section.POLICY,
    metrics=(
        Metric(
            name="podtally_scan_connections",
            help="Connections to, or from, more ports or addresses than are reported one by one.",
            cardinality="fine: workloads that scan",
        ),
    ),
)
CANDIDATES = Family(
    name="candidate",
    labels=CandidateLabels,
    sums=TRAFFIC,
    section=Section.POLICY,
    metrics=(
        Metric(
            name="podtally_candidate_connections",
            help="Connections that get another verdict with the candidate policies.",
            cardinality="careful: only what would change",
            column=CONNECTIONS,
        ),
        Metric(
            name="podtally_candidate_bytes",
            help="Bytes of connections that get another verdict with the candidate policies.",
            note="Both directions together.",
            cardinality="careful: the same",
            column=BYTES,
        ),
    ),
    of_accounts=AccountSeries(labels=candidate_labels, counts=Counts.TRAFFIC),
)

FAMILIES: tuple[Family[Any], ...] = (
    *(
        PODS,
        FLOWS,
        DENIED,
        UNKNOWN_VERDICTS,
        UNDECIDED,
        EXPIRED,
        SPOOFED,
        EXPOSED,
        SCANS,
        CANDIDATES,
    ),
    *(OUTCOMES, ENDINGS, HANDSHAKES, RETRANSMITS, RETRANSMITS_LOST),
    *(INTERFACE_DROPS, ENFORCEMENT, AUDIT),
    *DNS_FAMILIES,
    *(COSTS, KUBECOST, KUBECOST_INGRESS, BOOKS, DROPS_BYTES, GAPS),  # in the order of /metrics
)
KEPT = tuple(each for each in FAMILIES if each.kept)
OF_ACCOUNTS = tuple(each for each in FAMILIES if each.of_accounts)
