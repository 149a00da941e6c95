# SPDX-License-Identifier: Apache-2.0
"""The thread that follows links, when something fails, overruns, churns or dies."""

import errno
import os
import resource
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

from podtally.netlink.model import (
    Appeared,
    Attached,
    AttachFailed,
    Gone,
)
from tests.kernel.links_support import (
    ifindex,
    make_pod,
    named_netns,
    sh,
)
from tests.kernel.test_links_watcher import Host, do_nothing, either_mode, host, pod

__all__ = ["either_mode", "host", "pod"]
from tests.kernel_version import HAS_TCX
from tests.patience import deadline


def test_vanishing_while_being_attached_is_no_error(either_mode: Host, pod: str) -> None:
    host = either_mode

    def vanish(number: int) -> None:
        # with its own end, since this thread may be the watcher's
        subprocess.run(["ip", "-n", pod, "link", "del", "eth0"], check=True)

    host.prepare = vanish
    with host.watching() as watcher:
        make_pod("v0", pod)
        host.inbox.wait(Gone)
        assert watcher.attach_errors == 0
        assert [type(event) for event in host.inbox.drain()] == [Appeared, Gone]
    assert host.left() == []


def test_a_failure_is_reported_in_one_line_and_tried_again(host: Host, pod: str) -> None:
    def fail(number: int) -> None:
        raise OSError(errno.ENOSPC, "no room for its account")

    host.prepare = fail
    with host.watching() as watcher:
        make_pod("v0", pod)
        failed = host.inbox.wait(AttachFailed)
        assert (failed.name, failed.reason) == ("v0", "no room for its account")
        assert watcher.attach_errors > 0
        host.prepare = do_nothing
        sh("ip link set v0 up")
        host.inbox.wait(Attached)
        assert sum(isinstance(event, Appeared) for event in host.inbox.seen) == 1


def test_an_overrun_leads_to_a_resync(host: Host, pod: str) -> None:
    host.receive_buffer = 1  # the kernel makes it its minimum: one or two messages
    held = threading.Event()

    def hold(number: int) -> None:
        held.wait(5)

    with host.watching() as watcher:
        make_pod("old", pod)
        host.inbox.wait(Attached)
        host.prepare = hold
        sh(f"ip link add v0 type veth peer name v0 netns {pod}")
        host.inbox.wait(Appeared, lambda event: event.link.name == "v0")
        for name in ("v1", "v2", "v3", "v4"):
            sh(f"ip link add {name} type veth peer name {name} netns {pod}")
        for name in ("v2", "old"):
            sh(f"ip link del {name}")
        there = {ifindex(name) for name in ("v0", "v1", "v3", "v4")}
        held.set()
        for number in there:
            host.inbox.wait(Attached, partial(_is_about, number))
        host.inbox.wait(Gone)
        assert watcher.resyncs >= 1
        events = host.inbox.drain()
        gone = {event.ifindex for event in events if isinstance(event, Gone)}
        attached = {event.ifindex for event in events if isinstance(event, Attached)}
        assert attached - gone == there
        assert len(host.left()) == (2 if HAS_TCX else 1) * len(there)


def _is_about(number: int, event: Attached) -> bool:
    return event.ifindex == number


def test_churn_leaves_nothing_and_grows_nothing(either_mode: Host) -> None:
    host = either_mode

    def round_of_pods() -> None:
        with named_netns("ptl-lc"):
            for name in ("c0", "c1", "c2", "c3", "c4"):
                sh(f"ip link add {name} type veth peer name {name} netns ptl-lc")
                sh(f"ip link set {name} up")
        wanted = len(_gone(host)) // 5 * 5 + 5
        end = deadline(60)
        while len(_gone(host)) < wanted:  # the kernel takes a dead namespace apart some time later
            assert time.monotonic() < end
            host.inbox.drain(0.01)

    with host.watching() as watcher:
        for _ in range(2):
            round_of_pods()
        before = (len(os.listdir("/proc/self/fd")), _rss_kb())
        for _ in range(8):
            round_of_pods()
        host.inbox.drain(0.3)
        assert len(_gone(host)) == 50
        assert len(os.listdir("/proc/self/fd")) == before[0]
        assert _rss_kb() - before[1] < 2048
        assert (watcher.attach_errors, watcher.resyncs) == (0, 0)
        assert host.left() == []


def _gone(host: Host) -> list[Gone]:
    return [event for event in host.inbox.seen if isinstance(event, Gone)]


def _rss_kb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def test_at_rest_the_thread_sleeps(host: Host, pod: str) -> None:
    with host.watching():
        make_pod("v0", pod)
        host.inbox.wait(Attached)
        time.sleep(1)  # the pair settles
        thread = next(t for t in threading.enumerate() if t.name == "links")
        stat = Path(f"/proc/self/task/{thread.native_id}/schedstat")

        def slept() -> bool:
            before = stat.read_text()
            time.sleep(0.3)
            return stat.read_text() == before

        # names that others make under /run/netns wake it, so a quiet moment has to be found
        assert any(slept() for _ in range(20))


def test_a_dead_thread_shows(host: Host) -> None:
    """The agent's /livez fails then."""
    with host.watching() as watcher:
        assert watcher.alive
    assert not watcher.alive
