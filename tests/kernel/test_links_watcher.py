# SPDX-License-Identifier: Apache-2.0
"""Pods that come, change and go while the thread follows."""

import ipaddress
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from podtally.attach.attacher import Attacher
from podtally.attach.selection import pod_interfaces
from podtally.attach.watcher import LinkWatcher
from podtally.netlink.model import (
    UNKNOWN,
    AddressesChanged,
    Appeared,
    Attached,
    Counters,
    Gone,
    Mode,
    NetnsNamed,
    Renamed,
    Role,
)
from tests.kernel.links_support import (
    Inbox,
    give_addresses,
    make_pod,
    named_netns,
    own_netns,
    pin_directory,
    programs,
    sh,
)
from tests.kernel_version import HAS_TCX
from tests.patience import deadline
from tests.pressure import Stopwatch

PINGS = 23


def do_nothing(number: int) -> None:
    pass


@dataclass
class Host:
    """A namespace with the watcher's surroundings; ``watching()`` runs one."""

    pins: Path
    state: Path
    fds: dict[str, int]
    mode: Mode = Mode.TCX if HAS_TCX else Mode.CLSACT
    pattern: str | None = None
    receive_buffer: int = 1 << 20
    inbox: Inbox = field(default_factory=Inbox)
    prepare: Callable[[int], None] = do_nothing  # stands in for making the kernel's accounts

    @contextmanager
    def watching(self) -> Iterator[LinkWatcher]:
        attacher = Attacher(self.pins, self.fds, self.mode, self.state)
        watcher = LinkWatcher(
            attacher,
            pod_interfaces(self.pattern),
            self._prepare,
            self.inbox.queue,
            self.receive_buffer,
        )
        try:
            watcher.start()
            yield watcher
            assert watcher.alive
        finally:
            watcher.stop()
            attacher.close()

    def _prepare(self, number: int) -> None:
        self.prepare(number)  # whichever it is by then

    def left(self) -> list[Path]:
        found = [*self.pins.rglob("*"), *self.state.rglob("*")]
        return [path for path in found if not path.is_dir()]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with own_netns(), pin_directory() as pins, programs() as fds:
        yield Host(pins, tmp_path, dict(fds))


@pytest.fixture(params=[Mode.TCX, Mode.CLSACT])
def either_mode(request: pytest.FixtureRequest, host: Host) -> Host:
    host.mode = request.param
    return host


@pytest.fixture
def pod() -> Iterator[str]:
    with named_netns("ptl-lw"):
        yield "ptl-lw"


