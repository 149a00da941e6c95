# SPDX-License-Identifier: Apache-2.0
"""What TCP sends again, as tracepoints report it, against the kernel's own counters."""

import ipaddress
import os
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from podtally.doctor import features
from podtally.kernel import bpf
from podtally.kernel.header_text import read_constants
from podtally.kernel.sources import BPF_DIR
from podtally.kernel.table import Table
from podtally.kernel.tracepoints import RETRANSMITS, TRACEFS, TracepointError, attach, find
from tests.kernel.driver import Kernel
from tests.kernel.links_support import inside, named_netns, sh
from tests.patience import deadline
from tests.tracefs import tracefs

CLIENT, SERVER = "rt-client", "rt-server"
NET = 1 + os.getpid() % 250  # tracepoints report other runs on this host, too
ADDRESSES = {
    socket.AF_INET: {CLIENT: f"10.99.{NET}.1", SERVER: f"10.99.{NET}.2"},
    socket.AF_INET6: {CLIENT: f"2001:db8:a:{NET:x}::1", SERVER: f"2001:db8:a:{NET:x}::2"},
}
PORT, CONNECTIONS, MESSAGES = 8014, 6, 25
LOSS = (
    "add table inet t; add chain inet t c { type filter hook input priority 0; }; "
    "add rule inet t c meta l4proto tcp numgen inc mod 50 == 7 drop"  # 2 %
)
LOST_ANSWERS = "add rule inet t c tcp flags & (syn | ack) == syn | ack numgen inc mod 4 == 1 drop"
DROP_ALL = (
    "add table inet none; add chain inet none c { type filter hook input priority -10; }; "
    "add rule inet none c meta l4proto tcp drop"
)


@pytest.fixture
def loss() -> Iterator[None]:
    """Two network namespaces, and a link that loses packets both ways."""
    with named_netns(CLIENT, SERVER):
        sh(f"ip -n {CLIENT} link add c type veth peer name s netns {SERVER}")
        for netns, link in ((CLIENT, "c"), (SERVER, "s")):
            for family, address in ADDRESSES.items():
                length = 24 if family == socket.AF_INET else 64
                sh(f"ip -n {netns} address add {address[netns]}/{length} dev {link} nodad")
            sh(f"ip -n {netns} link set {link} up")
            with inside(netns):
                subprocess.run(["nft", LOSS], check=True)
        with inside(CLIENT):
            subprocess.run(["nft", LOST_ANSWERS], check=True)
        yield


@pytest.fixture
def links(pin_root: Path) -> Iterator[Path]:
    directory = pin_root / "retransmit-links"
    directory.mkdir()
    with tracefs():
        yield directory
    shutil.rmtree(directory)


@pytest.fixture
def traced(kernel: Kernel, links: Path) -> Table:
    for each in RETRANSMITS:
        attach(each, kernel.programs, links)
    for _ in range(2):
        by_source(kernel.table)
    return kernel.table


