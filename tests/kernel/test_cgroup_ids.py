# SPDX-License-Identifier: Apache-2.0
"""podtally/runtimes/cgroup_ids.py on the real hierarchy, with the right to open by handle and without."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from podtally.runtimes.cgroup_ids import ROOT_ID, CgroupIds, Mount, find_mount
from tests.kernel.uplink import cgroup

NOBODY = 65534
PACKAGES = Path(__file__).parents[2] / "agent"


@pytest.fixture
def mount() -> Mount:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    found = find_mount()
    if found is None:
        pytest.skip("no cgroup v2")
    return found


@pytest.fixture
def ids(mount: Mount) -> Iterator[CgroupIds]:
    opened = CgroupIds(mount)
    yield opened
    opened.close()


def own_path() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def test_a_cgroup_is_made_and_removed(ids: CgroupIds) -> None:
    assert ids.is_whole
    with cgroup() as number:
        assert ids.path_of(number) == own_path()
        assert own_path() not in ("", "/")
    assert ids.path_of(number) is None
    assert ids.path_of(ROOT_ID) == "/"


@pytest.mark.parametrize("number", [0, 1 << 40, (1 << 48) - 1])
def test_no_such_cgroup(ids: CgroupIds, number: int) -> None:
    assert ids.path_of(number) is None


def test_no_paths_without_a_mount_or_after_close(ids: CgroupIds) -> None:
    assert not CgroupIds(None).is_whole
    assert CgroupIds(None).path_of(ROOT_ID) is None
    ids.close()
    assert ids.path_of(ROOT_ID) is None


def test_without_the_right_to_open_by_handle(mount: Mount) -> None:
    """For a cgroup that exists before the first look-up, and for a later one."""
    reader, writer = os.pipe()
    with cgroup() as first:
        here = own_path()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.setuid(NOBODY)
                ids = CgroupIds(mount)
                answers = [ids.path_of(number) for number in (first, ROOT_ID, 1 << 40)]
                os.write(writer, json.dumps(answers).encode())
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    assert json.loads(os.read(reader, 4096)) == [here, "/", None]
    os.close(reader)
    os.close(writer)


INSIDE = """
import json, subprocess, sys
from pathlib import Path
from podtally.runtimes.cgroup_ids import CgroupIds, Mount, find_mount
point, outside, within = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
subprocess.run(["mount", "-t", "cgroup2", "none", point], check=True)
line = next(x for x in open("/proc/self/mountinfo") if x.split()[4] == str(point))
(point.parent / "mountinfo").write_text(line)
mount = find_mount(point.parent / "mountinfo")
ids = CgroupIds(mount)
print(json.dumps([ids.is_whole, ids.path_of(outside), ids.path_of(within)]))
"""


def test_a_container_sees_its_own_part_only(mount: Mount, tmp_path: Path) -> None:
    point = tmp_path / "cgroup"
    point.mkdir()
    with cgroup() as number:
        below = mount.path / own_path().lstrip("/") / "below"
        below.mkdir()
        try:
            within = below.stat().st_ino
            command = ["unshare", "--mount", "--cgroup", sys.executable, "-c", INSIDE, str(point)]
            done = subprocess.run(
                [*command, str(ROOT_ID), str(within)],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(PACKAGES)},
            )
        finally:
            below.rmdir()
        assert within > number
    assert json.loads(done.stdout) == [False, None, "/below"]
