"""The one frozen Config, from defaults, a YAML file and the command line, in that order."""

import argparse
import contextlib
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from podtally.errors import PodtallyError
from podtally.policy.policy_names import Name, parse_name
from podtally.shapes import explain, refusal

DEFAULT_FILE = Path("/etc/podtally/podtally.yaml")
DEFAULT_PIN_DIR = Path("/sys/fs/bpf/podtally")
DEFAULT_STATE_DIR = Path("/run/podtally")
STANDARD_OUTPUT = "-"  # in the place of the path of a log
DEFAULT_LISTEN = "127.0.0.1:9775"

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Grace = Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]  # an empty path would be the working directory
Attach = Literal["auto", "tcx", "clsact"]
Kubernetes = Literal["auto", "on", "off"]
DEFAULT_POD_LOGS = Path("/var/log/pods")
EVENT_VERDICTS = ("denied", "undeclared")
FlowLabels = Literal["workload", "pod"]
Scope = Literal["node", "zone", "cross_zone", "cluster", "private", "internet", "unknown"]
# Dollars for 10^9 bytes. Above it, the price of a long epoch's bytes may not fit into 64 bits.
Price = Annotated[float, msgspec.Meta(ge=0, le=10)]
PRICE_STEP = 0.0001


class StaticEndpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``endpoints:``, found by exactly one of netns, interface and address."""

    name: str
    namespace: str = "static"
    workload: str = ""  # the name, if not given
    workload_kind: str = ""
    labels: dict[str, str] = {}
    netns: str = ""  # a name under /run/netns
    interface: str = ""  # the interface that is watched
    address: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.netns, self.interface, self.address))) != 1:
            raise ValueError(f"endpoint {self.name!r} needs one of netns, interface and address")
        if self.address:  # as the links room writes addresses, to be compared with them
            address = str(ipaddress.ip_address(self.address))
            msgspec.structs.force_setattr(self, "address", address)


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``prices:``, in dollars for 10^9 bytes, by how far away the other end is."""

    egress: dict[Scope, Price] = {}
    ingress: dict[Scope, Price] = {}

    def __post_init__(self) -> None:
        for direction in ("egress", "ingress"):
            for scope, price in getattr(self, direction).items():
                steps = price / PRICE_STEP
                if abs(steps - round(steps)) > 1e-6:
                    raise ValueError(
                        f"{direction}: {scope}: {price:g} is finer than {PRICE_STEP:f} dollars"
                    )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a configuration file may say; keys are the flags' names, with underscores."""

    listen: str | None = None
    web_config_file: Text | None = None
    state_dir: str | None = None
    pin_dir: str | None = None
    interfaces: str | None = None
    epoch: Seconds | None = None
    max_flows: Annotated[int, msgspec.Meta(ge=1, le=2**21)] | None = None
    attach: Attach | None = None
    flow_log: str | None = None
    flow_log_max_bytes: Count | None = None
    policies: Text | list[Text] | None = None
    candidates: Text | list[Text] | None = None
    candidate_delete: Text | list[Text] | None = None
    events: Text | None = None
    events_max_bytes: Count | None = None
    events_rate: Count | None = None
    events_interval: Seconds | None = None
    events_verdicts: str | list[str] | None = None
    series_limit: Count | None = None
    series_grace: Grace | None = None
    flow_labels: FlowLabels | None = None
    prices: Prices | None = None
    kubecost_alias: bool | None = None
    kubernetes: Kubernetes | None = None
    kubeconfig: str | None = None
    kube_context: str | None = None
    node_name: str | None = None
    cri_socket: str | None = None
    pod_logs: str | None = None
    name_wait: Seconds | None = None
    endpoints: list[StaticEndpoint] | None = None
    networks: dict[str, str | list[str]] | None = None
    forwarders: Text | list[Text] | None = None


