# SPDX-License-Identifier: Apache-2.0
"""Our programs on TCX hooks (kernel 6.6): links pinned under the bpffs, to outlive the agent."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from podtally.kernel import bpf
from podtally.netlink.model import PROGRAMS, Attachment, ForeignProgram, Hook, Mode

_HOOKS = {Hook.INGRESS: bpf.TCX_INGRESS, Hook.EGRESS: bpf.TCX_EGRESS}


class Program(NamedTuple):
    name: str
    fd: int
    id: int


def supported() -> bool:
    """Return whether this kernel knows the hooks: ask what is on loopback's."""
    try:
        bpf.tcx_programs(1, bpf.TCX_INGRESS)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


class Tcx:
    """Each link is pinned as ``IFINDEX_HOOK`` in ``directory``; ``names`` are of our programs,
    by their ids, as far as they are known.
    """

    def __init__(self, directory: Path, names: Mapping[int, str] | None = None) -> None:
        self._directory = directory
        self._names = names or {}

    def attach(self, ifindex: int, hook: Hook, program: Program) -> bool:
        """Put ``program`` on the hook; return True if one of our programs was there already."""
        pin = self._pin(ifindex, hook)
        if self._take_over(pin, ifindex, hook, program):
            return True
        self._directory.mkdir(parents=True, exist_ok=True)
        with bpf.owned(bpf.tcx_attach(program.fd, ifindex, _HOOKS[hook])) as link:
            bpf.obj_pin(link, pin)
        return False

    def attached(self, ifindex: int, hook: Hook) -> int | None:
        """Return the id of our program on the hook."""
        info = _info(self._pin(ifindex, hook))
        return info.prog_id if info is not None and _stands(info, ifindex, hook) else None

    def detach(self, ifindex: int) -> list[Attachment]:
        """Detach our programs from both hooks; return what was there."""
        removed = []
        for hook in Hook:
            pin = self._pin(ifindex, hook)
            if (info := _info(pin)) is not None:
                _remove(pin)
                if _stands(info, ifindex, hook):
                    removed.append(Attachment(ifindex, hook, Mode.TCX, info.prog_id))
        return removed

    def own(self) -> list[Attachment]:
        """Return all of our attachments; remove pins of interfaces that are gone."""
        found = []
        pins = sorted(self._directory.iterdir()) if self._directory.is_dir() else []
        for pin in pins:
            number, _, name = pin.name.partition("_")
            if not number.isdecimal() or name not in set(Hook):
                continue
            ifindex, hook = int(number), Hook(name)
            prog_id = self.attached(ifindex, hook)
            if prog_id is None:
                _remove(pin)
            else:
                found.append(Attachment(ifindex, hook, Mode.TCX, prog_id))
        return found

    def foreign(self, ifindex: int, hook: Hook) -> list[ForeignProgram]:
        """List the others on a hook, in the order in which they run."""
        ours = self.attached(ifindex, hook)
        ids = bpf.tcx_programs(ifindex, _HOOKS[hook])
        ours_at = ids.index(ours) if ours in ids else 0  # not there yet: we go to the head
        return [
            ForeignProgram(ifindex, hook, Mode.TCX, program_name(number), number, at < ours_at)
            for at, number in enumerate(ids)
            if number != ours
        ]

    def _pin(self, ifindex: int, hook: Hook) -> Path:
        return self._directory / f"{ifindex}_{hook}"

    def _take_over(self, pin: Path, ifindex: int, hook: Hook, program: Program) -> bool:
        """Use the link that is pinned; one that serves no more is removed."""
        info = _info(pin)
        if info is None:
            return False
        if _stands(info, ifindex, hook) and not self._other_role(info.prog_id, hook, program):
            if info.prog_id != program.id:
                with bpf.owned(bpf.obj_get(pin)) as link:
                    bpf.link_update(link, program.fd)
            return True
        _remove(pin)
        return False

    def _other_role(self, prog_id: int, hook: Hook, program: Program) -> bool:
        """Return whether the program there counts for another kind of endpoint, or may do so: then
        counts restart from zero.
        """
        if program.name not in PROGRAMS.values() or prog_id == program.id:
            return False
        try:
            name = self._names.get(prog_id) or _name_of(prog_id)
        except PermissionError:
            return True
        here = {name for (_, at), name in PROGRAMS.items() if at is hook}
        return name in here - {program.name}


def program_name(number: int) -> str:
    """Ask what the kernel calls a program; "" if it is gone, or without CAP_SYS_ADMIN."""
    try:
        return _name_of(number)
    except PermissionError:
        return ""


def _name_of(number: int) -> str:
    try:
        with bpf.owned(bpf.prog_by_id(number)) as fd:
            return bpf.prog_info(fd).name
    except FileNotFoundError:
        return ""


def _info(pin: Path) -> bpf.LinkInfo | None:
    try:
        with bpf.owned(bpf.obj_get(pin)) as link:
            return bpf.link_info(link)
    except FileNotFoundError:
        return None


def _stands(info: bpf.LinkInfo, ifindex: int, hook: Hook) -> bool:
    return (
        info.type == bpf.LINK_TYPE_TCX
        and info.ifindex == ifindex
        and info.attach_type == _HOOKS[hook]
    )


def _remove(pin: Path) -> None:
    """Detach now: the last reference to a link is dropped later, from a work queue."""
    with bpf.owned(bpf.obj_get(pin)) as link:
        try:
            bpf.link_detach(link)
        except OSError as error:
            if error.errno not in (errno.ENOLINK, errno.ENODEV):  # its interface went before
                raise
    os.unlink(pin)
