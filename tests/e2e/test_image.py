# SPDX-License-Identifier: Apache-2.0
"""The image, run by runc as the DaemonSet has it run: scripts/image-check makes it first."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from podtally.kernel.capabilities import RUNNING
from tests.e2e import oci_bundle
from tests.e2e.agents import READY_SECONDS, Agent, Places, assert_books_close, value
from tests.e2e.pods import Node, Pod
from tests.e2e.test_least_rights import effective, manifest_capabilities, ping

ROOT = os.environ.get("PODTALLY_IMAGE_ROOT", "")
PINGS = 23


@dataclass
class Container(Agent):
    """The agent in a container of the image; ``bundle`` is what runc is given."""

    bundle: Path = Path()

    @property
    def name(self) -> str:
        return self.bundle.name

    def command(self, *flags: str) -> list[str]:
        assert not flags
        return ["runc", "run", "--bundle", str(self.bundle), self.name]

    def runc(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["runc", *words], capture_output=True, text=True, check=False)

    def stop_container(self) -> int:
        assert self.process is not None
        assert self.runc("kill", self.name, "TERM").returncode == 0
        code = self.process.wait(timeout=20)
        self.process = None
        return code

    def end(self) -> None:
        self.runc("delete", "--force", self.name)
        super().end()

    def agents_process(self) -> int:
        state = yaml.safe_load(self.runc("state", self.name).stdout)
        return int(state["pid"])


@pytest.fixture
def container(places: Places, tmp_path: Path) -> Iterator[Container]:
    if not ROOT:
        pytest.skip("scripts/image-check makes the image, and runs this")
    if shutil.which("runc") is None:
        pytest.skip("no runc")
    if not oci_bundle.SECCOMP.exists():
        pytest.skip(f"no {oci_bundle.SECCOMP} (golang-github-containers-common)")
    bundle, config, logs = (tmp_path / name for name in ("bundle", "config", "logs"))
    for directory in (bundle, config, logs, places.state_dir):
        directory.mkdir()
    settings = oci_bundle.settings() | {
        "listen": f"127.0.0.1:{places.port}",
        "kubernetes": "off",
        "pin_dir": str(places.pin_dir),
        "interfaces": "ptl-*",
        "epoch": 0.1,
    }
    (config / "podtally.yaml").write_text(yaml.safe_dump(settings))
    Path("/run/netns").mkdir(exist_ok=True)
    sources = {"config": config, "state": places.state_dir, "pod-logs": logs}
    bundle = bundle.rename(tmp_path / f"podtally-{os.getpid()}")
    oci_bundle.write(bundle, Path(ROOT), sources)
    made = Container(places, log=tmp_path / "agent.log", bundle=bundle)
    made.log.touch()
    yield made
    made.end()


def test_it_counts_and_names_as_the_daemonset_has_it(node: Node, container: Container) -> None:
    node.bridged_pod("a")
    node.bridged_pod("b")
    opening = node.quiet()
    started = time.monotonic()
    container.start()
    container.wait_ready(startup_seconds())
    print(f"ready after {time.monotonic() - started:.1f} s, of which it compiled")
    assert_rights(container)
    assert container.runc("exec", container.name, "podtally", "health").stdout == "ok\n"
    node.bridged_pod("c")  # its namespace's name is mounted while the container runs
    ping(node.pods["a"], node.pods["b"])
    ping(node.pods["c"], node.pods["a"])
    assert_named(container, *node.pods.values())
    assert_books_close(container, opening)
    assert container.stop_container() == 0
    ping(node.pods["a"], node.pods["b"])  # the agent is away, and it is counted
    container.runc("delete", container.name)
    container.start()
    container.wait_ready()
    assert "using the pinned kernel programs" in container.said()
    assert_books_close(container, opening)
    assert not any(word in container.said() for word in ("ermitted", "denied", "Read-only"))


def startup_seconds() -> float:
    (spec,) = oci_bundle.pod_spec()["containers"]
    probe = spec["startupProbe"]
    return float(probe["periodSeconds"] * probe["failureThreshold"])


def assert_rights(container: Container) -> None:
    pid = container.agents_process()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {key: word.strip() for key, _, word in (line.partition(":") for line in lines)}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert effective(pid) == set(manifest_capabilities()) & RUNNING


def assert_named(container: Container, *pods: Pod) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        samples = container.samples()
        sent = [value(samples, "podtally_pod_packets_total", pod=each.netns) for each in pods]
        if all(packets >= PINGS for packets in sent):
            return
        assert time.monotonic() < end, f"{sent}\n{container.said()}"
        time.sleep(0.1)