@dataclass(frozen=True)
class Config:
    """Everything an agent is told; see ``podtally run --help`` for the meanings."""

    listen: str = DEFAULT_LISTEN
    web_config_file: Path | None = None  # TLS and users, as Prometheus' exporters read it
    state_dir: Path = DEFAULT_STATE_DIR
    pin_dir: Path = DEFAULT_PIN_DIR
    interfaces: str | None = None
    epoch: float = 1.0  # seconds: short enough for alerts, long enough to cost little
    max_flows: int = 65536  # active within one epoch; 27 MB of kernel memory
    attach: Attach = "auto"
    flow_log: Path | None = None  # or - for standard output
    flow_log_max_bytes: int = 64 << 20  # then the file is rolled to FILE.1
    policies: tuple[Path, ...] = ()
    candidates: tuple[Path, ...] = ()
    candidate_delete: tuple[Name, ...] = ()  # policies in force, tried as if they were deleted
    events: str | None = None  # a path, or - for standard output
    events_max_bytes: int = 64 << 20  # then the file is rolled to FILE.1
    events_rate: int = 50  # lines a second: what a log collector takes from every node
    events_interval: float = 60.0  # seconds between two lines of the same event
    events_verdicts: tuple[str, ...] = EVENT_VERDICTS
    series_limit: int = 10_000  # a Prometheus takes that from every node without care
    series_grace: float = 300.0  # seconds; several scrapes of the usual 15 to 60 s
    flow_labels: FlowLabels = "workload"  # pod: more series, that come and go with pods
    prices: Prices = field(default_factory=Prices)
    kubecost_alias: bool = False  # OpenCost reads these names
    kubernetes: Kubernetes = "auto"  # ask the API where a kubeconfig or a service account is
    kubeconfig: Path | None = None
    kube_context: str | None = None
    node_name: str | None = None  # $NODE_NAME, else the host's name
    cri_socket: str = "auto"  # auto: where runtimes have theirs; off; or a path
    pod_logs: Path = DEFAULT_POD_LOGS
    name_wait: float = 10.0  # seconds that flows wait for a name: an API may be slow, not dead
    endpoints: tuple[StaticEndpoint, ...] = ()
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forwarders: tuple[str, ...] = ()  # NAMESPACE/WORKLOAD, globs: they send in the name of others

    def listen_address(self) -> tuple[str, int]:
        host, separator, port = self.listen.rpartition(":")
        if not separator or not port.isdigit() or int(port) > 65535:
            raise PodtallyError(
                f"listen address {self.listen!r} is not ADDR:PORT", f"for example {DEFAULT_LISTEN}"
            )
        return host.strip("[]"), int(port)


def load(path: Path | None, flags: Mapping[str, Any]) -> Config:
    """Defaults, then the file, then what the command line gave (None: not given).

    Without ``path`` the default file is read if it is there.
    """
    values: dict[str, Any] = {}
    if path is not None or DEFAULT_FILE.exists():
        values.update(_read(path or DEFAULT_FILE))
    values.update({name: value for name, value in flags.items() if value is not None})
    for name in ("web_config_file", "state_dir", "pin_dir", "flow_log", "kubeconfig", "pod_logs"):
        if name in values:
            values[name] = Path(values[name])
    for name in ("policies", "candidates"):
        if name in values:
            values[name] = tuple(map(Path, _listed(values[name])))
    if "events_verdicts" in values:
        values["events_verdicts"] = _verdicts(values["events_verdicts"])
    if "candidate_delete" in values:
        values["candidate_delete"] = _policy_names(values["candidate_delete"])
    config = Config(**values)
    config.listen_address()
    _check_logs(config.flow_log, config.events)
    return config


def _check_logs(flow_log: Path | None, events: str | None) -> None:
    """Refuse one file for both logs, however it is spelled, and one log that the other rolls to."""
    if flow_log is None or events is None:
        return
    if _same_file(flow_log, Path(events)):
        raise PodtallyError(f"flow log and events are both to go to {events}", "name two files")
    if STANDARD_OUTPUT in (str(flow_log), events):
        return
    for one, other in ((flow_log, Path(events)), (Path(events), flow_log)):
        rolled = Path(f"{one}.1")
        if _same_file(rolled, other):
            raise PodtallyError(f"{other} is where {one} is rolled to", "name two files")


def _same_file(one: Path, other: Path) -> bool:
    """Whether both are one file, or would be: by links, by another way to it, as hard links."""
    if STANDARD_OUTPUT in (str(one), str(other)):
        return one == other
    with contextlib.suppress(OSError):
        if one.samefile(other):
            return True
    return os.path.realpath(one) == os.path.realpath(other)


