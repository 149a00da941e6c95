# SPDX-License-Identifier: Apache-2.0
"""Takes over an earlier agent's attachments, and lists other programs, without CAP_SYS_ADMIN."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally.attach.attacher import Attacher
from podtally.kernel import bpf
from podtally.netlink.links import get_link
from podtally.netlink.model import Link, Role
from podtally.netlink.netlink import Requests
from tests.kernel.links_support import (
    ifindex,
    load,
    make_pod,
    named_netns,
    own_netns,
    pin_directory,
    programs,
)
from tests.kernel_version import needs_tcx

ROOT = Path(__file__).parents[2]

# Attaches the programs that are pinned in DIR/progs; what it lacks is what setpriv took.
ATTACH = """
import sys
from pathlib import Path
from podtally.kernel import bpf
from podtally.kernel.pins import PROGRAMS
from podtally.attach.attacher import Attacher
from podtally.netlink.links import get_link
from podtally.netlink.model import Role
from podtally.netlink.netlink import Requests
pins, number, role = Path(sys.argv[1]), int(sys.argv[2]), Role(sys.argv[3])
attacher = Attacher(pins, {n: bpf.obj_get(pins / "next" / "progs" / n) for n in PROGRAMS})
mode, anew = attacher.attach(get_link(Requests(), number), role)
print(anew, attacher.attached(number), len(attacher.own()))
print([(f.name, f.before_ours) for f in attacher.foreign(number)])
"""
GRANTED = "-all,+bpf,+net_admin,+perfmon"


@pytest.fixture
def pins() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with own_netns(), named_netns("ptl-lr"), pin_directory() as path:
        make_pod("v0", "ptl-lr")
        yield path


@pytest.fixture
def link(pins: Path) -> Link:
    requests = Requests()
    found = get_link(requests, ifindex("v0"))
    requests.close()
    assert found is not None
    return found


def attach_with_less(pins: Path, role: Role) -> list[str]:
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set", GRANTED, "--no-new-privs"),
            *(sys.executable, "-c", ATTACH, str(pins), str(ifindex("v0")), role),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'agent'}"},
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def pin(directory: Path) -> None:
    """Pin the four programs, freshly loaded, as a generation's."""
    directory.mkdir(parents=True)
    with programs() as fds:
        for name, fd in fds.items():
            bpf.obj_pin(fd, directory / name)


def attach_as_root(pins: Path, link: Link, role: Role) -> None:
    fds = {each.name: bpf.obj_get(each) for each in (pins / "progs").iterdir()}
    attacher = Attacher(pins, fds)
    attacher.attach(link, role)
    attacher.close()
    for fd in fds.values():
        os.close(fd)


@needs_tcx
@pytest.mark.parametrize(
    ("before", "counts_anew"), [(Role.POD, "False"), (Role.HOST, "True")], ids=["same", "other"]
)
def test_the_generation_before_is_taken_over(
    pins: Path, link: Link, before: Role, counts_anew: str
) -> None:
    pin(pins / "progs")
    attach_as_root(pins, link, before)
    pin(pins / "next" / "progs")
    assert attach_with_less(pins, Role.POD)[0] == f"{counts_anew} True 2"


@needs_tcx
def test_programs_that_cannot_be_known_are_replaced(pins: Path, link: Link) -> None:
    pin(pins / "progs")
    attach_as_root(pins, link, Role.POD)
    for each in (pins / "progs").iterdir():
        each.unlink()
    pin(pins / "next" / "progs")
    assert attach_with_less(pins, Role.POD)[0] == "True True 2"


@needs_tcx
def test_others_are_seen_without_their_names(pins: Path, link: Link) -> None:
    fd = load("stranger")
    bpf.tcx_attach(fd, link.ifindex, bpf.TCX_EGRESS)
    pin(pins / "next" / "progs")
    assert attach_with_less(pins, Role.POD)[1] == "[('', False)]"
    os.close(fd)
