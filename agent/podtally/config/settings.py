# SPDX-License-Identifier: Apache-2.0
"""The settings, each declared once: file keys, flags, defaults and documentation."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from podtally.config.kinds import (
    ADDRESS,
    FORWARDERS,
    GLOBS,
    LOG,
    NAME,
    NETWORKS,
    PATH,
    PATHS,
    POLICY_NAMES,
    SIZE,
    SOCKET,
    SWITCH,
    TEXT,
    SettingKind,
    choice,
    count,
    duration_text,
    seconds,
    words,
)
from podtally.config.policy_name import PolicyName
from podtally.config.structs import ENDPOINTS, PRICES, Prices, StaticEndpoint

T = TypeVar("T")

DEFAULT_FILE = Path("/etc/podtally/podtally.yaml")
DEFAULT_PIN_DIR = Path("/sys/fs/bpf/podtally")
DEFAULT_STATE_DIR = Path("/run/podtally")
DEFAULT_LISTEN = "127.0.0.1:9775"
DEFAULT_POD_LOGS = Path("/var/log/pods")
EVENT_VERDICTS = ("denied", "undeclared")
Attach = Literal["auto", "tcx", "clsact"]
Kubernetes = Literal["auto", "on", "off"]
FlowLabels = Literal["workload", "pod"]

# Groups, as --help and docs/configuration.md title them.
PLACES = "Places"
COUNTING = "What is counted"
SERIES = "What series there are"
NAMES = "Where names come from"
POLICY = "Policy"
LOGS = "Logs"
_MAX_GRACE = 366 * 86400.0


class Setting(NamedTuple):
    """What is declared of one setting; ``name`` is its key in the file."""

    name: str
    default: Any
    kind: SettingKind
    group: str
    help: str  # one line, for --help
    text: str  # for the documentation: what it is, and what it costs
    flag: str  # "" for one that only the file has
    restart: bool  # a reload does not change it


def _setting(
    default: T,
    kind: SettingKind,
    group: str,
    help: str,
    text: str = "",
    *,
    flag: bool | str = True,
    restart: bool = False,
) -> T:
    """Return a dataclass field; ``text`` is ``help`` if it says all."""
    declared = {
        "kind": kind,
        "group": group,
        "help": help,
        "text": text or help,
        "flag": flag,
        "restart": restart,
    }
    made: Any = dataclasses.field(default=default, metadata=declared)
    if isinstance(default, dict):
        made = dataclasses.field(default_factory=dict, metadata=declared)
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Config:
    """Everything that an agent is configured with."""

    listen: str = _setting(
        DEFAULT_LISTEN,
        ADDRESS,
        PLACES,
        "where /metrics, health and the API answer",
        "where `/metrics`, `/livez`, `/readyz` and the API answer; `0.0.0.0:9775` for a Prometheus elsewhere, `[::]:9775` for IPv6",
    )
    web_config_file: Path | None = _setting(
        None,
        PATH,
        PLACES,
        "TLS and users, in the file format of Prometheus' exporters; reloaded when it changes",
        "TLS and users for it, in the file format of Prometheus' exporters ([web.md](web.md))",
    )
    state_dir: Path = _setting(
        DEFAULT_STATE_DIR,
        PATH,
        PLACES,
        "where the checkpoint is kept",
        "the checkpoint, which must outlive the agent, not a boot: a tmpfs is best",
        restart=True,
    )
    pin_dir: Path = _setting(
        DEFAULT_PIN_DIR,
        PATH,
        PLACES,
        "where programs and maps are pinned",
        "where programs and maps are pinned, on a bpffs; one for each agent",
        restart=True,
    )
    interfaces: str | None = _setting(
        None,
        GLOBS,
        COUNTING,
        "globs, comma-separated, !GLOB excludes (default: all pod interfaces)",
        "which interfaces; none: every pod's. With globs, those that match and no others: to see the host's own processes, name the uplink as well (`veth*,cali*,eth0`). A packet on each costs 7 to 28 ns",
    )
    epoch: float = _setting(
        1.0,
        seconds(),
        COUNTING,
        "time between two readings of the kernel's table",
        "between two readings of the kernel's table: the numbers are at most this old. At 1 s an agent at rest takes 0.3 to 1 % of a core",
    )
    max_flows: int = _setting(
        65536,
        count(1, 2**21),
        COUNTING,
        "flows that may be active within one epoch",
        "flows active within one epoch; more are booked as `overflow`. 27 MB of kernel memory, and as much again with each doubling (2 x 208 bytes a flow, a power of two of them)",
        restart=True,
    )
    attach: Attach = _setting(
        "auto",
        choice("auto", "tcx", "clsact"),
        COUNTING,
        "how programs are attached (auto: TCX where the kernel has it)",
        "how programs are attached to interfaces; `auto`: TCX where the kernel has it, which takes the kernel some 25 ms per interface; clsact takes 1 ms",
        restart=True,
    )
    flow_labels: FlowLabels = _setting(
        "workload",
        choice("workload", "pod"),
        SERIES,
        "what flow series name; pod makes more series, which come and go with pods",
        "what flow series are labelled with. `pod`: a series for each pod and peer, which comes and goes with it; [avoid](metrics.md#traffic) where pods are many or short-lived",
    )
    series_limit: int = _setting(
        10_000,
        count(),
        SERIES,
        "label sets of flows; an endpoint's excess is summed under `other`",
        "label sets of flows, each with bytes, packets and connections; an endpoint with more than its share of them has the rest under `other`, sums exact",
    )
    series_grace: float = _setting(
        300.0,
        seconds(0, _MAX_GRACE, above=False),
        SERIES,
        "how long series of dead pods stay",
        "how long series of dead pods stay: a few scrapes, or their last bytes are never scraped",
    )
    prices: Prices = _setting(
        Prices(),
        PRICES,
        SERIES,
        "what bytes cost",
        "what bytes cost: `podtally_egress_cost_dollars_total`. A series for each workload and scope that has a price",
        flag=False,
    )
    kubecost_alias: bool = _setting(
        False,
        SWITCH,
        SERIES,
        "kubecost_pod_network_egress_bytes_total as well, for OpenCost and Kubecost",
        "`kubecost_pod_network_egress_bytes_total` as well, for OpenCost and Kubecost: series for each pod",
    )
    kubernetes: Kubernetes = _setting(
        "auto",
        choice("auto", "on", "off"),
        NAMES,
        "watch the Kubernetes API (auto: if there is a service account, or kubeconfig)",
        "whether the Kubernetes API is watched; `auto`: if there is a service account, or `kubeconfig`. 10,000 pods take some 70 MB, and each agent watches all of them",
    )
    kubeconfig: Path | None = _setting(
        None, PATH, NAMES, "how to reach the API from outside of the cluster"
    )
    kube_context: str | None = _setting(
        None,
        NAME,
        NAMES,
        "its context (default: the current one)",
        "a context of it; none: the current one",
    )
    node_name: str | None = _setting(
        None,
        NAME,
        NAMES,
        "this node, as the API calls it (default: $NODE_NAME, or the host's name)",
        "this node, as the API calls it; none: `$NODE_NAME`, else the host's name in lower case",
    )
    cri_socket: str = _setting(
        "auto",
        SOCKET,
        NAMES,
        "the container runtime's socket (auto: the usual places)",
        "the container runtime's socket; `auto`: the usual places",
    )
    pod_logs: Path = _setting(
        DEFAULT_POD_LOGS,
        PATH,
        NAMES,
        "the kubelet's pod logs, whose directories name pods",
    )
    name_wait: float = _setting(
        10.0,
        seconds(),
        NAMES,
        "how long flows wait for a name that may still come",
        "how long flows wait for a name that may still come; then they are `unknown`, and counted",
    )
    endpoints: tuple[StaticEndpoint, ...] = _setting(
        (), ENDPOINTS, NAMES, "names for interfaces that nothing else names", flag=False
    )
    networks: Mapping[str, tuple[str, ...]] = _setting(
        {}, NETWORKS, NAMES, "names for external addresses", flag=False
    )
    forwarders: tuple[str, ...] = _setting(
        (),
        FORWARDERS,
        NAMES,
        "workloads that forward traffic of others",
        "workloads that send and receive for others (routers, VPN, egress gateways, direct server return): packets from addresses that are not theirs are judged as their own, not counted as spoofed",
        flag=False,
    )
    policies: tuple[Path, ...] = _setting(
        (),
        PATHS,
        POLICY,
        "a file or directory of policies, reloaded when it changes; may be repeated",
        "files and directories of policies, beside those of the API; checked for changes each second ([policy.md](policy.md))",
    )
    candidate_delete: tuple[PolicyName, ...] = _setting(
        (),
        POLICY_NAMES,
        POLICY,
        "a policy in force, evaluated beside the others as if it were deleted; may be repeated",
        "policies in force, evaluated as if they were deleted",
    )
    candidates: tuple[Path, ...] = _setting(
        (),
        PATHS,
        POLICY,
        "candidate policies, evaluated beside those in force (dry run); may be repeated",
        "candidate policies, evaluated beside those in force (dry run): each connection is judged twice",
        flag="candidate",
    )
    flow_log: Path | None = _setting(
        None,
        LOG,
        LOGS,
        "a JSON line for every finished connection; - is standard output",
        "a line for every finished connection, some 500 bytes each ([logs.md](logs.md))",
    )
    flow_log_max_bytes: int = _setting(
        64 << 20,
        SIZE,
        LOGS,
        "size at which the flow log is rotated to PATH.1",
        "size at which the file is rotated to `PATH.1`; so twice as much on disk",
    )
    events: str | None = _setting(
        None,
        TEXT._replace(words=LOG.words, metavar="PATH"),
        LOGS,
        "a JSON line for each denied or undeclared connection; - is standard output",
        "a line for each new connection that policy denies or that no policy covers",
    )
    events_max_bytes: int = _setting(
        64 << 20,
        SIZE,
        LOGS,
        "size at which the event log is rotated to PATH.1",
        "as with the flow log",
    )
    events_rate: int = _setting(
        50,
        count(unit="lines a second"),
        LOGS,
        "lines a second, on average",
        "on average; more wait, and are written later with greater sums",
    )
    events_interval: float = _setting(
        60.0,
        seconds(),
        LOGS,
        "time between two lines of the same event",
        "between two lines of the same event; twice as long each time while it goes on, up to an hour",
    )
    events_verdicts: tuple[str, ...] = _setting(
        EVENT_VERDICTS,
        words(*EVENT_VERDICTS),
        LOGS,
        "verdicts that make events",
        "which verdicts make events; `undeclared` is noisy if you have few policies",
    )

    def listen_address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def _declared() -> Iterator[Setting]:
    given = Config()
    for each in dataclasses.fields(Config):
        told = dict(each.metadata)
        flag = told.pop("flag")
        words = flag if isinstance(flag, str) else each.name if flag else ""
        made = f"--{words.replace('_', '-')}" if words else ""
        yield Setting(name=each.name, default=getattr(given, each.name), flag=made, **told)


SETTINGS = {each.name: each for each in _declared()}
GROUPS = tuple(dict.fromkeys(each.group for each in SETTINGS.values()))
RESTART_ONLY = tuple(name for name, each in SETTINGS.items() if each.restart)


def default_text(setting: Setting) -> str:
    """Return a default as people write it; "none" if there is none."""
    value = setting.default
    if value in (None, (), {}, Prices()):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if setting.kind.metavar == "SIZE":
        return f"{value >> 20}MiB"
    if setting.kind.metavar == "DURATION":
        return duration_text(value)
    return str(value)
