# SPDX-License-Identifier: Apache-2.0
"""Errors of programs that do not load: the cause, the log's end, and the file with the whole log."""

import stat
import sys
from pathlib import Path

import pytest

from podtally.commands.shared.tables import Style
from podtally.doctor.command import report_text
from podtally.doctor.finding import DoctorFinding
from podtally.kernel.load_error import LOG_NAME, load_error

STEPS = "".join(f"{at}: (b7) r1 = {at}\n" for at in range(600))
VERDICT = "dereference of modified ctx ptr R1 off=40 disallowed"
VERIFIER = (
    f"podtally.c was compiled by clang 14.0.6\n{STEPS}{VERDICT}\n"
    "processed 349 insns (limit 1000000) max_states_per_insn 0\n\n"
    "cannot load the program from_pod: Permission denied\n"
)
COMPILER = (
    "In file included from <built-in>:2:\nx.c:7:2: error: unknown type name 'u23'\n"
    "        u23 zero;\n        ^\n1 error generated.\n"
    "Exception: Failed to compile BPF module b'x.c'\n"
)


@pytest.mark.parametrize(
    ("said", "cause", "shown"),
    [
        (VERIFIER, f"the kernel's verifier refuses from_pod: {VERDICT}", "599: (b7) r1 = 599"),
        (COMPILER, "it does not compile: x.c:7:2: error: unknown type name 'u23'", "u23 zero;"),
    ],
)
def test_a_long_log_goes_to_a_file(tmp_path: Path, said: str, cause: str, shown: str) -> None:
    keep = tmp_path / LOG_NAME
    keep.symlink_to(tmp_path / "elsewhere")  # it is replaced, not followed

    error = load_error("podtally.c", said, keep)

    assert error.what == f"cannot load podtally.c: {cause}"
    assert keep.read_text() == said
    assert stat.S_IMODE(keep.lstat().st_mode) == 0o600
    first, *tail = error.fix.split("\n    ")
    assert first == f"the whole log is {keep}, which ends"
    assert any(shown in line for line in tail)
    assert len(tail) <= 6
    assert list(tmp_path.iterdir()) == [keep]


def test_one_line_needs_no_file(tmp_path: Path) -> None:
    error = load_error("podtally.c", "ModuleNotFoundError: No module named 'bcc'", tmp_path / "x")
    assert "cannot load podtally.c: ModuleNotFoundError: No module named 'bcc'" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_where_the_state_directory_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error = load_error("podtally.c", VERIFIER, Path("/proc/none") / LOG_NAME)
    (log,) = tmp_path.iterdir()
    assert log.read_text() == VERIFIER
    assert f"the whole log is {log}" in str(error)


def test_doctor_shows_the_end_of_the_log_under_its_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = load_error("podtally.c", VERIFIER, tmp_path / LOG_NAME)
    finding = DoctorFinding("own programs", False, error.what, error.fix, fatal=True)
    assert report_text([finding], sys.stdout, Style(80, colour=False)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert VERDICT in lines[0]
    assert lines[1].strip() == f"-> the whole log is {tmp_path / LOG_NAME}, which ends"
    margin = lines[1].index("->")
    assert {len(line) - len(line.lstrip()) for line in lines[2:-1]} == {margin + 3}
