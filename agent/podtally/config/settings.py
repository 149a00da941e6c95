# SPDX-License-Identifier: Apache-2.0
"""The settings, each declared once: file keys, flags, defaults and documentation."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from podtally.config.kinds import (
    ADDRESS,
    ADDRESSES,
    FORWARDERS,
    GLOBS,
    LOG,
    NAME,
    NETWORKS,
    PATH,
    PATHS,
    POLICY_NAMES,
    PORTS,
    SIZE,
    SOCKET,
    SWITCH,
    TEXT,
    choice,
    count,
    seconds,
    words,
)
from podtally.config.policy_name import PolicyName
from podtally.config.setting import Setting, setting
from podtally.config.structs import (
    ENDPOINTS,
    EXPECTED,
    HISTORY,
    NAT_GATEWAY,
    PRICES,
    ExpectedTraffic,
    History,
    NatGateway,
    Prices,
    StaticEndpoint,
)

DEFAULT_FILE = Path("/etc/podtally/podtally.yaml")
DEFAULT_PIN_DIR = Path("/sys/fs/bpf/podtally")
DEFAULT_STATE_DIR = Path("/run/podtally")
DEFAULT_LISTEN = "127.0.0.1:9775"
DEFAULT_POD_LOGS = Path("/var/log/pods")
EVENT_VERDICTS = ("denied", "undeclared")
Attach = Literal["auto", "tcx", "clsact"]
Kubernetes = Literal["auto", "on", "off"]
FlowLabels = Literal["workload", "pod"]
Domains = Literal["registrable", "full", "declared", "off"]
NAME_SOURCES = ("dns", "tls")

# Groups, as --help and docs/configuration.md title them.
PLACES = "Addresses and paths"
COUNTING = "Counting"
SERIES = "Series"
NAMES = "Sources of names"
POLICY = "Policy"
LOGS = "Logs"
HISTORY_GROUP = "History"
_MAX_GRACE = 366 * 86400.0


@dataclass(frozen=True)
class Config:
    """The configuration of an agent."""

    listen: str = setting(
        DEFAULT_LISTEN,
        ADDRESS,
        PLACES,
        "address of /metrics, health checks and the API",
        "address of `/metrics`, `/livez`, `/readyz` and the API; `0.0.0.0:9775` for a Prometheus on another host, `[::]:9775` for IPv6",
    )
    web_config_file: Path | None = setting(
        None,
        PATH,
        PLACES,
        "TLS and users, in the file format of Prometheus' exporters; reloaded when it changes",
        "TLS and users for `listen`, in the file format of Prometheus' exporters ([web.md](web.md))",
    )
    state_dir: Path = setting(
        DEFAULT_STATE_DIR,
        PATH,
        PLACES,
        "directory of the checkpoint",
        "directory of the checkpoint, which must outlive the agent but not a reboot: a tmpfs is best",
        restart=True,
    )
    pin_dir: Path = setting(
        DEFAULT_PIN_DIR,
        PATH,
        PLACES,
        "directory where programs and maps are pinned",
        "directory where programs and maps are pinned, on a bpffs; each agent needs its own",
        restart=True,
    )
    interfaces: str | None = setting(
        None,
        GLOBS,
        COUNTING,
        "interfaces to watch: globs, comma-separated, !GLOB excludes (default: all pod interfaces)",
        "interfaces to watch; none: all pod interfaces. With globs, only those that match: to see the host's own processes, add the uplink (`veth*,cali*,eth0`). Each packet costs 7 to 28 ns",
    )
    epoch: float = setting(
        1.0,
        seconds(),
        COUNTING,
        "interval at which the kernel's flow table is read",
        "interval at which the kernel's flow table is read: counts are at most this old. At 1 s an idle agent takes 0.3 to 1 % of a core",
    )
    max_flows: int = setting(
        65536,
        count(1, 2**21),
        COUNTING,
        "flows that can be active in one epoch",
        "flows that can be active in one epoch; more are booked as `overflow`. Takes 27 MB of kernel memory, proportional to its value (rounded up to a power of two, 2 x 208 bytes a flow)",
        restart=True,
    )
    attach: Attach = setting(
        "auto",
        choice("auto", "tcx", "clsact"),
        COUNTING,
        "how programs are attached (auto: TCX if the kernel supports it)",
        "how programs are attached to interfaces; `auto`: TCX if the kernel supports it. Attaching by TCX takes the kernel some 25 ms per interface, by clsact 1 ms",
        restart=True,
    )
    attach_first: bool = setting(
        False,
        SWITCH,
        COUNTING,
        "with clsact: run before another program also where it has the first priority",
        "with clsact: run before another program also where it has the first priority, by sharing that priority. TCX programs are always attached first. Whoever removes that whole priority removes podtally's program as well; it is attached again within 10 s",
    )
    compile: bool = setting(
        False,
        SWITCH,
        COUNTING,
        "compile the kernel programs at the start, with this machine's bcc",
        "compile the kernel programs at the start instead of loading those that were built with this release. Takes bcc, kernel headers, some 5 s of CPU and 150 MB; use it to isolate a compiler's fault",
        restart=True,
    )
    flow_labels: FlowLabels = setting(
        "workload",
        choice("workload", "pod"),
        SERIES,
        "label flow series by workload or by pod; pod makes many more series",
        "label flow series by workload or by pod. `pod` makes a series for each pod and peer, which ends with the pod; [avoid it](metrics.md#traffic) if pods are many or short-lived",
    )
    series_limit: int = setting(
        10_000,
        count(),
        SERIES,
        "label sets of flows; the excess of an endpoint is summed as `other`",
        "label sets of flows, each with bytes, packets and connections. Each endpoint has a share; its excess is summed as `other`, and totals stay exact",
    )
    series_grace: float = setting(
        300.0,
        seconds(0, _MAX_GRACE, above=False),
        SERIES,
        "how long series of deleted pods stay",
        "how long series of deleted pods stay: at least a few scrape intervals, or their last bytes are never scraped",
    )
    prices: Prices = setting(
        Prices(),
        PRICES,
        SERIES,
        "what bytes cost",
        "what bytes cost, for `podtally_egress_cost_dollars_total`: a series for each workload and scope with a price",
        flag=False,
    )
    nat_gateway: NatGateway | None = setting(
        None,
        NAT_GATEWAY,
        SERIES,
        "which traffic with the internet passes a NAT gateway",
        "which traffic with the internet passes a NAT gateway, for prices and `kubecost_alias`",
        flag=False,
    )
    kubecost_alias: bool = setting(
        False,
        SWITCH,
        SERIES,
        "also export kubecost_pod_network_egress_bytes_total, for OpenCost and Kubecost",
        "also export `kubecost_pod_network_egress_bytes_total` and `_ingress_`, for OpenCost and Kubecost: series for each pod",
    )
    kubernetes: Kubernetes = setting(
        "auto",
        choice("auto", "on", "off"),
        NAMES,
        "watch the Kubernetes API (auto: if there is a service account or a kubeconfig)",
        "watch the Kubernetes API; `auto`: if there is a service account, or `kubeconfig` is set. Each agent watches all pods: 10,000 take some 70 MB",
    )
    kubeconfig: Path | None = setting(
        None, PATH, NAMES, "how to reach the API from outside the cluster"
    )
    kube_context: str | None = setting(
        None,
        NAME,
        NAMES,
        "context of the kubeconfig (default: the current one)",
        "context of the kubeconfig; none: the current one",
    )
    node_name: str | None = setting(
        None,
        NAME,
        NAMES,
        "name of this node in the API (default: $NODE_NAME, or the host name)",
        "name of this node in the API; none: `$NODE_NAME`, or the host name in lower case",
    )
    cluster_name: str | None = setting(
        None,
        NAME,
        NAMES,
        "name of the cluster, in events",
        "name of the cluster, in each event; for metrics and alerts set the label `cluster` where you scrape ([operations.md](operations.md))",
    )
    cri_socket: str = setting(
        "auto",
        SOCKET,
        NAMES,
        "socket of the container runtime (auto: the usual paths)",
        "socket of the container runtime; `auto`: the usual paths",
    )
    pod_logs: Path = setting(
        DEFAULT_POD_LOGS,
        PATH,
        NAMES,
        "directory of the kubelet's pod logs, which has the names of pods",
    )
    name_wait: float = setting(
        10.0,
        seconds(),
        NAMES,
        "how long flows wait for a name that may still arrive",
        "how long flows wait for a name that may still arrive; after that they are counted as `unknown`",
    )
    endpoints: tuple[StaticEndpoint, ...] = setting(
        (), ENDPOINTS, NAMES, "names for interfaces without another source", flag=False
    )
    networks: Mapping[str, tuple[str, ...]] = setting(
        {}, NETWORKS, NAMES, "names for external addresses and domains", flag=False
    )
    names_from: tuple[str, ...] = setting(
        NAME_SOURCES,
        words(*NAME_SOURCES, "off"),
        NAMES,
        "what names peers outside: DNS answers, server names in TLS; or off",
        "what names peers outside the cluster: DNS answers that endpoints receive (`dns`), and server names that they send in TLS (`tls`); `off`: neither is read ([dns.md](dns.md))",
    )
    dns_ports: tuple[int, ...] = setting(
        (),
        PORTS,
        NAMES,
        "ports of DNS beside 53",
        "ports of DNS, in addition to 53",
        restart=True,
    )
    resolvers: tuple[str, ...] = setting(
        (),
        ADDRESSES,
        NAMES,
        "resolvers that are trusted, beside the cluster's and the host's",
        "addresses of resolvers that are trusted for verdicts, besides the cluster's DNS Services, the node-local cache, and those in the host's resolv.conf",
    )
    longest_ttl: float = setting(
        86400.0,
        seconds(most=604800.0),
        NAMES,
        "the longest TTL that your resolvers give",
        "the longest TTL that your resolvers give. For this long after an endpoint's DNS messages were lost, or after it was first seen, an answer that was not seen may still be valid: traffic that matches no rule by domain name is `unknown` ([dns.md](dns.md))",
        restart=True,
    )
    domains: Domains = setting(
        "registrable",
        choice("registrable", "full", "declared", "off"),
        SERIES,
        "what the label peer_domain shows",
        "what the label `peer_domain` shows of a domain name: the registrable domain, the whole name (many series), only those declared in `networks`, or nothing",
    )
    forwarders: tuple[str, ...] = setting(
        (),
        FORWARDERS,
        NAMES,
        "workloads that forward traffic for others",
        "workloads that forward traffic for others (routers, VPN, egress gateways, direct server return): packets with other source addresses are evaluated as their own, and not counted as spoofed",
        flag=False,
    )
    policies: tuple[Path, ...] = setting(
        (),
        PATHS,
        POLICY,
        "file or directory of policies, reloaded when it changes; may be repeated",
        "files and directories of policies, in addition to those of the API; checked for changes every second ([policy.md](policy.md))",
    )
    expected: tuple[ExpectedTraffic, ...] = setting(
        (),
        EXPECTED,
        POLICY,
        "known egress that does not alert, until a day",
        "known egress that is denied or undeclared: events are marked and alerts exclude it, until a given day",
        flag=False,
    )
    candidate_delete: tuple[PolicyName, ...] = setting(
        (),
        POLICY_NAMES,
        POLICY,
        "dry run: evaluate as if this policy were deleted; may be repeated",
        "dry run: policies in force, evaluated as if they were deleted",
    )
    candidates: tuple[Path, ...] = setting(
        (),
        PATHS,
        POLICY,
        "dry run: evaluate these candidate policies too; may be repeated",
        "dry run: candidate policies, evaluated in addition to those in force; each connection is evaluated twice",
        flag="candidate",
    )
    history: History = setting(
        History(),
        HISTORY,
        HISTORY_GROUP,
        "file of the history, or off",
        "file of the history, by minute and conversation, for `podtally flows` ([history.md](history.md)); `off`: none. A row takes some 30 bytes and 6 µs",
    )
    flow_log: Path | None = setting(
        None,
        LOG,
        LOGS,
        "write a JSON line for every finished connection; - is standard output",
        "write a line for every finished connection, some 500 bytes each ([logs.md](logs.md))",
    )
    flow_log_max_bytes: int = setting(
        64 << 20,
        SIZE,
        LOGS,
        "size at which the flow log is rotated to PATH.1",
        "size at which the file is rotated to `PATH.1`; it can take twice as much on disk",
    )
    events: str | None = setting(
        None,
        TEXT._replace(words=LOG.words, metavar="PATH"),
        LOGS,
        "write a JSON line for each denied or undeclared connection; - is standard output",
        "write a line for each new connection that policy denies or that no policy covers",
    )
    events_max_bytes: int = setting(
        64 << 20,
        SIZE,
        LOGS,
        "size at which the event log is rotated to PATH.1",
        "size at which the file is rotated, as for the flow log",
    )
    events_rate: int = setting(
        50,
        count(unit="lines per second"),
        LOGS,
        "lines per second, on average",
        "lines per second, on average; other events wait, and are written later with larger counts",
    )
    events_interval: float = setting(
        60.0,
        seconds(),
        LOGS,
        "time between two lines of one event",
        "time between two lines of one event; it doubles while the event continues, up to an hour",
    )
    events_verdicts: tuple[str, ...] = setting(
        EVENT_VERDICTS,
        words(*EVENT_VERDICTS),
        LOGS,
        "verdicts that cause events",
        "verdicts that cause events; `undeclared` is noisy if you have few policies",
    )

    def listen_address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def _declared() -> Iterator[Setting]:
    given = Config()
    for each in dataclasses.fields(Config):
        declared = dict(each.metadata)
        flag = declared.pop("flag")
        words = flag if isinstance(flag, str) else each.name if flag else ""
        made = f"--{words.replace('_', '-')}" if words else ""
        yield Setting(name=each.name, default=getattr(given, each.name), flag=made, **declared)


SETTINGS = {each.name: each for each in _declared()}
GROUPS = tuple(dict.fromkeys(each.group for each in SETTINGS.values()))
RESTART_ONLY = tuple(name for name, each in SETTINGS.items() if each.restart)
