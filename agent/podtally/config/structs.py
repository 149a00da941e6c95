# SPDX-License-Identifier: Apache-2.0
"""Structured settings: static endpoints and prices."""

import ipaddress
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from podtally.config.kinds import SettingError, SettingKind
from podtally.yamltree.shapes import explain_mismatch, unknown_field
from podtally.yamltree.suggestion import did_you_mean

T = TypeVar("T")

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

    def __post_init__(self) -> None:
        for direction in ("egress", "ingress"):
            for scope, price in getattr(self, direction).items():
                steps = price / PRICE_STEP
                if abs(steps - round(steps)) > 1e-6:
                    raise ValueError(
                        f"{direction}: {scope}: {price:g} is finer than {PRICE_STEP:f} dollars"
                    )


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


def _prices(value: Any) -> Prices:
    return _converted(value, Prices, Prices)


ENDPOINTS = SettingKind("see [below](#endpoints)", _endpoints, "")
PRICES = SettingKind("see [below](#prices)", _prices, "")
