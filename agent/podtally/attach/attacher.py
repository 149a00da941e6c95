# SPDX-License-Identifier: Apache-2.0
"""Attaches our programs to an interface's two hooks, in whichever way the kernel has.

When and where is for ``follower`` to say. Attachments stay when the process ends.
"""

import errno
from collections.abc import Mapping
from pathlib import Path

from podtally.attach import tcx
from podtally.attach.bypass import bypassing_bytes
from podtally.attach.clsact import Clsact
from podtally.attach.tcx import Program, Tcx
from podtally.errors import PodtallyError
from podtally.kernel import bpf, pins
from podtally.netlink.links import get_link
from podtally.netlink.model import PROGRAMS, XDP, Attachment, ForeignProgram, Hook, Link, Mode, Role
from podtally.netlink.netlink import Requests

# What the kernel says when the interface went away under our hands
_GONE = (errno.ENODEV, errno.ENOLINK, errno.ENXIO)


class Attacher:
    """Puts programs on hooks and takes them off; any other program there stays as it is.

    ``programs``: fds by the names from_pod, to_pod, from_host, to_host; may be empty
    where nothing is to be attached (``podtally detach``). ``mode``: auto, tcx or clsact.
    ``state_dir`` remembers which clsact qdiscs we made; without it they stay. ``first``: before
    others also where clsact has no priority left for that.
    """

    def __init__(
        self,
        pin_dir: Path,
        programs: Mapping[str, int],
        mode: str = "auto",
        state_dir: Path | None = None,
        first: bool = False,
    ) -> None:
        self._requests = Requests()
        self._programs = {
            name: Program(name, fd, bpf.prog_info(fd).id) for name, fd in programs.items()
        }
        self._has_tcx = tcx.supported()
        self._tcx = Tcx(pin_dir / "links", pins.program_names(pin_dir))
        self._clsact = Clsact(self._requests, state_dir, first)
        self.mode = self._choose(mode)
        if self.mode is Mode.CLSACT and programs:
            self._clsact.load()

    def close(self) -> None:
        self._clsact.close()
        self._requests.close()

    def attach(self, link: Link, role: Role) -> tuple[Mode, bool]:
        """Attach our programs to both hooks; return how, and whether counting restarts from zero.

        Idempotent. Raises OSError (``is_gone()`` says whether the interface vanished) or
        PodtallyError; then no program of ours is left on the interface.
        """
        # first off, then on: a packet between the two is not counted, but none is twice
        self._other().detach(link.ifindex)
        try:
            here = [
                self._ours().attach(link.ifindex, hook, self._programs[PROGRAMS[role, hook]])
                for hook in Hook
            ]
        except (OSError, PodtallyError):
            self.forget(link.ifindex)
            raise
        return self.mode, not all(here)

    def attached(self, ifindex: int) -> bool:
        """Return whether our programs are on both hooks, in the mode we use."""
        try:
            return all(self._ours().attached(ifindex, hook) is not None for hook in Hook)
        except OSError as error:
            if is_gone(error):
                return False
            raise

    def detach(self, ifindex: int) -> list[Attachment]:
        """Detach our programs from an interface, in either mode; return what was removed."""
        return self._tcx.detach(ifindex) + self._clsact.detach(ifindex)

    def detach_all(self) -> list[Attachment]:
        """Detach our programs from every interface; return what was removed."""
        found = sorted({attachment.ifindex for attachment in self.own()})
        return [removed for ifindex in found for removed in self.detach(ifindex)]

    def forget(self, ifindex: int) -> None:
        """Leave nothing behind of an interface that is gone, or that is going."""
        try:
            self.detach(ifindex)
        except OSError as error:
            if not is_gone(error):
                raise
        self._clsact.forget(ifindex)

    def own(self) -> list[Attachment]:
        """Return all our attachments; remove pins of interfaces that are gone."""
        return self._tcx.own() + self._clsact.own()

    def foreign(self, ifindex: int) -> list[ForeignProgram]:
        """List the others on both hooks; XDP comes before TCX, and TCX before clsact
        (``sch_handle_ingress()``).
        """
        ours_in_clsact = self.mode is Mode.CLSACT
        found = self._at_xdp(ifindex)
        for hook in Hook:
            if self._has_tcx:
                found += [
                    f._replace(before_ours=ours_in_clsact or f.before_ours)
                    for f in self._tcx.foreign(ifindex, hook)
                ]
            found += [
                f._replace(before_ours=ours_in_clsact and f.before_ours)
                for f in self._clsact.foreign(ifindex, hook)
            ]
        return found

    def bypassing_bytes(self, ifindex: int) -> int:
        """Return how many bytes the pod behind a pair sent or got past our programs; OSError."""
        link = get_link(self._requests, ifindex)
        return bypassing_bytes(self._requests, link) if link is not None else 0

    def _at_xdp(self, ifindex: int) -> list[ForeignProgram]:
        link = get_link(self._requests, ifindex)
        if link is None or not link.xdp:
            return []
        name = tcx.program_name(link.xdp) if link.xdp > 0 else ""
        return [ForeignProgram(ifindex, Hook.INGRESS, XDP, name, max(link.xdp, 0), True)]

    def _choose(self, mode: str) -> Mode:
        if mode == "auto":
            return Mode.TCX if self._has_tcx else Mode.CLSACT
        if mode == Mode.TCX and not self._has_tcx:
            raise PodtallyError("this kernel has no TCX hooks", "use --attach auto or clsact")
        return Mode(mode)

    def _ours(self) -> Tcx | Clsact:
        return self._tcx if self.mode is Mode.TCX else self._clsact

    def _other(self) -> Tcx | Clsact:
        return self._clsact if self.mode is Mode.TCX else self._tcx


def is_gone(error: OSError) -> bool:
    """Return whether an error means that the interface vanished."""
    return error.errno in _GONE
