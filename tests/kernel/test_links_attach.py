# SPDX-License-Identifier: Apache-2.0
"""Attaching to hooks and detaching, beside programs of others."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from podtally.attach.attacher import Attacher, is_gone
from podtally.errors import PodtallyError
from podtally.kernel import bpf
from podtally.netlink.links import get_link
from podtally.netlink.model import Hook, Link, Mode, Role
from podtally.netlink.netlink import Requests
from tests.kernel.links_support import (
    ifindex,
    load,
    make_pod,
    named_netns,
    own_netns,
    pin_directory,
    programs,
    sh,
)
from tests.kernel_version import HAS_TCX, needs_tcx

MODES = [Mode.TCX, Mode.CLSACT]
TC_HOOKS = {Hook.INGRESS: bpf.TCX_INGRESS, Hook.EGRESS: bpf.TCX_EGRESS}


@pytest.fixture
def pins() -> Iterator[Path]:
    with own_netns(), named_netns("ptl-la"), pin_directory() as path:
        make_pod("v0", "ptl-la")
        yield path


@pytest.fixture
def fds() -> Iterator[Mapping[str, int]]:
    with programs() as loaded:
        yield loaded


@pytest.fixture
def link(pins: Path) -> Link:
    requests = Requests()
    found = get_link(requests, ifindex("v0"))
    requests.close()
    assert found is not None
    return found


def prog_id(fd: int) -> int:
    return bpf.prog_info(fd).id


def on_hooks(attacher: Attacher) -> dict[Hook, int]:
    return {a.hook: a.prog_id for a in attacher.own()}


@pytest.mark.parametrize("mode", MODES)
def test_both_hooks_get_the_roles_programs(
    pins: Path, fds: Mapping[str, int], link: Link, mode: Mode
) -> None:
    attacher = Attacher(pins, fds, mode)
    assert attacher.attach(link, Role.POD) == (mode, True)
    assert attacher.attached(link.ifindex)
    wanted = {Hook.INGRESS: prog_id(fds["from_pod"]), Hook.EGRESS: prog_id(fds["to_pod"])}
    assert on_hooks(attacher) == wanted
    if mode is Mode.TCX:
        for hook, attach_type in TC_HOOKS.items():
            assert bpf.tcx_programs(link.ifindex, attach_type) == [wanted[hook]]
    assert attacher.attach(link, Role.POD) == (mode, False), "idempotent"
    assert on_hooks(attacher) == wanted
    attacher.close()


@pytest.mark.parametrize("mode", MODES)
def test_an_older_program_is_replaced_in_place(
    pins: Path, fds: Mapping[str, int], link: Link, mode: Mode
) -> None:
    with programs() as old:
        attacher = Attacher(pins, old, mode)
        attacher.attach(link, Role.POD)
        before = sh("tc filter show dev v0 ingress").split(" chain")[0]
        attacher.close()
    attacher = Attacher(pins, fds, mode)
    assert attacher.attach(link, Role.POD) == (mode, False)
    assert on_hooks(attacher)[Hook.INGRESS] == prog_id(fds["from_pod"])
    assert sh("tc filter show dev v0 ingress").split(" chain")[0] == before
    assert len(attacher.own()) == 2
    attacher.close()


@pytest.mark.parametrize("mode", MODES)
def test_another_role_counts_from_zero(
    pins: Path, fds: Mapping[str, int], link: Link, mode: Mode
) -> None:
    attacher = Attacher(pins, fds, mode)
    attacher.attach(link, Role.HOST)
    assert attacher.attach(link, Role.POD) == (mode, True)
    assert len(attacher.own()) == 2
    attacher.close()


@needs_tcx
@pytest.mark.parametrize("mode", MODES)
def test_the_other_mode_is_taken_off(
    pins: Path, fds: Mapping[str, int], link: Link, mode: Mode
) -> None:
    earlier = Attacher(pins, fds, next(m for m in MODES if m is not mode))
    earlier.attach(link, Role.POD)
    earlier.close()
    attacher = Attacher(pins, fds, mode)
    assert attacher.attach(link, Role.POD) == (mode, True)
    assert {a.mode for a in attacher.own()} == {mode}
    attacher.close()


def test_auto_takes_tcx_where_the_kernel_has_it(pins: Path, fds: Mapping[str, int]) -> None:
    attacher = Attacher(pins, fds)
    assert attacher.mode is (Mode.TCX if HAS_TCX else Mode.CLSACT)
    attacher.close()


@pytest.fixture
def foreign(pins: Path) -> Iterator[int]:
    """Filters, a qdisc and TCX links of another program on v0; yields the program's id."""
    fd, number = load("stranger"), ifindex("v0")
    pin = pins / "stranger"
    bpf.obj_pin(fd, pin)
    sh("tc qdisc add dev v0 clsact")
    for hook in Hook:
        sh(f"tc filter add dev v0 {hook} prio 7 handle 3 bpf da pinned {pin}")
        sh(f"tc filter add dev v0 {hook} prio 9 protocol ip u32 match u32 0 0")
    links = [bpf.tcx_attach(fd, number, each) for each in TC_HOOKS.values() if HAS_TCX]
    yield prog_id(fd)
    for opened in (*links, fd):
        os.close(opened)


