# SPDX-License-Identifier: Apache-2.0
"""Declares the metrics of what became of connections; part of ``families``."""

from podtally.ledger.metrics.family import ONLY_CONNECTIONS, Family, Metric, Section, histogram
from podtally.ledger.series.label_sets import (
    AuditLabels,
    BookLabels,
    EndingLabels,
    EnforcementLabels,
    HandshakeLabels,
    LostRetransmitLabels,
    OutcomeLabels,
    RetransmitLabels,
)

OUTCOMES = Family(
    name="outcomes",
    labels=OutcomeLabels,
    sums=ONLY_CONNECTIONS,
    section=Section.OUTCOMES,
    metrics=(
        Metric(
            name="podtally_connection_outcomes",
            help="Connections by outcome, each counted once when it is decided.",
            note="`established`, `answered`, `refused`, `rejected`, `unanswered`, `half_open`, "
            "`unknown`. The labels are those of podtally_connections_total, and so are the sums, "
            "except for connections that are not decided yet.",
            cardinality="careful: those of podtally_connections_total × outcomes that occur",
        ),
    ),
)
ENDINGS = Family(
    name="endings",
    labels=EndingLabels,
    sums=ONLY_CONNECTIONS,
    section=Section.OUTCOMES,
    metrics=(
        Metric(
            name="podtally_connection_endings",
            help="Established TCP connections that are over, by how they ended.",
            note="`closed`, `reset_by_endpoint`, `reset_by_peer`, `open` (idle for too long, or "
            "the interface was removed).",
            cardinality="fine: workloads × peer kinds × scopes × 4",
        ),
    ),
)
HANDSHAKE_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.5)
HANDSHAKES = histogram(
    "handshakes",
    HandshakeLabels,
    Section.OUTCOMES,
    Metric(
        name="podtally_handshake_seconds",
        help="Time between the packets of a handshake, as they pass the endpoint's interface.",
        note="`step` is `answer` (from the first SYN to the SYN/ACK; of UDP and SCTP from the "
        "first packet to the first answer) or `completion` (from the SYN/ACK to the ACK).",
        cardinality="careful: workloads × peer kinds × scopes × 2 to 3, 15 series each",
        bounds=HANDSHAKE_BOUNDS,
    ),
)
RETRANSMITS = Family(
    name="retransmits",
    labels=RetransmitLabels,
    sums=("packets",),
    section=Section.OUTCOMES,
    metrics=(
        Metric(
            name="podtally_retransmits",
            help="TCP retransmits of endpoints, SYN and SYN/ACK included.",
            note="Reported by the kernel's tracepoints, and joined to connections by addresses and "
            "ports: absent where the agent cannot use them (`podtally doctor`). A packet may be "
            "several segments that the kernel cuts later (GSO), which the tracepoints do not "
            "report: `TcpRetransSegs` may be larger.",
            cardinality="careful: that of podtally_connections_total, where anything is lost",
        ),
    ),
)
RETRANSMITS_LOST = Family(
    name="retransmits_lost",
    labels=LostRetransmitLabels,
    sums=("packets",),
    section=Section.OUTCOMES,
    metrics=(
        Metric(
            name="podtally_retransmits_lost",
            help="Retransmits anywhere on the host that podtally_retransmits_total may lack.",
            note="`loss` is `share` (more connections of one address in an epoch than have room) "
            "or `busy` (the kernel skipped the program, as its CPU was in the middle of another "
            "one; counted from kernel 6.7 on).",
            cardinality="fine: 2",
        ),
    ),
)
INTERFACE_DROPS = Family(
    name="interface_drops",
    labels=BookLabels,
    sums=("before_hook", "after_hook"),
    section=Section.OUTCOMES,
    metrics=(
        Metric(
            name="podtally_interface_drops",
            help="Frames that the kernel reports as dropped on an interface.",
            note="`where` is `before_hook` (XDP, the driver, the backlog) or `after_hook` (qdiscs, "
            "the pod's end is down): before or after podtally counted them. TCP retransmits the "
            "packets.",
            cardinality="fine: 4 per interface that dropped any",
            label_of_columns="where",
        ),
    ),
)
ENFORCEMENT = Family(
    name="enforcement",
    labels=EnforcementLabels,
    sums=ONLY_CONNECTIONS,
    section=Section.OUTCOMES,
    metrics=(
        Metric(
            name="podtally_policy_enforcement",
            help="Connections of endpoints that policies isolate, by verdict and by what the "
            "cluster did with them.",
            note="`enforced`, `not_enforced`, `blocked`, `passed`, `inconclusive`, "
            "`unavailable`: see below.",
            cardinality="careful: that of podtally_connections_total, for isolated endpoints",
        ),
    ),
)
AUDIT = Family(
    name="audit", labels=AuditLabels, sums=ONLY_CONNECTIONS, section=Section.OUTCOMES, metrics=()
)
