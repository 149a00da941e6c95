# SPDX-License-Identifier: Apache-2.0
"""Formats policies, rules, endpoints, networks and ports for people to read."""

from ipaddress import IPv6Address, ip_network
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP

from podtally.policy.model import (
    HOST,
    LAST_PORT,
    NODE,
    POD,
    Network,
    Policy,
    PolicyEndpoint,
    PolicyPort,
    Requirement,
    Rule,
)

_MAPPED, _MAPPED_BITS = 0xFFFF, 96
_PROTOCOLS = {
    IPPROTO_TCP: "TCP",
    IPPROTO_UDP: "UDP",
    IPPROTO_SCTP: "SCTP",
    IPPROTO_ICMP: "ICMP",
    IPPROTO_ICMPV6: "ICMPv6",
}


def format_policy(policy: Policy) -> str:
    if policy.namespace:
        return f"{policy.namespace}/{policy.name}"
    return f"{policy.kind}/{policy.name}"


def format_rule(policy: Policy, rule: Rule, direction: str) -> str:
    # The API allows any characters here, and this goes to terminals and logs.
    shown = rule.name if rule.name.isprintable() else ascii(rule.name)
    name = f" ({shown})" if shown else ""
    return f"{format_policy(policy)} {direction}[{rule.index}]{name}"


def format_address(ip: int) -> str:
    address = IPv6Address(ip)
    return str(address.ipv4_mapped or address) if ip else "an unknown address"


def format_endpoint(endpoint: PolicyEndpoint, ip: int) -> str:
    if endpoint.kind == POD:
        return f"{endpoint.namespace}/{endpoint.name}"
    if endpoint.kind == NODE:
        return f"node {endpoint.name}"
    if endpoint.kind == HOST:
        return endpoint.unit or endpoint.container or f"host {endpoint.name}".strip()
    return format_address(ip)


def format_protocol(protocol: int) -> str:
    return _PROTOCOLS.get(protocol, f"protocol {protocol}")


def format_network(network: Network) -> str:
    first, bits = network
    if bits >= _MAPPED_BITS and first >> 32 == _MAPPED:
        return str(ip_network((first & 0xFFFFFFFF, bits - _MAPPED_BITS)))
    return str(ip_network((first.to_bytes(16), bits)))


def format_port(port: PolicyPort) -> str:
    """Format a port without its protocol."""
    if port.name:
        return port.name
    if (port.first, port.last) == (0, LAST_PORT):
        return "any"
    return str(port.first) if port.first == port.last else f"{port.first}-{port.last}"


def format_requirement(requirement: Requirement) -> str:
    key, operator, values = requirement
    among = ", ".join(sorted(values))
    if operator == "In":
        return f"{key}={among}" if len(values) == 1 else f"{key} in ({among})"
    if operator == "NotIn":
        return f"{key} not in ({among})"
    return key if operator == "Exists" else f"no {key}"


def join_words(words: list[str], join: str, most: int = 4) -> str:
    """Join as "a, b or c"; words beyond ``most`` are counted: "2 more"."""
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return f" {join} ".join(filter(None, (", ".join(words[:-1]), words[-1])))
