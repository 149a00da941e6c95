# SPDX-License-Identifier: Apache-2.0
"""Chooses the networks that stand for peers outside the cluster.

A single address is written only if it was used during the whole window: the addresses of a name
that rotate are not a policy.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from podtally.policy.cidr import parse_cel
from podtally.policy.model import Block, Network
from podtally.policy.reference.matching import in_block, in_network

_MAPPED = 0xFFFF
_BITS = 128
_STABLE_PART = 0.5  # of the window in which a stable address is seen
_MAX_ADDRESSES = 8  # more are not listed one by one
_MAX_FREE = 6  # bits: a prefix of at most 64 addresses stands for those seen in it
_INSIDE4 = ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
_INSIDE6 = ("fc00::/7", "fe80::/10")


class NetworkChoice(NamedTuple):
    blocks: tuple[Block, ...]
    note: str  # why these


class NetworkChooser:
    """``declared``: networks by name; ``cluster``: addresses of its pods and nodes."""

    def __init__(
        self,
        window: tuple[float, float],
        declared: Mapping[str, Sequence[Network]],
        cluster: Sequence[int],
    ) -> None:
        self._window = window
        self._declared = declared
        self._excepted = {
            is_ipv4: [
                covering(some)
                for some in [
                    [ip for ip in cluster if _is_ipv4(ip) == is_ipv4 and not _is_inside(ip)]
                ]
                if some
            ]
            for is_ipv4 in (True, False)
        }

    def choose(self, addresses: Mapping[int, tuple[float, float]]) -> NetworkChoice:
        """Return blocks that contain all addresses, declared networks first."""
        names, rest = _declared(addresses, self._declared)
        blocks = [Block(network) for network in names.values()]
        notes = [f"declared network {', '.join(sorted(set(names)))}"] if names else []
        for is_ipv4 in (True, False):
            for is_inside in (True, False):
                some = {
                    ip: span
                    for ip, span in rest.items()
                    if (_is_ipv4(ip), _is_inside(ip)) == (is_ipv4, is_inside)
                }
                if some:
                    chosen = self._of_group(some, is_inside, is_ipv4)
                    blocks += chosen.blocks
                    notes.append(chosen.note)
        wide = [block for block in blocks if block.excepted]
        kept = [each for each in blocks if each in wide or not any(_holds(w, each) for w in wide)]
        return NetworkChoice(tuple(dict.fromkeys(kept)), "; ".join(notes))

    def _of_group(
        self, addresses: Mapping[int, tuple[float, float]], is_inside: bool, is_ipv4: bool
    ) -> NetworkChoice:
        prefix = covering(list(addresses))
        free = _BITS - prefix.bits
        part = f"{len(addresses)} of its {1 << free} addresses seen"
        if all(self._is_stable(span) for span in addresses.values()):
            if len(addresses) > 1 and free <= _MAX_FREE and len(addresses) * 4 >= 1 << free:
                return NetworkChoice((Block(prefix),), part)
            if len(addresses) <= _MAX_ADDRESSES:
                each = tuple(Block(Network(ip, _BITS)) for ip in sorted(addresses))
                return NetworkChoice(each, "stable during the window")
        if is_inside:
            return NetworkChoice((Block(prefix),), part)
        excepted = [each for each in self._excepted[is_ipv4] if not _overlaps(each, addresses)]
        return NetworkChoice(
            (_outside(is_ipv4, excepted),), f"not stable, addresses seen: {len(addresses)}"
        )

    def _is_stable(self, span: tuple[float, float]) -> bool:
        return span[1] - span[0] >= _STABLE_PART * (self._window[1] - self._window[0])


def _declared(
    addresses: Mapping[int, tuple[float, float]], declared: Mapping[str, Sequence[Network]]
) -> tuple[dict[str, Network], dict[int, tuple[float, float]]]:
    names: dict[str, Network] = {}
    rest = {}
    for ip, span in addresses.items():
        holding = [
            (network.bits, name, network)
            for name, networks in declared.items()
            for network in networks
            if in_network(network, ip)
        ]
        if holding:
            _, name, network = max(holding)
            names[name] = network
        else:
            rest[ip] = span
    return names, rest


def covering(addresses: Sequence[int]) -> Network:
    """Return the smallest network that contains all addresses."""
    low, high = min(addresses), max(addresses)
    free = (low ^ high).bit_length()
    return Network(low >> free << free, _BITS - free)


def _holds(wide: Block, block: Block) -> bool:
    last = block.network.first + (1 << (_BITS - block.network.bits)) - 1
    return in_block(wide, block.network.first) and in_block(wide, last)


def _overlaps(network: Network, addresses: Iterable[int]) -> bool:
    return any(in_network(network, ip) for ip in addresses)


@lru_cache(1 << 16)
def _is_inside(address: int) -> bool:
    """Return whether it is of a private or link-local network."""
    return any(in_network(_network(text), address) for text in (*_INSIDE4, *_INSIDE6))


def _outside(is_ipv4: bool, more: Iterable[Network]) -> Block:
    """Return every address outside private networks and the cluster."""
    whole = _network("0.0.0.0/0" if is_ipv4 else "::/0")
    excepted = [*map(_network, _INSIDE4 if is_ipv4 else _INSIDE6), *more]
    return Block(whole, tuple(sorted(excepted)))


@lru_cache
def _network(text: str) -> Network:
    cidr = parse_cel(text)
    if cidr is None:
        raise ValueError(f"invalid CIDR {text!r}")
    return cidr.network()


def _is_ipv4(address: int) -> bool:
    return address >> 32 == _MAPPED
