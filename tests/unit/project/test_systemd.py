# SPDX-License-Identifier: Apache-2.0
"""The unit: systemd understands all of it, its exposure, and that it fits the code."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from podtally import config
from podtally.kernel.capabilities import CAPABILITIES, RUNNING
from podtally.kernel.flow_programs import TIMEOUT_SECONDS
from podtally.runtime.epoch_loop import STUCK_AFTER_SECONDS

UNIT = Path(__file__).parents[3] / "systemd" / "podtally.service"
MOST_EXPOSURE = 3.5  # systemd says "OK" up to 4.9, MEDIUM above


def settings() -> dict[str, list[str]]:
    """Values by key, of all sections, in their order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze (Debian: systemd)")
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False
    )


def verified(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    unit = folder / UNIT.name
    unit.write_text(text.replace("/opt/podtally/bin/podtally", "/bin/true"))
    return analyze("verify", str(unit))


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    done = verified(tmp_path, UNIT.read_text())
    result = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, result) == (0, [])
    wrong = verified(tmp_path, UNIT.read_text().replace("ProtectClock=", "ProtectClocks="))
    assert "ProtectClocks" in wrong.stderr


def test_the_exposure_is_ok() -> None:
    done = analyze("security", "--offline=yes", str(UNIT))
    score = re.search(r"exposure level for podtally\.service: ([\d.]+) (\w+)", done.stdout)
    if score is None:
        pytest.skip(f"systemd-analyze has no --offline (250): {done.stderr}")
    assert score[2] == "OK"
    assert float(score[1]) <= MOST_EXPOSURE


def test_capabilities_are_those_that_something_needs() -> None:
    (line,) = settings()["CapabilityBoundingSet"]
    named = {each.name for each in CAPABILITIES}
    assert set(line.split()) == named | RUNNING


def test_directories_are_those_of_the_code() -> None:
    found = settings()
    assert [f"/run/{name}" for name in found["RuntimeDirectory"]] == [str(config.DEFAULT_STATE_DIR)]
    assert found["RuntimeDirectoryPreserve"] == ["yes"]  # the checkpoint
    parent = str(config.DEFAULT_FILE.parent)
    assert [f"/etc/{name}" for name in found["ConfigurationDirectory"]] == [parent]
    assert found["ReadWritePaths"] == [f"-{config.DEFAULT_PIN_DIR}"]
    assert found["ExecStartPre"] == [f"+/bin/mkdir -p -m 0700 {config.DEFAULT_PIN_DIR}"]
    assert found["RequiresMountsFor"] == [str(config.DEFAULT_PIN_DIR.parent)]


def test_times_are_longer_than_the_agents_own() -> None:
    found = {key: values[-1] for key, values in settings().items()}
    assert found["Type"] == "notify"
    assert int(found["TimeoutStartSec"]) > TIMEOUT_SECONDS
    assert int(found["WatchdogSec"]) > STUCK_AFTER_SECONDS
    assert found["ExecReload"] == "/bin/sh -c 'kill -HUP $MAINPID'"


def test_commands_are_ours_or_of_every_debian_system() -> None:
    """A minimal system has the essential packages only: dash and coreutils, not procps."""
    found = settings()
    commands = [
        value.lstrip("+-!@:").split()[0]
        for key, values in found.items()
        if key.startswith("Exec")
        for value in values
    ]
    assert set(commands) == {"/opt/podtally/bin/podtally", "/bin/sh", "/bin/mkdir"}
