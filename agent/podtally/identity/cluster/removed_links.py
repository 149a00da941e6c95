# SPDX-License-Identifier: Apache-2.0
"""What the interfaces of this node's pods prove about the ends of the API's leases.

The API reports late that a pod is gone. Its removed interface shows at once that the pod has
its addresses no longer, and the next pod may have them before its own interface is reported.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from podtally.identity.interface_endpoints import InterfaceEndpoint, address_number
from podtally.identity.model import FOREVER


@dataclass(slots=True)
class PodLinks:
    """The addresses behind the interfaces of one pod, present and removed ones."""

    held: set[int] = field(default_factory=set)  # behind a present interface
    released: dict[int, int] = field(default_factory=dict)  # until when: CLOCK_MONOTONIC, ns
    is_present: bool = False
    is_unread: bool = False  # a present interface has not shown any address yet
    removed_ns: int = 0  # the last removal

    def released_ns(self, address: int) -> int | None:
        """Return until when the pod had an address; FOREVER: it has it; None: not known."""
        if address in self.held or self.is_unread:
            return FOREVER
        if address in self.released:
            return self.released[address]
        return self.removed_ns if self.removed_ns and not self.is_present else None

    def add(self, interface: InterfaceEndpoint) -> None:
        if not interface.gone_ns:
            self.is_present = True
            self.is_unread |= not interface.addresses
        elif interface.removed:
            self.removed_ns = max(self.removed_ns, interface.gone_ns)
        for span in interface.addresses:
            if not span.routed and not span.on_link:
                continue
            address = address_number(span.address)
            if span.until_ns == FOREVER:
                self.held.add(address)
            elif interface.removed and span.until_ns == interface.gone_ns:
                self.released[address] = max(self.released.get(address, 0), span.until_ns)


def links_of_pods(interfaces: Iterable[InterfaceEndpoint]) -> dict[str, PodLinks]:
    """Return the links of each pod that has interfaces, by UID as its cgroup has it."""
    found: dict[str, PodLinks] = {}
    for interface in interfaces:
        owner = interface.owner
        if owner is not None and owner.kind == "pod" and not interface.host:
            found.setdefault(owner.name, PodLinks()).add(interface)
    return found