def mapped(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def test_a_pod_is_attached_within_100_ms(either_mode: Host, pod: str) -> None:
    host = either_mode
    with host.watching():
        make_pod("v0", pod)
        watch = Stopwatch()
        attached = host.inbox.wait(Attached)
        waited_ms = 1e3 * watch.unhindered()
        appeared = host.inbox.seen[0]
        assert isinstance(appeared, Appeared), "before anything else"
        assert (appeared.link.name, appeared.role, appeared.netns) == ("v0", Role.POD, pod)
        assert appeared.low == Counters(0, 0)
        assert attached == Attached(appeared.link.ifindex, host.mode, True, Counters(0, 0))
    assert waited_ms < 100, waited_ms


def test_what_is_there_at_the_start_is_attached_by_start(host: Host, pod: str) -> None:
    make_pod("v0", pod)
    with host.watching():
        assert [type(event) for event in host.inbox.drain(0)][:2] == [Appeared, Attached]


def test_a_restart_goes_on_counting(either_mode: Host, pod: str) -> None:
    host = either_mode
    make_pod("v0", pod)
    with host.watching():
        assert host.inbox.wait(Attached).fresh
    host.inbox.clear()
    with host.watching():
        assert not host.inbox.wait(Attached).fresh


def test_an_interface_no_longer_selected_is_detached(either_mode: Host, pod: str) -> None:
    host = either_mode
    make_pod("v0", pod)
    with host.watching():
        pass
    host.pattern = "!v0"
    with host.watching():
        attacher = Attacher(host.pins, {}, host.mode)
        assert attacher.own() == []
        attacher.close()
    assert host.left() == []


def test_an_end_announced_before_its_peer_moves(host: Host, pod: str) -> None:
    with host.watching():
        sh("ip link add v0 type veth peer name v1")
        assert host.inbox.drain() == []
        sh(f"ip link set v1 netns {pod}")
        assert host.inbox.wait(Appeared).netns == pod
        host.inbox.wait(Attached)


def test_addresses_are_reported_and_followed(host: Host, pod: str) -> None:
    with host.watching():
        make_pod("v0", pod)
        host.inbox.wait(Attached)
        give_addresses("v0", pod, 1)
        sh(f"ip -n {pod} addr add 2001:db8::2/64 dev eth0 nodad")
        sh(f"ip -n {pod} link set lo up")
        wanted = {mapped("10.99.1.2"), mapped("2001:db8::2")}
        result = host.inbox.wait(AddressesChanged, lambda event: wanted <= set(event.addresses))
        assert mapped("127.0.0.1") not in result.addresses
        assert mapped("10.99.1.1") not in result.addresses, "the host's own end"
        sh(f"ip -n {pod} addr del 10.99.1.2/24 dev eth0")
        host.inbox.clear()
        sh(f"ip -n {pod} addr add 10.99.1.3/24 dev eth0")
        result = host.inbox.wait(AddressesChanged)
        assert mapped("10.99.1.3") in result.addresses
        assert mapped("10.99.1.2") not in result.addresses


def test_an_uplinks_addresses_are_the_hosts(host: Host, pod: str) -> None:
    host.pattern = "up*"
    with host.watching():
        sh("ip tuntap add dev up0 mode tap")
        assert host.inbox.wait(Appeared).role is Role.HOST
        sh("ip addr add 198.18.0.1/15 dev up0")
        host.inbox.wait(AddressesChanged, lambda event: mapped("198.18.0.1") in event.addresses)


@pytest.mark.parametrize("delete", ["ip link del v0", "ip -n ptl-lw link del eth0"])
def test_the_farewell_has_the_last_counters(either_mode: Host, pod: str, delete: str) -> None:
    host = either_mode
    with host.watching():
        make_pod("v0", pod)
        give_addresses("v0", pod, 2)
        sh(f"ping -q -c {PINGS} -i 0.005 10.99.2.2")
        host.inbox.wait(Attached)
        # quiet the pair, so that what is read now is the last word
        sh("ip link set v0 down")
        sh(f"ip -n {pod} link set eth0 down")
        rx, tx = _bytes_of("v0")
        assert rx > PINGS * 98
        sh(delete)
        assert host.inbox.wait(Gone).final == Counters(rx, tx)
    assert host.left() == []


def _bytes_of(name: str) -> tuple[int, int]:
    """Read a link's rx and tx bytes."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        label, _, numbers = line.partition(":")
        if label.strip() == name:
            return int(numbers.split()[0]), int(numbers.split()[8])
    raise AssertionError(name)


def test_a_dying_namespace_takes_its_count_along(host: Host, pod: str) -> None:
    with host.watching():
        make_pod("v0", pod)
        give_addresses("v0", pod, 3)
        sh(f"ping -q -c {PINGS} -i 0.005 10.99.3.2")
        host.inbox.wait(Attached)
        sh(f"ip netns del {pod}")
        final = host.inbox.wait(Gone).final
        assert final is not None
        assert final.from_endpoint == UNKNOWN
        assert final.to_endpoint > PINGS * 98
    assert host.left() == []


@pytest.mark.parametrize("moved", [True, False])
def test_a_final_message_says_whether_the_link_goes_on_elsewhere(
    host: Host, pod: str, moved: bool
) -> None:
    with host.watching():
        make_pod("v0", pod)
        host.inbox.wait(Attached)
        sh("ip netns add ptl-elsewhere")
        try:
            sh("ip link set v0 netns ptl-elsewhere" if moved else "ip link del v0")
            assert host.inbox.wait(Gone).moved == moved
        finally:
            sh("ip netns del ptl-elsewhere")


def test_a_new_name_is_reported(host: Host, pod: str) -> None:
    with host.watching():
        make_pod("v0", pod)
        number = host.inbox.wait(Attached).ifindex
        sh("ip link set v0 name w0")
        assert host.inbox.wait(Renamed) == Renamed(number, "w0")


def test_a_namespace_named_later(host: Host) -> None:
    sleeper = subprocess.Popen(["unshare", "--net", "sleep", "30"])
    try:
        _wait_for_other_netns(sleeper.pid)
        with host.watching():
            sh(f"ip link add v0 type veth peer name eth0 netns {sleeper.pid}")
            number = host.inbox.wait(Attached).ifindex
            appeared = host.inbox.wait(Appeared)
            assert appeared.netns == ""
            sh(f"ip netns attach ptl-late {sleeper.pid}")
            assert host.inbox.wait(NetnsNamed) == NetnsNamed(number, "ptl-late")
    finally:
        subprocess.run(["ip", "netns", "del", "ptl-late"], capture_output=True, check=False)
        sleeper.kill()
        sleeper.wait()


def _wait_for_other_netns(pid: int) -> None:
    end = deadline(60)
    while os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/thread-self/ns/net"):
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_namespace_with_an_id_of_its_own(host: Host, pod: str) -> None:
    sh(f"ip netns attach ptl-self {os.getpid()}")
    try:
        sh("ip netns set ptl-self 77")
        with host.watching():
            make_pod("v0", pod)
            host.inbox.wait(Attached)
            sh("ip link del v0")
            host.inbox.wait(Gone)
    finally:
        sh("ip netns del ptl-self")
