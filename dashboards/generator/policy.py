# SPDX-License-Identifier: Apache-2.0
"""What is declared and what happens: isolation, denied, undeclared, unknown, and candidates."""

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
    Line,
    Look,
    Steps,
    Value,
    by_verdict,
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
_CLUSTER = 'cluster=~"$cluster"'

_WORKLOAD = (Column("namespace", "Namespace"), Column("workload", "Workload"))
_DIRECTION = Column("direction", "Direction")
_PEER = (
    Column("peer_kind", "Peer's kind"),
    Column("peer_namespace", "Peer's namespace"),
    Column("peer_workload", "Peer"),
)
_PORT = (Column("protocol", "Protocol"), Column("port", "Port"))
_POLICY = Column("policy", "Policy")
_ENDS = (*_WORKLOAD, _DIRECTION, *_PEER, *_PORT)
_SIDE = ("namespace", "workload", "direction")
_SAID = f'{WORKLOADS},verdict=~"allowed|denied"'


_DECLARED = Row(
    "What is declared",
    (
        number(
            "Policies",
            "Policies and Ingresses in force, of files and the API, on the agent that knows most.",
            f"max(sum by (instance) (podtally_policies{{{_CLUSTER}}}))",
            COUNT,
        ),
        number(
            "Unreadable",
            "Objects and texts that cannot be read: what they may be for has the verdict unknown. "
            "podtally check FILE says what is wrong.",
            f"max(podtally_policies_unreadable{{{_CLUSTER}}})",
            COUNT,
            ANY_IS_BAD,
        ),
        number(
            "Files in an earlier version",
            "Files that cannot be read any more; what they said before is in force.",
            f"max(podtally_policy_files_stale{{{_CLUSTER}}})",
            COUNT,
            ANY_IS_BAD,
        ),
        number(
            "Not heard from the API",
            "Resources of policies that the API has not told of yet: until then every verdict is "
            "unknown. It lasts seconds after a start; longer: see the Agent dashboard.",
            f"max(podtally_policy_resources_unheard{{{_CLUSTER}}})",
            COUNT,
            ANY_IS_ODD,
        ),
        number(
            "Connections not judged",
            "Share of new connections whose verdict is unknown; below it says why.",
            share(
                or_zero(rate(_CONNECTIONS, f'{WORKLOADS},verdict="unknown"')),
                rate(_CONNECTIONS, WORKLOADS),
            ),
            SHARE,
            Steps(yellow=0.01, red=0.1),
        ),
        number(
            "Candidates",
            "Policies that are judged beside those in force, and change nothing.",
            f"max(podtally_candidate_policies{{{_CLUSTER}}})",
            COUNT,
        ),
    ),
)

_ISOLATED = Row(
    "Isolated or not",
    (
        by_verdict(
            "Connections by verdict",
            "At each end that is watched.",
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
            "Share of the connections in the chosen time that policies allow or deny, by who began "
            "them. 0 %: nothing isolates this workload in this direction, nor its peers in theirs. "
            "In between: some pods or some peers are isolated.",
            (*_WORKLOAD, _DIRECTION),
            (
                Value(
                    "Declared",
                    share(
                        f"(\n{grown(_CONNECTIONS, _SAID, *_SIDE)}\nor "
                        f"0 * {grown(_CONNECTIONS, WORKLOADS, *_SIDE)}\n)",
                        grown(_CONNECTIONS, WORKLOADS, *_SIDE),
                    ),
                    SHARE,
                ),
            ),
            Look(SHARE, 12, 9),
        ),
        table(
            "Undeclared",
            "What no policy says anything of, in the chosen time: Kubernetes lets it pass. A "
            "default-deny in the namespace, and rules for what stands here, would declare it.",
            _ENDS,
            (
                Value(
                    "Connections",
                    grown(_CONNECTIONS, f'{WORKLOADS},verdict="undeclared"', *labels(_ENDS)),
                    COUNT,
                ),
            ),
            Look(COUNT, 12, 9),
        ),
    ),
)

_VERDICTS = Row(
    "Denied, exposed, unknown",
    (
        table(
            "Denied",
            "Connections in the chosen time, by the policy that decided or the policies that "
            "isolate, at the end whose they are. Either a rule is missing, or somebody does what "
            "they should not; the event log has addresses and reasons.",
            (*_ENDS, _POLICY),
            (Value("Connections", grown(_DENIED, WORKLOADS, *labels(_ENDS), "policy"), COUNT),),
            Look(COUNT, 24, 9),
        ),
        lines(
            "Denied, by policy",
            "Connections a second.",
            Line(rate(_DENIED, WORKLOADS, "policy"), "{{policy}}"),
            Look(PER_SECOND, 12, stacked=True),
        ),
        lines(
            "Not judged, by what is not known",
            "beginning: nobody saw who began it; unknown end; unreadable: a policy; doubt: labels, "
            "ports or a domain name decide; selection: the endpoint's own labels; same priority: "
            "admin policies contradict each other. Of whole agents, whatever workload is chosen.",
            Line(
                rate("podtally_verdict_unknown_connections_total", _CLUSTER, "cause"), "{{cause}}"
            ),
            Look(PER_SECOND, 12, stacked=True),
        ),
        table(
            "Undeclared exposure",
            "Connections in the chosen time from outside the cluster to pods that no Ingress, "
            "LoadBalancer, NodePort or external IP declares. The port is the pod's own.",
            (*_WORKLOAD, Column("scope", "From"), *_PORT),
            (
                Value(
                    "Connections",
                    grown(
                        _EXPOSED,
                        WORKLOADS,
                        *("namespace", "workload", "scope", "protocol", "port"),
                    ),
                    COUNT,
                ),
            ),
            Look(COUNT, 12),
        ),
        table(
            "Policies by kind",
            "On the agent that knows most of each.",
            (Column("kind", "Kind"),),
            (Value("Policies", f"max by (kind) (podtally_policies{{{_CLUSTER}}})", COUNT),),
            Look(COUNT, 12),
        ),
    ),
)

_CHANGE = (*_ENDS, Column("verdict", "Now"), Column("candidate", "Then"), _POLICY)

_CHANGES = Row(
    "What candidates would change",
    (
        table(
            "What would be judged otherwise",
            "Connections in the chosen time whose verdict candidates would change. Then denied: "
            "this traffic would stop; it needs a rule before the candidate is applied.",
            _CHANGE,
            (
                Value("Connections", grown(_CANDIDATES, WORKLOADS, *labels(_CHANGE)), COUNT),
                Value(
                    "Bytes",
                    grown("podtally_candidate_bytes_total", WORKLOADS, *labels(_CHANGE)),
                    BYTES,
                ),
            ),
            Look(COUNT, 24, 9),
        ),
        lines(
            "Changed verdicts",
            "Connections a second. When nothing would be denied any more for a week, the candidate "
            "is as safe as a week can tell.",
            Line(
                rate(_CANDIDATES, WORKLOADS, "verdict", "candidate"),
                "{{verdict}} would be {{candidate}}",
            ),
            Look(PER_SECOND, 24, 7),
        ),
    ),
)

POLICY = Dashboard(
    "policy",
    "Policy",
    "What is declared and what happens: isolated or not, denied, undeclared, and what a candidate "
    "would change.",
    (CLUSTER, NAMESPACE, WORKLOAD),
    (_DECLARED, _ISOLATED, _VERDICTS, _CHANGES),
)
