# SPDX-License-Identifier: Apache-2.0
"""The Policy dashboard: policies in force, isolation, verdicts, and candidates (dry run)."""

from dashboards.generator.flows import DENIED, UNKNOWN, flows_row
from dashboards.generator.model import Dashboard, Row
from dashboards.generator.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    PER_SECOND,
    SHARE,
    Column,
    Counted,
    Line,
    Look,
    Steps,
    Value,
    by_verdict,
    growth_table,
    labels,
    lines,
    number,
    table,
)
from dashboards.generator.queries import (
    CLUSTER,
    NAMESPACE,
    WORKLOAD,
    WORKLOADS,
    grown,
    or_zero,
    rate,
    share,
)

_FLOWS, _CONNECTIONS = "podtally_flow_bytes_total", "podtally_connections_total"
_DENIED = "podtally_policy_denied_total"
_EXPOSED = "podtally_undeclared_exposure_connections_total"
_CANDIDATES = "podtally_candidate_connections_total"
_ENFORCEMENT = "podtally_policy_enforcement_total"
_CLUSTER = 'cluster=~"$cluster"'

_WORKLOAD = (Column("namespace", "Namespace"), Column("workload", "Workload"))
_DIRECTION = Column("direction", "Direction")
_PEER = (
    Column("peer_kind", "Peer kind"),
    Column("peer_namespace", "Peer namespace"),
    Column("peer_workload", "Peer"),
)
_PORT = (Column("protocol", "Protocol"), Column("port", "Port"))
_POLICY = Column("policy", "Policy")
_ENDS = (*_WORKLOAD, _DIRECTION, *_PEER, *_PORT)
_UNDECIDED_BY = (
    *_WORKLOAD,
    _DIRECTION,
    Column("peer_kind", "Peer kind"),
    Column("protocol", "Protocol"),
    Column("cause", "Cause"),
)
_SCAN_BY = (*_WORKLOAD, _DIRECTION, Column("verdict", "Verdict"))
_EXPIRED_BY = (*_WORKLOAD, *_PORT, _POLICY)
_SIDE = ("namespace", "workload", "direction")
_SAID = f'{WORKLOADS},verdict=~"allowed|denied"'


_DECLARED = Row(
    "Policies in force",
    (
        number(
            "Policies",
            "Policies and Ingresses in force, from files and the API, on the agent that has the "
            "most.",
            f"max(sum by (instance) (podtally_policies{{{_CLUSTER}}}))",
            COUNT,
            to="policy.md",
            empty="no agent scraped",
        ),
        number(
            "Unreadable",
            "Policy objects and files that cannot be read: connections that they may affect have "
            "the verdict unknown. podtally check FILE says what is wrong.",
            f"max(podtally_policies_unreadable{{{_CLUSTER}}})",
            COUNT,
            ANY_IS_BAD,
            to="operations.md#podtallypoliciesunreadable",
            empty="no agent scraped",
        ),
        number(
            "Stale files",
            "Files that have become unreadable; their last good version stays in force.",
            f"max(podtally_policy_files_stale{{{_CLUSTER}}})",
            COUNT,
            ANY_IS_BAD,
            to="operations.md#podtallypolicyfilesstale",
            empty="no agent scraped",
        ),
        number(
            "Not yet synced",
            "Policy resource types that are not yet synced from the API: until then every "
            "verdict is unknown. Normal for some seconds after a start; if it lasts, see the "
            "Agent dashboard.",
            f"max(podtally_policy_resources_unsynced{{{_CLUSTER}}})",
            COUNT,
            ANY_IS_ODD,
            to="operations.md#podtallypoliciesunsynced",
            empty="no agent scraped",
        ),
        number(
            "In force from before",
            "Policy resource types that are not yet synced and in force as an earlier agent kept "
            "them, for a day after the last contact at most.",
            f"max(podtally_policy_resources_kept{{{_CLUSTER}}})",
            COUNT,
            ANY_IS_ODD,
            to="operations.md#podtallypoliciesunsynced",
            empty="no agent scraped",
        ),
        number(
            "Unknown verdicts",
            "Share of new connections with an unknown verdict; a panel below shows the causes.",
            share(
                or_zero(rate(_CONNECTIONS, f'{WORKLOADS},verdict="unknown"')),
                rate(_CONNECTIONS, WORKLOADS),
            ),
            SHARE,
            Steps(yellow=0.01, red=0.1),
            to="metrics.md#policy",
            empty="no new connections",
        ),
        number(
            "Candidates",
            "Candidate policies under evaluation (dry run); they change no verdict.",
            f"max(podtally_candidate_policies{{{_CLUSTER}}})",
            COUNT,
            to="policy.md",
            empty="no agent scraped",
        ),
    ),
)

