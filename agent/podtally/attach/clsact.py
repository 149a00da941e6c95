# SPDX-License-Identifier: Apache-2.0
"""Our programs as clsact filters, for kernels without TCX; what others put there is not touched.

Our filters are known by their name. The qdisc is removed only if we made it (a file in the
state directory says so) and nothing is left on it.
"""

import errno
from pathlib import Path

from podtally.attach.tc_writer import ADD, REPLACE, TcWriter
from podtally.attach.tcx import Program
from podtally.errors import PodtallyError
from podtally.netlink import tc
from podtally.netlink.model import Attachment, ForeignProgram, Hook, Mode
from podtally.netlink.netlink import Requests

NAME_PREFIX = "podtally/"

_PARENTS = {Hook.INGRESS: tc.CLSACT_INGRESS, Hook.EGRESS: tc.CLSACT_EGRESS}
# With no filter to stand before: the priority the kernel itself would pick, tcf_auto_prio()
_FIRST_PRIORITY = 0xC000
_LAST_PRIORITY = 0xFFFF
_HANDLE = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clsact:
    """Filters on one interface at a time; ``state_dir`` None: a qdisc once made stays.

    ``first``: where another BPF filter has the first priority, ours goes into that priority.
    """

    def __init__(self, requests: Requests, state_dir: Path | None, first: bool = False) -> None:
        self._requests = requests
        self._first = first
        self._changes = TcWriter()
        self._made_dir = state_dir / "clsact" if state_dir is not None else None

    def load(self) -> None:
        """Be ready to attach at once."""
        self._changes.load()

    def close(self) -> None:
        self._changes.close()

    def attach(self, ifindex: int, hook: Hook, program: Program) -> bool:
        """Put ``program`` on the hook; return True if one of our programs was there already."""
        self._ensure_qdisc(ifindex)
        name = NAME_PREFIX + program.name
        filters = self._filters(ifindex, hook)
        kept = next((f for f in filters if f.name == name), None)
        if kept is not None and self._first and kept is not filters[0]:
            kept = None  # another came before it: ours is put there again
        for other in filters:  # a second one of ours would count twice
            if _ours(other) and other is not kept:
                self._changes.delete_filter(other.place)
        if kept is None:
            self._put(ifindex, hook, program, [f for f in filters if not _ours(f)])
        elif kept.prog_id != program.id:
            self._changes.put_filter(REPLACE, kept.place, program.fd, name)
        return kept is not None

    def attached(self, ifindex: int, hook: Hook) -> int | None:
        """Return the id of our program on the hook."""
        if tc.qdisc_kind(self._requests, ifindex) != "clsact":
            return None
        return next((f.prog_id for f in self._filters(ifindex, hook) if _ours(f)), None)

    def detach(self, ifindex: int) -> list[Attachment]:
        """Detach our filters from both hooks; remove the qdisc if we made it and it is unused."""
        if tc.qdisc_kind(self._requests, ifindex) != "clsact":
            return []
        removed = []
        for hook in Hook:
            for found in self._filters(ifindex, hook):
                if _ours(found):
                    self._changes.delete_filter(found.place)
                    removed.append(Attachment(ifindex, hook, Mode.CLSACT, found.prog_id))
        if self._we_made_qdisc(ifindex):
            if not any(self._filters(ifindex, hook) for hook in Hook):
                self._changes.delete_clsact(ifindex)
            self.forget(ifindex)
        return removed

    def forget(self, ifindex: int) -> None:
        """Forget the qdisc: its ifindex may be reused by an interface with a foreign one."""
        if self._made_dir is not None:
            (self._made_dir / str(ifindex)).unlink(missing_ok=True)

    def own(self) -> list[Attachment]:
        """Return all our filters, on any interface."""
        return [
            Attachment(ifindex, hook, Mode.CLSACT, found.prog_id)
            for ifindex in tc.clsact_interfaces(self._requests)
            for hook in Hook
            for found in self._filters(ifindex, hook)
            if _ours(found)
        ]

    def foreign(self, ifindex: int, hook: Hook) -> list[ForeignProgram]:
        """List the others on a hook, in the order in which they run."""
        if tc.qdisc_kind(self._requests, ifindex) != "clsact":
            return []
        filters = self._filters(ifindex, hook)
        prio = 0 if self._first else _free_priority(filters)
        would_be_at = sum(f.place.prio < prio for f in filters)
        ours_at = next((at for at, f in enumerate(filters) if _ours(f)), would_be_at)
        return [
            ForeignProgram(ifindex, hook, Mode.CLSACT, f.name or f.kind, f.prog_id, at < ours_at)
            for at, f in enumerate(filters)
            if not _ours(f)
        ]

    def _put(self, ifindex: int, hook: Hook, program: Program, others: list[tc.Filter]) -> None:
        """Add our program in front of the others, if it can be."""
        name, parent = NAME_PREFIX + program.name, _PARENTS[hook]
        behind = tc.FilterPosition(ifindex, parent, _free_priority(others), _HANDLE)
        if self._first and others and others[0].place.prio < behind.prio:
            # A new filter of a priority runs before the older ones: cls_bpf_change().
            prio = others[0].place.prio
            taken = {f.place.handle for f in others if f.place.prio == prio}
            handle = next(n for n in range(_HANDLE, len(taken) + 2) if n not in taken)
            try:
                place = tc.FilterPosition(ifindex, parent, prio, handle)
                return self._changes.put_filter(ADD, place, program.fd, name)
            except OSError as error:
                if error.errno != errno.EINVAL:  # of another kind, or for one protocol
                    raise
        return self._changes.put_filter(ADD, behind, program.fd, name)

    def _filters(self, ifindex: int, hook: Hook) -> list[tc.Filter]:
        return tc.filters(self._requests, ifindex, _PARENTS[hook])

    def _ensure_qdisc(self, ifindex: int) -> None:
        kind = tc.qdisc_kind(self._requests, ifindex)
        if kind == "clsact":
            return
        if kind:
            raise PodtallyError(
                f"a qdisc of kind {kind} is where clsact would go, and it has no egress hook",
                "use --attach tcx, or remove the qdisc with its owner's consent",
            )
        # noted first: a kill in between leaves a note about a qdisc that is not there
        self._note_made(ifindex)
        self._changes.add_clsact(ifindex)

    def _note_made(self, ifindex: int) -> None:
        if self._made_dir is not None:
            self._made_dir.mkdir(parents=True, exist_ok=True)
            (self._made_dir / str(ifindex)).write_bytes(_BOOT_ID.read_bytes())

    def _we_made_qdisc(self, ifindex: int) -> bool:
        if self._made_dir is None:
            return False
        try:
            return (self._made_dir / str(ifindex)).read_bytes() == _BOOT_ID.read_bytes()
        except FileNotFoundError:
            return False


def _ours(found: tc.Filter) -> bool:
    return found.name.startswith(NAME_PREFIX)


def _free_priority(filters: list[tc.Filter]) -> int:
    """In front of the others where there is room, else behind the last; never one in use."""
    taken = {f.place.prio for f in filters}
    if not taken:
        return _FIRST_PRIORITY
    if min(taken) > 1:
        return min(taken) - 1
    return next(p for p in range(max(taken) + 1, _LAST_PRIORITY + 1))
