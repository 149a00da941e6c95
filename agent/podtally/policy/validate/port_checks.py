# SPDX-License-Identifier: Apache-2.0
"""Validation of ports in the admin tiers' rules, and checks shared by these kinds."""

from podtally.policy.problems import WARNING, Fault, Path, warning
from podtally.policy.schema.admin import AdminPort, Protocol, ProtocolMatch
from podtally.policy.validate import network_checks
from podtally.policy.validate.network_checks import Faults, not_one_of


def required(path: Path) -> Fault:
    return Fault(path, "is required")


def length(length: int, path: Path, max_items: int) -> Faults:
    if not 1 <= length <= max_items:
        yield Fault(path, f"must have 1 to {max_items} items")


def exactly_one(fields: dict[str, object], path: Path) -> Faults:
    given = [name for name, value in fields.items() if value is not None]
    if len(given) != 1:
        yield Fault(path, f"must have exactly one of {', '.join(fields)}")


def admin_port(port: AdminPort, path: Path) -> Faults:
    fields: dict[str, object] = {
        "portNumber": port.port_number,
        "portRange": port.port_range,
        "namedPort": port.named_port,
    }
    yield from exactly_one(fields, path)
    if port.port_number is not None:
        at = (*path, "portNumber")
        yield from _number(port.port_number.port, (*at, "port"))
        yield from _older_protocol(port.port_number.protocol, at)
    if port.port_range is not None:
        at = (*path, "portRange")
        yield from _number(port.port_range.start, (*at, "start"))
        yield from _number(port.port_range.end, (*at, "end"))
        yield from _older_protocol(port.port_range.protocol, at)
        if (port.port_range.start or 0) > (port.port_range.end or 0):
            yield warning(at, "ends before it starts, so it matches no port")
    yield from _port_name(port.named_port, (*path, "namedPort"))


def _older_protocol(given: str, path: Path) -> Faults:
    if given not in network_checks.PROTOCOLS:
        fault = not_one_of((*path, "protocol"), given, network_checks.PROTOCOLS)
        yield fault._replace(severity=WARNING)


def _port_name(given: str | None, path: Path) -> Faults:
    if given == "":
        yield Fault(path, "is empty; give the name of a port", WARNING)


def _number(given: int | None, path: Path) -> Faults:
    if given is None:
        yield required(path)
    elif not 1 <= given <= 65535:
        yield Fault(path, "must be between 1 and 65535")


def cluster_protocol(given: Protocol, path: Path) -> Faults:
    matches = {"tcp": given.tcp, "udp": given.udp, "sctp": given.sctp}
    named = given.destination_named_port
    yield from exactly_one({**matches, "destinationNamedPort": named}, path)
    for name, match in matches.items():
        if match is not None:
            yield from _match(match, (*path, name))
    yield from _port_name(named, (*path, "destinationNamedPort"))


def _match(match: ProtocolMatch, path: Path) -> Faults:
    port = match.destination_port
    if port is None:
        yield Fault(path, "must have a destinationPort")
        return
    at = (*path, "destinationPort")
    yield from exactly_one({"number": port.number, "range": port.range}, at)
    if port.number is not None:
        yield from _number(port.number, (*at, "number"))
    if port.range is not None:
        start, end = port.range.start, port.range.end
        yield from _number(start, (*at, "range", "start"))
        yield from _number(end, (*at, "range", "end"))
        if start is not None and end is not None and start >= end:
            yield Fault((*at, "range"), "must start before it ends; use number for a single port")