def counter(netns: str) -> int:
    """Return the kernel's own count of segments that a namespace sent again."""
    with inside(netns):
        text = subprocess.run(
            ["nstat", "--ignore", "--zeros", "--noupdate", "TcpRetransSegs"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    return int(text.split("TcpRetransSegs")[1].split()[0])


def retransmits(asking: socket.socket) -> int:
    """Return how often the oldest unanswered segment was sent again: tcpi_retransmits."""
    return asking.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2]


def echo(listener: socket.socket) -> None:
    for _ in range(CONNECTIONS):
        accepted, _ = listener.accept()
        with accepted:
            while data := accepted.recv(4096):
                accepted.sendall(data)


def converse(family: socket.AddressFamily) -> None:
    """Exchange messages of one segment, one after the other."""
    with inside(SERVER):
        listener = socket.create_server((ADDRESSES[family][SERVER], PORT), family=family)
    with listener:
        echoing = threading.Thread(target=echo, args=(listener,))
        echoing.start()
        for _ in range(CONNECTIONS):
            with inside(CLIENT):
                asking = socket.socket(family)
            with asking:
                asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                asking.settimeout(60)
                asking.connect((ADDRESSES[family][SERVER], PORT))
                for _ in range(MESSAGES):
                    asking.sendall(b"x" * 100)
                    asking.recv(4096)
        echoing.join()


def by_source(table: Table) -> Counter[str]:
    """End the epoch, and return what each address has sent again in it."""
    table.flip()
    table.fence()
    half = (table.epoch & 1) ^ 1
    found: Counter[str] = Counter()
    for key, count in table.retransmits(half).counted:
        address = ipaddress.IPv6Address(key["source"].tobytes())
        found[str(address.ipv4_mapped or address)] += int(count)
    table.clear(half)
    assert not len(table.retransmits(half).counted)
    return found


@pytest.mark.parametrize("family", ADDRESSES)
def test_retransmits_equal_the_kernels_counters(
    traced: Table,
    loss: None,
    family: socket.AddressFamily,
) -> None:
    addresses = ADDRESSES[family]
    before = {netns: counter(netns) for netns in addresses}
    converse(family)
    sent: Counter[str] = Counter()
    end = deadline(60)
    while True:  # a last FIN may be sent again later
        sent += by_source(traced)
        found = {netns: sent[address] for netns, address in addresses.items()}
        if found == {netns: counter(netns) - before[netns] for netns in addresses}:
            break
        assert time.monotonic() < end, found
    assert all(found.values())


def test_an_address_has_a_share_of_its_own(traced: Table, loss: None) -> None:
    constants = read_constants((BPF_DIR / "retransmit.h").read_text())
    share, more = constants["RETRANSMIT_SHARE"], 40
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * share, max(2 * share, before[1])))
    with ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        with inside(SERVER):
            subprocess.run(["nft", DROP_ALL], check=True)
        sockets = []
        for number in range(share + more):
            with inside(CLIENT):
                asking = opened.enter_context(socket.socket())
            sockets.append(asking)
            asking.setblocking(False)
            asking.connect_ex((ADDRESSES[socket.AF_INET][SERVER], 1 + number))
        end = deadline(60)
        while not all(retransmits(each) for each in sockets):  # each SYN once more
            assert time.monotonic() < end
            time.sleep(0.1)
        traced.flip()
        traced.fence()
        half = (traced.epoch & 1) ^ 1
        reading = traced.retransmits(half)
        traced.clear(half)
    keys = reading.counted["key"]
    own = [str(ipaddress.IPv6Address(key["source"].tobytes()).ipv4_mapped) for key in keys]
    beyond = own.count(ADDRESSES[socket.AF_INET][CLIENT]) - share
    assert 0 <= beyond < bpf.possible_cpus()  # that begin an epoch at once
    assert reading.lost >= more - beyond  # each was sent again once at least
    assert not traced.retransmits(half).lost


def test_a_link_is_kept_until_the_program_is_another(
    kernel: Kernel, small: Kernel, links: Path
) -> None:
    def attached(to: Kernel) -> bpf.LinkInfo:
        attach(RETRANSMITS[1], to.programs, links)
        with bpf.owned(bpf.obj_get(links / RETRANSMITS[1].program)) as link:
            return bpf.link_info(link)

    first = attached(kernel)
    assert attached(kernel) == first
    changed = attached(small)
    assert changed.id != first.id
    assert changed.prog_id == bpf.prog_info(small.programs[RETRANSMITS[1].program]).id


def test_doctor_finds_the_tracepoints(kernel: Kernel) -> None:
    if not (TRACEFS[0] / "events").is_dir():
        found = features.retransmits()
        assert (found.ok, found.fatal) == (None, False)
        assert "mount -t tracefs" in found.fix
    with tracefs():
        assert features.retransmits().ok


def test_other_formats_are_refused(tmp_path: Path) -> None:
    event = tmp_path / "events" / RETRANSMITS[0].event
    event.mkdir(parents=True)
    (event / "id").write_text("5\n")
    lines = "\tfield:__u16 sport;\toffset:28;\tsize:2;\tsigned:0;\n"
    (event / "format").write_text(lines)
    with pytest.raises(TracepointError, match="no field dport of 2 bytes at 30"):
        find(RETRANSMITS[0], (tmp_path,))
    with pytest.raises(TracepointError, match="cannot read the tracepoint"):
        find(RETRANSMITS[1], (tmp_path,))
    with pytest.raises(TracepointError, match="no tracefs"):
        find(RETRANSMITS[0], (tmp_path / "absent",))
