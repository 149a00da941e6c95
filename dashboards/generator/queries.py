# SPDX-License-Identifier: Apache-2.0
"""PromQL that several dashboards share: selectors, rates, growth in the range, the service map."""

from dashboards.generator.model import Variable

# -- selectors --------------------------------------------------------------------

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


# -- amounts ---------------------------------------------------------------------------


def rate(metric: str, selector: str, *by: str) -> str:
    """Return a query for the rate per second, summed by labels."""
    return f"sum{_by(by)}(rate({metric}{{{selector}}}[$__rate_interval]))"


def grown(metric: str, selector: str, *by: str) -> str:
    """Return a query for the growth of counters over the dashboard's range, summed by labels.

    ``increase()`` misses the first value of a new series: one denied connection would count as 0.
    A series that does not exist at the start of the range, while its agent was already scraped or
    its counters did not exist yet, has grown by its whole value.
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
    """Return a query for ``part`` / ``whole``; it finds nothing where ``whole`` is 0."""
    return f"({part})\n/\n({whole} > 0)"


def or_zero(expr: str) -> str:
    """Return the query with 0 where it finds no series."""
    return f"{expr} or vector(0)"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""


# -- service map ------------------------------------------------------------------------------

# From Grafana's palette; the node graph uses colours as they are, in both themes. It has
# ``color`` since 11.0 and ``highlighted``, which is red, since 10.3.
EDGE_COLOURS = {
    ".*": "#8E8E8E",  # unknown, and other, where series were limited
    "allowed": "#56A64B",
    "denied": "#E02F44",
    "undeclared": "#E0B400",
}
MAX_EDGES = 150
_PEER = ("peer_namespace", "peer_workload")


def edges(selector: str) -> str:
    """Return a query for the map's edges: bytes per second, labelled as a node graph needs them.

    Traffic between pods is taken from the sender's series, since the receiver counts it, too; only
    what the receiver's policies alone deny is taken from the receiver. The backend of a Service
    counts the bytes as well, and often has the same name.
    """
    received = f'{selector},direction="ingress"'
    arrows = (
        _ends(f'{selector},direction="egress"', "source", "target"),
        _ends(f'{received},peer_kind!="pod"', "target", "source"),
        _ends(f'{received},peer_kind="pod",verdict="denied"', "target", "source"),
    )
    return f"topk({MAX_EDGES},\n" + "\nor on (id)\n".join(arrows) + "\n)"


def _ends(selector: str, own: str, peer: str) -> str:
    labels = ("namespace", "workload", *_PEER, "scope", "verdict")
    expr = f"{rate('podtally_flow_bytes_total', selector, *labels)} > 0"
    expr = f'label_join({expr}, "{own}", "/", "namespace", "workload")'
    expr = f'label_join({expr}, "{peer}", "/", "peer_namespace", "peer_workload", "scope")'
    # A pod is NAMESPACE/WORKLOAD, a declared network its name, everything else its scope.
    for shape in ("([^/]+/[^/]+)/.*", "/([^/]+)/.*", "//(.*)"):
        expr = f'label_replace({expr}, "{peer}", "$1", "{peer}", "{shape}")'
    expr = f'label_join({expr}, "id", "|", "source", "target", "verdict")'
    expr = f'label_replace({expr}, "secondarystat", "$1", "verdict", "(.*)")'
    for verdict, colour in EDGE_COLOURS.items():
        expr = f'label_replace({expr}, "color", "{colour}", "verdict", "{verdict}")'
    expr = f'label_replace({expr}, "highlighted", "true", "verdict", "denied")'
    shown = "id, source, target, secondarystat, color, highlighted"
    return f"sum by ({shown}, namespace, workload, {', '.join(_PEER)}) (\n{expr}\n)"