_ISOLATED = Row(
    "Coverage by policy",
    (
        by_verdict(
            "Connections by verdict",
            "New connections, at each watched end.",
            rate(_CONNECTIONS, WORKLOADS, "verdict"),
            PER_SECOND,
            12,
        ),
        by_verdict(
            "Bytes by verdict",
            "Both directions together.",
            rate(_FLOWS, WORKLOADS, "verdict"),
            BYTES_PER_SECOND,
            12,
        ),
        table(
            "Covered by policy",
            "Share of the connections in the selected time range that policies allow or deny, by "
            "direction. 0 %: no policy isolates this workload in this direction, nor its peers "
            "in theirs. In between: some pods or some peers are isolated.",
            (*_WORKLOAD, _DIRECTION),
            (
                Value(
                    "Covered",
                    share(
                        f"(\n{grown(_CONNECTIONS, _SAID, *_SIDE)}\nor "
                        f"0 * {grown(_CONNECTIONS, WORKLOADS, *_SIDE)}\n)",
                        grown(_CONNECTIONS, WORKLOADS, *_SIDE),
                    ),
                    SHARE,
                ),
            ),
            Look(SHARE, 12, 9, empty="no connections in this time range"),
        ),
        growth_table(
            "Undeclared",
            "Connections in the selected time range that no policy covers: Kubernetes allows "
            "them. A default-deny in the namespace, with rules for these rows, would declare "
            "them.",
            _ENDS,
            Counted("Connections", _CONNECTIONS, f'{WORKLOADS},verdict="undeclared"'),
            Look(COUNT, 12, 9, empty="every connection is covered by a policy"),
        ),
    ),
)

_VERDICTS = Row(
    "Denied, exposed, unknown",
    (
        growth_table(
            "Denied",
            "Connections in the selected time range, at the end that denies them, by the policy "
            "that decides or the policies that isolate. Either a rule is missing, or a workload "
            "does what it should not; the event log has addresses and reasons.",
            (*_ENDS, _POLICY),
            Counted("Connections", _DENIED, WORKLOADS),
            Look(COUNT, 24, 9, empty="nothing is denied"),
        ),
        lines(
            "Denied, by policy",
            "Connections per second.",
            Line(rate(_DENIED, WORKLOADS, "policy"), "{{policy}}"),
            Look(PER_SECOND, 12, stacked=True, empty="nothing is denied"),
        ),
        lines(
            "Unknown verdicts, by cause",
            "docs/metrics.md explains each cause, such as beginning (the initiator is unknown) "
            "or unreadable (a policy cannot be read). For all workloads, whatever is selected.",
            Line(
                rate("podtally_verdict_unknown_connections_total", _CLUSTER, "cause"), "{{cause}}"
            ),
            Look(PER_SECOND, 12, stacked=True, empty="every verdict is known"),
        ),
        growth_table(
            "Undeclared exposure",
            "Connections in the selected time range from outside the cluster to pods that no "
            "Ingress, LoadBalancer, NodePort or external IP declares. The port is the pod's.",
            (*_WORKLOAD, Column("scope", "From"), *_PORT),
            Counted("Connections", _EXPOSED, WORKLOADS),
            Look(
                COUNT,
                12,
                empty="nothing undeclared is reached from outside, or there is no Kubernetes API",
            ),
        ),
        growth_table(
            "Undecided at isolated workloads",
            "Connections in the selected time range of workloads that policies isolate, with the "
            "verdict unknown: a protocol that NetworkPolicy does not define, a peer without a "
            "name, a rule in doubt. docs/metrics.md explains the causes.",
            _UNDECIDED_BY,
            Counted("Connections", "podtally_policy_undecided_total", WORKLOADS),
            Look(COUNT, 12, empty="every verdict is known"),
        ),
        growth_table(
            "Scans",
            "Connections in the selected time range to, or from, more ports or addresses than are "
            "reported one by one. The event log has the number of ports and addresses.",
            _SCAN_BY,
            Counted("Connections", "podtally_scan_connections_total", WORKLOADS),
            Look(COUNT, 8, empty="no scan"),
        ),
        growth_table(
            "Allowed by expired names",
            "Connections in the selected time range that policy allows only by a DNS answer with a "
            "TTL had ended. A network plugin that enforces TTLs cuts them off.",
            _EXPIRED_BY,
            Counted("Connections", "podtally_policy_expired_names_total", WORKLOADS),
            Look(COUNT, 8, empty="no rule by domain name, or no answer had expired"),
        ),
        growth_table(
            "Spoofed packets",
            "Packets in the selected time range that a workload sent from an address that is not "
            "its own. Name workloads that forward for others in forwarders.",
            _WORKLOAD,
            Counted("Packets", "podtally_spoofed_packets_total", WORKLOADS),
            Look(COUNT, 8, empty="no endpoint sends from addresses of others"),
        ),
        table(
            "Policies by kind",
            "On the agent that has the most of each kind.",
            (Column("kind", "Kind"),),
            (Value("Policies", f"max by (kind) (podtally_policies{{{_CLUSTER}}})", COUNT),),
            Look(COUNT, 8),
        ),
    ),
)