def state_of_v0() -> list[str]:
    shown = [sh("tc qdisc show dev v0")]
    return shown + [sh(f"tc filter show dev v0 {hook}") for hook in Hook]


@pytest.mark.parametrize("mode", MODES)
def test_others_are_left_as_they_were(
    pins: Path, fds: Mapping[str, int], link: Link, mode: Mode, foreign: int
) -> None:
    before = state_of_v0()
    attacher = Attacher(pins, fds, mode)
    attacher.attach(link, Role.POD)
    for attach_type in TC_HOOKS.values():
        assert not HAS_TCX or foreign in bpf.tcx_programs(link.ifindex, attach_type)
    others = attacher.foreign(link.ifindex)
    tcx_first = mode is Mode.CLSACT
    assert {(o.hook, o.mode, o.prog_id, o.before_ours) for o in others} == {
        row
        for hook in Hook
        for row in (
            *([(hook, Mode.TCX, foreign, tcx_first)] if HAS_TCX else []),
            (hook, Mode.CLSACT, foreign, False),
            (hook, Mode.CLSACT, 0, False),  # u32, no BPF program
        )
    }
    assert [a.hook for a in attacher.detach_all()] == list(Hook)
    assert state_of_v0() == before
    for attach_type in TC_HOOKS.values():
        assert not HAS_TCX or bpf.tcx_programs(link.ifindex, attach_type) == [foreign]
    attacher.close()


def test_priority_one_is_not_taken_away(
    pins: Path, fds: Mapping[str, int], link: Link, tmp_path: Path
) -> None:
    sh("tc qdisc add dev v0 clsact")
    sh("tc filter add dev v0 ingress prio 1 protocol ip u32 match u32 0 0")
    attacher = Attacher(pins, fds, "clsact", tmp_path)
    attacher.attach(link, Role.POD)
    assert {f.before_ours for f in attacher.foreign(link.ifindex)} == {True}
    attacher.close()


@pytest.mark.parametrize("keeps_a_note", [True, False])
def test_only_a_qdisc_known_to_be_ours_is_removed(
    pins: Path, fds: Mapping[str, int], link: Link, tmp_path: Path, keeps_a_note: bool
) -> None:
    attacher = Attacher(pins, fds, "clsact", tmp_path if keeps_a_note else None)
    attacher.attach(link, Role.POD)
    attacher.close()
    later = Attacher(pins, {}, "clsact", tmp_path)
    assert len(later.detach_all()) == 2
    assert ("clsact" in sh("tc qdisc show dev v0")) is not keeps_a_note
    later.close()


def test_a_qdisc_that_another_program_makes_after_ours_was_removed_is_left_alone(
    pins: Path, fds: Mapping[str, int], link: Link, tmp_path: Path
) -> None:
    """The note that the qdisc is ours goes with it."""
    attacher = Attacher(pins, fds, "clsact", tmp_path)
    attacher.attach(link, Role.POD)
    attacher.detach(link.ifindex)
    assert "clsact" not in sh("tc qdisc show dev v0")
    sh("tc qdisc add dev v0 clsact")
    attacher.attach(link, Role.POD)
    attacher.detach(link.ifindex)
    attacher.close()
    assert "clsact" in sh("tc qdisc show dev v0")


def test_an_ingress_qdisc_is_an_error_with_a_fix(
    pins: Path, fds: Mapping[str, int], link: Link, tmp_path: Path
) -> None:
    sh("tc qdisc add dev v0 ingress")
    attacher = Attacher(pins, fds, "clsact", tmp_path)
    with pytest.raises(PodtallyError, match="--attach tcx"):
        attacher.attach(link, Role.POD)
    assert "ingress" in sh("tc qdisc show dev v0")
    attacher.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_vanished_interface_leaves_nothing(
    pins: Path, fds: Mapping[str, int], link: Link, mode: Mode, tmp_path: Path
) -> None:
    attacher = Attacher(pins, fds, mode, tmp_path)
    attacher.attach(link, Role.POD)
    sh("ip link del v0")
    with pytest.raises(OSError, match=r".") as caught:
        attacher.attach(link, Role.POD)
    assert is_gone(caught.value)
    assert not attacher.attached(link.ifindex)
    assert attacher.own() == []
    left = [path for path in (*pins.rglob("*"), *tmp_path.rglob("*")) if not path.is_dir()]
    assert left == []
    attacher.close()
