# SPDX-License-Identifier: Apache-2.0
"""The doctor's report, and the probes that only read a file."""

import io
import json
from pathlib import Path

import pytest

from podtally.commands.shared.tables import Style
from podtally.doctor import features, host
from podtally.doctor.command import report_json, report_text
from podtally.doctor.finding import DoctorFinding
from podtally.doctor.hooks import findings
from podtally.runtimes.cgroup_ids import find_mount

FINE = DoctorFinding("jit", True, "on")
SLIGHT = DoctorFinding("cgroup v2", False, "not mounted", "mount it")
FATAL = DoctorFinding("bcc", False, "No module named 'bcc'", "install it", fatal=True)
UNTOLD = DoctorFinding("clock source", None, "unknown", fatal=True)


def test_text_has_the_fix_below_each_finding() -> None:
    out = io.StringIO()
    assert report_text([FINE, SLIGHT, FATAL], out, Style(80, colour=False)) == 1
    assert out.getvalue().splitlines() == [
        "ok       jit                  on",
        "warning  cgroup v2            not mounted",
        "                              -> mount it",
        "MISSING  bcc                  No module named 'bcc'",
        "                              -> install it",
        "podtally cannot run here; requirements missing: 1",
    ]


def test_only_what_is_known_to_be_missing_and_fatal_fails() -> None:
    out = io.StringIO()
    assert report_text([FINE, SLIGHT, UNTOLD], out, Style(80, colour=False)) == 0
    assert out.getvalue().endswith("podtally can run here\n")


def test_colour_is_only_on_the_mark() -> None:
    out = io.StringIO()
    report_text([FATAL], out, Style(80, colour=True))
    assert out.getvalue().startswith("\x1b[31;1mMISSING\x1b[0m  bcc")


@pytest.mark.parametrize(("listed", "able"), [([FINE, SLIGHT, UNTOLD], True), ([FATAL], False)])
def test_json_carries_every_field(listed: list[DoctorFinding], able: bool) -> None:
    out = io.StringIO()
    assert report_json(listed, out) == (0 if able else 1)
    report = json.loads(out.getvalue())
    assert report["can_run"] is able
    assert [DoctorFinding(**entry) for entry in report["findings"]] == listed


@pytest.mark.parametrize(
    ("refusals", "fatal"),
    [
        ({"tcx": "", "clsact": ""}, False),
        ({"tcx": "Invalid argument", "clsact": ""}, False),
        ({"tcx": "", "clsact": "No such file or directory"}, False),
        ({"tcx": "Invalid argument", "clsact": "No such file or directory"}, True),
    ],
)
def test_one_kind_of_hook_is_enough(refusals: dict[str, str], fatal: bool) -> None:
    result = findings(refusals)
    assert [finding.ok for finding in result] == [not why for why in refusals.values()]
    assert any(finding.fatal and finding.ok is False for finding in result) is fatal


@pytest.mark.parametrize(
    ("effective", "lacking"),
    [
        (1 << 11 | 1 << 12 | 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39, []),
        (
            1 << 11 | 1 << 12 | 1 << 19 | 1 << 21,
            [],
        ),  # CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON
        (1 << 11 | 1 << 39 | 1 << 38, ["CAP_NET_ADMIN", "CAP_SYS_PTRACE"]),
    ],
)
def test_capabilities_are_read_by_name(tmp_path: Path, effective: int, lacking: list[str]) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tpodtally\nCapPrm:\t0\nCapEff:\t{effective:016x}\n")
    assert [f.name for f in host.capabilities(status) if not f.ok] == lacking


@pytest.mark.parametrize(("text", "ok"), [("0\n", False), ("1\n", True), ("2\n", True)])
def test_jit(tmp_path: Path, text: str, ok: bool) -> None:
    switch = tmp_path / "proc/sys/net/core/bpf_jit_enable"
    switch.parent.mkdir(parents=True)
    switch.write_text(text)
    assert features.jit(tmp_path).ok is ok


def test_unreadable_files_give_unknown(tmp_path: Path) -> None:
    assert features.jit(tmp_path).ok is None
    assert features.clock(tmp_path).ok is None


@pytest.mark.parametrize(("kind", "ok"), [("cgroup2", None), ("cgroup", False)])
def test_cgroup_v2(tmp_path: Path, kind: str, ok: bool | None) -> None:
    """A directory that is not the root of the hierarchy is a part of it at most."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"29 24 0:26 / {tmp_path} rw,relatime shared:9 - {kind} none rw\n")
    assert host.cgroup_v2(mountinfo).ok is ok


def test_this_hosts_cgroup_v2() -> None:
    found = host.cgroup_v2()
    assert (found.ok is False) == (find_mount() is None)
