# SPDX-License-Identifier: Apache-2.0
"""Structured settings: static endpoints, prices and NAT gateways."""

import datetime
import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from podtally.config.kinds import SIZE, SettingError, SettingKind, refused
from podtally.yamltree.shapes import explain_mismatch, unknown_field
from podtally.yamltree.suggestion import did_you_mean

T = TypeVar("T")

DEFAULT_HISTORY = Path("/var/lib/podtally/history.db")
HISTORY_OFF = "off"  # in the place of the path
LEAST_HISTORY_BYTES = 4 << 20

Scope = Literal["node", "zone", "cross_zone", "cluster", "private", "internet", "unknown"]
# Dollars per 10^9 bytes; a higher price of a long epoch's bytes may not fit 64 bits.
Price = Annotated[float, msgspec.Meta(ge=0, le=10)]
PRICE_STEP = 0.0001


class StaticEndpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of ``endpoints:``, matched by exactly one of netns, interface and address."""

    name: str
    namespace: str = "static"
    workload: str = ""  # default: the name
    workload_kind: str = ""
    labels: dict[str, str] = {}
    netns: str = ""  # a name under /run/netns
    interface: str = ""  # the watched interface
    address: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.netns, self.interface, self.address))) != 1:
            raise ValueError(f"endpoint {self.name!r} needs one of netns, interface and address")
        if self.address:  # canonical, to be compared
            address = str(ipaddress.ip_address(self.address))
            msgspec.structs.force_setattr(self, "address", address)


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``prices:``, in dollars per 10^9 bytes, by the peer's scope."""

    egress: dict[Scope, Price] = {}
    ingress: dict[Scope, Price] = {}
    nat_gateway: dict[Literal["egress", "ingress"], Price] = {}  # in addition

    def by_scope(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Return the prices of egress and of ingress."""
        return dict[str, float](self.egress.items()), dict[str, float](self.ingress.items())

    def __post_init__(self) -> None:
        for direction in ("egress", "ingress", "nat_gateway"):
            for scope, price in getattr(self, direction).items():
                steps = price / PRICE_STEP
                if abs(steps - round(steps)) > 1e-6:
                    raise ValueError(
                        f"{direction}: {scope}: {price:g} is finer than {PRICE_STEP:f} dollars"
                    )


class ClickHouseTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``history.clickhouse.tls:``, for a URL with https."""

    ca_file: str = ""  # "": the system's
    cert_file: str = ""
    key_file: str = ""


class ClickHouse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``history.clickhouse:``: the server that also gets the history."""

    url: str = ""  # "": none
    database: str = "podtally"
    user: str = "default"
    password_file: str = ""
    tls: ClickHouseTls = ClickHouseTls()


class History(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``history:``; sizes in bytes."""

    path: str = str(DEFAULT_HISTORY)
    max_bytes: int = 1 << 30
    min_free_bytes: int = 1 << 30
    clickhouse: ClickHouse = ClickHouse()

    @property
    def is_on(self) -> bool:
        return self.path != HISTORY_OFF

    @property
    def file(self) -> Path:
        return Path(self.path)

    def __str__(self) -> str:
        return self.path


class ExpectedTraffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of ``expected:``: egress that is known, until a day, for a reason."""

    workload: str  # NAMESPACE/WORKLOAD; * matches any characters
    until: str  # the last day, YYYY-MM-DD
    reason: str
    peer: str = ""  # NAMESPACE/WORKLOAD, or a name of ``networks``
    domain: str = ""  # this name and all below it
    port: str = ""  # NUMBER or NUMBER/PROTOCOL; "": all

    def __post_init__(self) -> None:
        if "/" not in self.workload:
            raise ValueError(f"workload {self.workload!r} is not NAMESPACE/WORKLOAD")
        if bool(self.peer) == bool(self.domain):
            raise ValueError(f"{self.workload} needs one of peer and domain")
        if not self.reason.strip():
            raise ValueError(f"{self.workload} needs a reason")
        if self.port and not re.fullmatch(r"\d{1,5}(/(tcp|udp|sctp))?", self.port, re.IGNORECASE):
            raise ValueError(f"port {self.port!r} is not NUMBER or NUMBER/PROTOCOL")
        try:
            self.last_day()
        except ValueError:
            raise ValueError(f"until {self.until!r} is not a day like 2026-12-31") from None

    def last_day(self) -> datetime.date:
        return datetime.date.fromisoformat(self.until)


class NatGateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``nat_gateway:``, which traffic with the internet passes a NAT gateway."""

    node_labels: dict[str, str] = {}
    subnets: list[str] = []
    destinations: list[str] = []
    exclude: list[str] = []

    def __post_init__(self) -> None:
        for field in ("subnets", "destinations", "exclude"):
            for text in getattr(self, field):
                try:
                    ipaddress.ip_network(text)
                except ValueError as error:
                    raise ValueError(f"{field}: {error}") from None


def _converted(value: Any, type_: type[T], fields: type[msgspec.Struct]) -> T:
    try:
        return msgspec.convert(value, type=type_)
    except msgspec.ValidationError as error:
        unknown = unknown_field(error)
        if unknown is None:
            steps, message = explain_mismatch(error)
            raise SettingError(message, "see docs/configuration.md", steps) from None
        steps, name = unknown
        hint = did_you_mean(name, fields.__struct_fields__)
        raise SettingError(f"unknown field {name!r}", hint, steps) from None


def _endpoints(value: Any) -> tuple[StaticEndpoint, ...]:
    return tuple(_converted(value, list[StaticEndpoint], StaticEndpoint))


def _expected(value: Any) -> tuple[ExpectedTraffic, ...]:
    if isinstance(value, list):  # YAML reads some ports as numbers, and days as dates
        value = [_plain_entry(entry) for entry in value]
    return tuple(_converted(value, list[ExpectedTraffic], ExpectedTraffic))


def _plain_entry(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {name: _plain(each) for name, each in entry.items()}


def _plain(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number or isinstance(value, datetime.date) else value


def _prices(value: Any) -> Prices:
    return _converted(value, Prices, Prices)


def _nat_gateway(value: Any) -> NatGateway:
    return _converted(value, NatGateway, NatGateway)


def _history(value: Any) -> History:
    """Read a mapping, or the path alone."""
    if isinstance(value, str):
        value = {"path": value}
    if value is False:  # YAML 1.1 reads off as a boolean
        value = {"path": HISTORY_OFF}
    if not isinstance(value, dict):
        raise refused(value, "a path, `off` or a mapping")
    given = dict(value)
    if given.get("path") is False:
        given["path"] = HISTORY_OFF
    for name in ("max_bytes", "min_free_bytes"):
        if name in given and given[name] != 0:
            given[name] = _at(name, SIZE.read, given[name])
    found = _converted(given, History, History)
    if not found.path:
        raise SettingError("is empty", "use a path, or off", ("path",))
    if found.max_bytes < LEAST_HISTORY_BYTES:
        raise SettingError("is too small", "use at least 4MiB", ("max_bytes",))
    url, steps = urlsplit(found.clickhouse.url), ("clickhouse", "url")
    if found.clickhouse.url and (url.scheme not in ("http", "https") or not url.hostname):
        raise SettingError(
            f"{found.clickhouse.url!r} is no URL of HTTP", "use for example http://db:8123", steps
        )
    if url.username or url.password:
        raise SettingError("has a user or a password", "use user and password_file", steps)
    return found


def _at(name: str, read: Callable[[Any], int], value: Any) -> int:
    try:
        return read(value)
    except SettingError as problem:
        problem.steps = (name, *problem.steps)
        raise


HISTORY = SettingKind("path, `off`, or see [below](#history)", _history, "PATH")
ENDPOINTS = SettingKind("see [below](#endpoints)", _endpoints, "")
EXPECTED = SettingKind("see [below](#expected)", _expected, "")
PRICES = SettingKind("see [below](#prices)", _prices, "")
NAT_GATEWAY = SettingKind("see [below](#nat-gateway)", _nat_gateway, "")
