# SPDX-License-Identifier: Apache-2.0
"""Makes and removes clsact qdiscs and their BPF filters, through pyroute2, which only this imports.

Imported late: it costs 25 MB and 0.1 s, and a host with TCX needs none of it. One
socket serves for the life of the object.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from podtally.netlink.tc import FilterPosition

ADD = "add-filter"  # FileExistsError if the place is taken
REPLACE = "replace-filter"  # a packet meets the old program or the new: cls_bpf_change()


class TcWriter:
    """Errors are OSError with what was tried and the kernel's own word."""

    def __init__(self) -> None:
        self._route: Any = None

    def load(self) -> None:
        """Be ready: a pod that waits to be watched cannot wait for an import."""
        from pyroute2 import IPRoute  # noqa: PLC0415

        if self._route is None:
            self._route = IPRoute()

    def close(self) -> None:
        if self._route is not None:
            self._route.close()

    def add_clsact(self, ifindex: int) -> None:
        with self._changing("adding the clsact qdisc") as route:
            route.tc("add", "clsact", ifindex)

    def delete_clsact(self, ifindex: int) -> None:
        with self._changing("removing the clsact qdisc") as route:
            route.tc("del", "clsact", ifindex)

    def put_filter(self, command: str, place: FilterPosition, fd: int, name: str) -> None:
        """Put the BPF program ``fd`` at a place under a name, by ADD or REPLACE."""
        with self._changing(f"{command} {name}") as route:
            route.tc(command, "bpf", **_keys(place), fd=fd, name=name, direct_action=True)

    def delete_filter(self, place: FilterPosition) -> None:
        with self._changing("removing a filter") as route:
            route.tc("del-filter", "bpf", **_keys(place))

    @contextmanager
    def _changing(self, what: str) -> Iterator[Any]:
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

        self.load()
        try:
            yield self._route
        except NetlinkError as error:
            raise OSError(error.code, f"{what}: {os.strerror(error.code)}") from None


def _keys(place: FilterPosition) -> dict[str, int]:
    """Spell a place in pyroute2's words."""
    ifindex, parent, prio, handle = place
    return {"index": ifindex, "parent": parent, "prio": prio, "handle": handle}