def from_arguments(args: argparse.Namespace) -> Config:
    """The configuration of a command whose flags are named like the settings."""
    flags = {name: value for name, value in vars(args).items() if name in _FILE_KEYS}
    check_flags(flags)
    return load(args.config, flags)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise PodtallyError(
            f"cannot read the configuration {path}: {error.strerror}", "check --config"
        ) from None
    except UnicodeDecodeError as error:
        raise PodtallyError(f"{path}: not YAML: {error}", "check --config") from None
    try:
        file = msgspec.convert(yaml.safe_load(text) or {}, type=_File)
    except RecursionError:
        raise PodtallyError(f"{path}: nested too deep", "flatten it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise PodtallyError(
            f"{where}: not YAML: {getattr(error, 'problem', error)}", "fix that line"
        ) from None
    except msgspec.ValidationError as error:
        raise refusal(error, str(path), "see `podtally run --help` for the keys") from None
    values = {
        name: value
        for name, value in ((f.name, getattr(file, f.name)) for f in msgspec.structs.fields(file))
        if value is not None
    }
    if "listen" in values:
        _check_listen(path, values["listen"])
    if "endpoints" in values:
        values["endpoints"] = tuple(values["endpoints"])
    if "events_verdicts" in values:
        _verdicts(values["events_verdicts"], f"{path}: events_verdicts")
    if "candidate_delete" in values:
        _policy_names(values["candidate_delete"], f"{path}: candidate_delete")
    if "networks" in values:
        values["networks"] = _networks(path, values["networks"])
    if "forwarders" in values:
        values["forwarders"] = _forwarders(path, values["forwarders"])
    return values


def _forwarders(path: Path, given: str | list[str]) -> tuple[str, ...]:
    for pattern in _listed(given):
        namespace, _, workload = pattern.partition("/")
        if not namespace or not workload:
            raise PodtallyError(
                f"{path}: forwarders: {pattern!r} is not NAMESPACE/WORKLOAD",
                "write it as in kube-system/egress-gateway; * stands for any characters",
            )
    return _listed(given)


def _check_listen(path: Path, listen: str) -> None:
    try:
        Config(listen=listen).listen_address()
    except PodtallyError as error:
        raise PodtallyError(f"{path}: {error.what}", error.mend) from None


def _networks(path: Path, named: dict[str, str | list[str]]) -> dict[str, tuple[str, ...]]:
    networks = {}
    for name, prefixes in named.items():
        networks[name] = _listed(prefixes)
        for prefix in networks[name]:
            try:
                ipaddress.ip_network(prefix)
            except ValueError as error:
                raise PodtallyError(
                    f"{path}: networks: {name}: {error}", "write it as in 203.0.113.0/24"
                ) from None
    return networks


def _verdicts(given: str | list[str], where: str = "--events-verdicts") -> tuple[str, ...]:
    """Of a list, or of words with commas between; in the order of EVENT_VERDICTS."""
    words = [word.strip() for text in _listed(given) for word in text.split(",")]
    for word in words:
        if word not in EVENT_VERDICTS:
            raise PodtallyError(
                f"{where}: {word!r} is no verdict that makes events",
                f"choose from {', '.join(EVENT_VERDICTS)}",
            )
    if not words:
        raise PodtallyError(f"{where}: no verdict", "leave events out for none")
    return tuple(word for word in EVENT_VERDICTS if word in words)


def _policy_names(given: str | list[str], where: str = "--candidate-delete") -> tuple[Name, ...]:
    names = []
    for text in _listed(given):
        name = parse_name(text)
        if name is None:
            raise PodtallyError(
                f"{where}: {text[:200]!r} names no policy",
                "write NetworkPolicy/NAMESPACE/NAME, or ClusterNetworkPolicy/NAME",
            )
        names.append(name)
    return tuple(dict.fromkeys(names))


def _listed(given: str | list[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def check_flags(flags: Mapping[str, Any]) -> None:
    """Hold the command line to the same types and bounds as the file."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        msgspec.convert(given, type=_File)
        if "events_verdicts" in given:
            _verdicts(given["events_verdicts"])
        if "candidate_delete" in given:
            _policy_names(given["candidate_delete"])
    except msgspec.ValidationError as error:
        steps, words = explain(error)
        name = str(steps[0])
        flag = _FLAGS.get(name, name).replace("_", "-")
        raise PodtallyError(f"--{flag}: {words}", "see --help") from None


_FLAGS = {"candidates": "candidate"}  # those that are not named like their setting
_FILE_KEYS = frozenset(f.name for f in msgspec.structs.fields(_File))
