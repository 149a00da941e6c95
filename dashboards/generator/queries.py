# SPDX-License-Identifier: Apache-2.0
"""PromQL that several dashboards share: who is selected, rates, growth in the range, a map."""

from dashboards.generator.model import Variable

# -- who is selected --------------------------------------------------------------------

CLUSTER = Variable("cluster", "Cluster", "podtally_build_info")
INSTANCE = Variable("instance", "Node", 'podtally_build_info{cluster=~"$cluster"}')
NAMESPACE = Variable("namespace", "Namespace", 'podtally_flow_bytes_total{cluster=~"$cluster"}')
WORKLOAD = Variable(
    "workload",
    "Workload",
    'podtally_flow_bytes_total{cluster=~"$cluster",namespace=~"$namespace"}',
)

AGENTS = 'cluster=~"$cluster",instance=~"$instance"'
WORKLOADS = 'cluster=~"$cluster",namespace=~"$namespace",workload=~"$workload"'
ONE_WORKLOAD = 'cluster=~"$cluster",namespace="$namespace",workload="$workload"'


# -- how much ---------------------------------------------------------------------------


def rate(metric: str, selector: str, *by: str) -> str:
    """Per second, in sums by labels."""
    return f"sum{_by(by)}(rate({metric}{{{selector}}}[$__rate_interval]))"


def grown(metric: str, selector: str, *by: str) -> str:
    """By how much counters grew over the dashboard's range, in sums by labels.

    ``increase()`` alone knows nothing of what a series was born with: of one denied connection it
    would make 0. A series that is not there at the beginning of the range, when its agent was
    already scraped or its counters did not exist, has grown by all it has.
    """
    of = f"{metric}{{{selector}}}"
    return (
        f"sum{_by(by)}(\n"
        f"    (last_over_time({of}[$__range]) unless {of} offset $__range)\n"
        "    and on (cluster, instance) (podtally_build_info offset $__range"
        " or podtally_counters_start_time_seconds > time() - $__range_s)\n"
        f"  or increase({of}[$__range])\n)"
    )


def share(part: str, whole: str) -> str:
    """``part`` of ``whole``; where there is no ``whole``, nothing."""
    return f"({part})\n/\n({whole} > 0)"


def or_zero(expr: str) -> str:
    """For sums of what may have no series yet."""
    return f"{expr} or vector(0)"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""


# -- a map ------------------------------------------------------------------------------

# Of Grafana's own palette; the node graph takes colours as they are, in both themes. It knows
# ``color`` since 11.0, and ``highlighted``, which is red, since 10.3.
EDGE_COLOURS = {
    ".*": "#8E8E8E",  # unknown, and other, where series were limited
    "allowed": "#56A64B",
    "denied": "#E02F44",
    "undeclared": "#E0B400",
}
EDGES_AT_MOST = 150
_PEER = ("peer_namespace", "peer_workload")


def edges(selector: str) -> str:
    """Who sends to whom, in bytes a second, in the labels that a node graph wants of its edges.

    What pods send each other is taken from the sender's series: the receiver has it, too; only
    what is denied at the receiver's end alone, on another node, is taken from there. Who answers
    for a Service has the bytes as well, and is often of its name.
    """
    received = f'{selector},direction="ingress"'
    arrows = (
        _ends(f'{selector},direction="egress"', "source", "target"),
        _ends(f'{received},peer_kind!="pod"', "target", "source"),
        _ends(f'{received},peer_kind="pod",verdict="denied"', "target", "source"),
    )
    return f"topk({EDGES_AT_MOST},\n" + "\nor on (id)\n".join(arrows) + "\n)"


def _ends(selector: str, own: str, peer: str) -> str:
    labels = ("namespace", "workload", *_PEER, "scope", "verdict")
    expr = f"{rate('podtally_flow_bytes_total', selector, *labels)} > 0"
    expr = f'label_join({expr}, "{own}", "/", "namespace", "workload")'
    expr = f'label_join({expr}, "{peer}", "/", "peer_namespace", "peer_workload", "scope")'
    # A pod is NAMESPACE/WORKLOAD, a declared network its name, all the rest what scope it is of.
    for shape in ("([^/]+/[^/]+)/.*", "/([^/]+)/.*", "//(.*)"):
        expr = f'label_replace({expr}, "{peer}", "$1", "{peer}", "{shape}")'
    expr = f'label_join({expr}, "id", "|", "source", "target", "verdict")'
    expr = f'label_replace({expr}, "secondarystat", "$1", "verdict", "(.*)")'
    for verdict, colour in EDGE_COLOURS.items():
        expr = f'label_replace({expr}, "color", "{colour}", "verdict", "{verdict}")'
    expr = f'label_replace({expr}, "highlighted", "true", "verdict", "denied")'
    shown = "id, source, target, secondarystat, color, highlighted"
    return f"sum by ({shown}, namespace, workload, {', '.join(_PEER)}) (\n{expr}\n)"