_AUDITED_BY = (*_ENDS, Column("verdict", "Verdict"), Column("result", "Result"))

_AUDIT = Row(
    "Does the cluster enforce it?",
    (
        lines(
            "Results",
            "Decided connections of workloads that policies isolate. not_enforced: denied, and "
            "answered. blocked: allowed, and stopped by something else.",
            Line(rate(_ENFORCEMENT, WORKLOADS, "verdict", "result"), "{{verdict}}, {{result}}"),
            Look(PER_SECOND, 8, stacked=True, empty="no policy isolates what was connected"),
        ),
        growth_table(
            "Not enforced, or blocked",
            "Connections in the selected time range. podtally audit has the policies.",
            _AUDITED_BY,
            Counted("Connections", _ENFORCEMENT, f'{WORKLOADS},result=~"not_enforced|blocked"'),
            Look(COUNT, 16, empty="all that was observed is as policy says"),
        ),
    ),
)

_CHANGE = (*_ENDS, Column("verdict", "Now"), Column("candidate", "Then"), _POLICY)

_CHANGES = Row(
    "Candidates (dry run)",
    (
        table(
            "Verdicts that would change",
            "Connections in the selected time range that get another verdict with the candidates. "
            "Denied under Then: this traffic would stop; add a rule before you apply the "
            "candidate.",
            _CHANGE,
            (
                Value("Connections", grown(_CANDIDATES, WORKLOADS, *labels(_CHANGE)), COUNT),
                Value(
                    "Bytes",
                    grown("podtally_candidate_bytes_total", WORKLOADS, *labels(_CHANGE)),
                    BYTES,
                ),
            ),
            Look(COUNT, 24, 9, empty="no candidates, or nothing observed would change"),
        ),
        lines(
            "Changed verdicts",
            "Connections per second. If no connection would be denied for a week, the candidate "
            "is as safe as a week of traffic can show.",
            Line(
                rate(_CANDIDATES, WORKLOADS, "verdict", "candidate"),
                "{{verdict}} would be {{candidate}}",
            ),
            Look(PER_SECOND, 24, 7, empty="no candidates, or nothing observed would change"),
        ),
    ),
)

_BEHIND = flows_row(DENIED, UNKNOWN)

POLICY = Dashboard(
    "policy",
    "Policy",
    "Policies in force, which workloads they isolate, what is denied, undeclared or unknown, and "
    "what candidates would change.",
    (CLUSTER, NAMESPACE, WORKLOAD),
    (_DECLARED, _ISOLATED, _VERDICTS, _AUDIT, _CHANGES, _BEHIND),
)
