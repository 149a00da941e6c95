# SPDX-License-Identifier: Apache-2.0
"""``podtally doctor`` on the running kernel, in namespaces of its own."""

import argparse
import ctypes
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from podtally.attach.tcx import Program, Tcx
from podtally.config import Config
from podtally.doctor import bytecode, command, features, host, interfaces
from podtally.doctor.finding import DoctorFinding
from podtally.doctor.hooks import hooks
from podtally.kernel import bpf
from podtally.netlink.model import Hook
from tests.kernel_version import HAS_TCX, needs_tcx

BPFFS = Path("/sys/fs/bpf")
NETNS = "ptl-doctor"
POD = "ptl-doctor-pod"
CLONE_NEWNET = 0x40000000

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def doctor(*arguments: str, wrapper: tuple[str, ...] = ()) -> tuple[int, dict[str, DoctorFinding]]:
    """Run the real command, in a process of its own."""
    process = subprocess.run(
        [*wrapper, sys.executable, "-m", "podtally", "doctor", "--output", "json", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.stderr == ""
    report = json.loads(process.stdout)
    return process.returncode, {e["name"]: DoctorFinding(**e) for e in report["findings"]}


@pytest.fixture
def pin_dir() -> Iterator[Path]:
    path = BPFFS / f"ptl-doctor-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def inside() -> Iterator[Callable[..., object]]:
    """Call a function in a network namespace of its own, on a thread that dies with it."""
    for name in (NETNS, POD):
        subprocess.run(["ip", "netns", "add", name], check=True)
    libc = ctypes.CDLL(None, use_errno=True)

    def enter() -> None:
        with Path(f"/run/netns/{NETNS}").open() as file:
            assert libc.setns(file.fileno(), CLONE_NEWNET) == 0

    try:
        with ThreadPoolExecutor(1, initializer=enter) as thread:
            yield lambda function, *arguments: thread.submit(function, *arguments).result()
    finally:
        for name in (NETNS, POD):
            subprocess.run(["ip", "netns", "del", name], check=True)


def test_this_host_can_run_podtally_and_is_left_as_it_was(pin_dir: Path, tmp_path: Path) -> None:
    never_made = pin_dir / "podtally"
    code, found = doctor("--state-dir", str(tmp_path), "--pin-dir", str(never_made))
    assert code == 0, found
    assert found["own programs"].ok, found
    assert list(pin_dir.iterdir()) == []
    qdiscs = subprocess.run(["tc", "qdisc", "show", "dev", "lo"], capture_output=True, check=True)
    assert b"clsact" not in qdiscs.stdout


def test_without_rights_each_missing_one_is_named(tmp_path: Path) -> None:
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    code, found = doctor("--state-dir", str(tmp_path), wrapper=bare)
    assert code == 1
    for name in ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "kernel programs"):
        assert found[name].ok is False
        assert found[name].fix
    assert found["own programs"].ok is None


def test_pins_need_a_bpffs(tmp_path: Path) -> None:
    finding = host.bpffs(tmp_path / "not/there")
    assert (finding.ok, finding.fatal) == (False, True)
    assert "mount -t bpf" in finding.fix
    assert host.bpffs(BPFFS / "ptl-not-there").ok


def test_a_pin_directory_in_use_is_reported(pin_dir: Path) -> None:
    assert host.pin_lock(pin_dir).ok
    fd = os.open(pin_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        finding = host.pin_lock(pin_dir)
    finally:
        os.close(fd)
    assert finding.ok is None
    assert "in use by an agent" in finding.detail


def test_an_instruction_the_kernel_does_not_know_is_reported_in_the_verifiers_words() -> None:
    with pytest.raises(OSError, match="invalid func"):
        bytecode.load(bytecode.call(9999))


def test_every_feature_probe_passes_here() -> None:
    found = [features.system_call(), *features.features(), *hooks()]
    assert [f.name for f in found if not f.ok] == ([] if HAS_TCX else ["tcx"])
    assert not any(f.fatal for f in found if not f.ok)


def test_no_interface_is_a_note_not_a_fault(inside: Callable[..., object], pin_dir: Path) -> None:
    assert inside(list_findings, pin_dir, None) == [
        DoctorFinding(
            "interfaces",
            None,
            "no pod interfaces yet",
            "new ones are watched as they appear; --interfaces selects others",
        )
    ]


@needs_tcx
def test_a_program_before_ours_is_reported(inside: Callable[..., object], pin_dir: Path) -> None:
    found = inside(with_a_stranger_in_front, pin_dir)
    assert isinstance(found, list)
    assert found[0].ok
    assert "ptl0" in found[0].detail
    assert [(f.name, f.ok) for f in found[1:]] == [("programs on ptl0", False)]
    assert "runs before podtally" in found[1].detail


def test_a_foreign_filter_behind_ours_is_a_note(
    inside: Callable[..., object], pin_dir: Path
) -> None:
    found = inside(with_a_filter, pin_dir)
    assert isinstance(found, list)
    assert [(f.name, f.ok) for f in found[1:]] == [("programs on ptl0", None)]
    assert "clsact ingress: stranger" in found[1].detail


def list_findings(pin_dir: Path, pattern: str | None) -> list[DoctorFinding]:
    return list(interfaces.interfaces(Config(pin_dir=pin_dir, interfaces=pattern)))


def add_pair() -> int:
    pair = ["ptl0", "type", "veth", "peer", "name", "ptl1", "netns", POD]
    subprocess.run(["ip", "link", "add", *pair], check=True)
    shown = subprocess.run(["ip", "-j", "link", "show", "ptl0"], capture_output=True, check=True)
    return int(json.loads(shown.stdout)[0]["ifindex"])


def with_a_stranger_in_front(pin_dir: Path) -> list[DoctorFinding]:
    ifindex = add_pair()
    with (
        bpf.owned(bytecode.load(bytecode.END)) as ours,
        bpf.owned(bytecode.load(bytecode.END)) as strange,
    ):
        tcx = Tcx(pin_dir / "links")
        tcx.attach(ifindex, Hook.INGRESS, Program("from_pod", ours, bpf.prog_info(ours).id))
        with bpf.owned(bpf.tcx_attach(strange, ifindex, bpf.TCX_INGRESS)):
            return list_findings(pin_dir, "ptl0")


def with_a_filter(pin_dir: Path) -> list[DoctorFinding]:
    add_pair()
    pin = pin_dir / "stranger"
    with bpf.owned(bytecode.load(bytecode.END)) as program:
        bpf.obj_pin(program, pin)
    tc("qdisc", "add", "dev", "ptl0", "clsact")
    tc("filter", "add", "dev", "ptl0", "ingress", "bpf", "object-pinned", str(pin), "da")
    return list_findings(pin_dir, "ptl0")


def tc(*words: str) -> None:
    subprocess.run(["tc", *words], check=True)


def test_the_command_takes_what_run_takes() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--pin-dir", "/a", "--interfaces", "b*", "--state-dir", "/c"])
    assert (args.pin_dir, args.interfaces, args.output) == ("/a", "b*", "text")
