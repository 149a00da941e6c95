# SPDX-License-Identifier: Apache-2.0
"""Look-ups in the tracker at their limits: thousands at once, no room, no module, no permission."""

import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM

import numpy as np
import pytest

from podtally.netlink import conntrack
from podtally.netlink.conntrack import UDP, Translator
from tests.kernel.test_conntrack import (
    AGENT,
    SERVICE,
    Asked,
    Connections,
    Shop,
    backends_of,
    connections,
    shop,
    translator,
    tuples,
)

__all__ = ["connections", "shop", "translator"]


def fill(ports: range) -> list[Asked]:
    """Entries for a Service by hand, for every other port; its backend's port tells them apart."""
    batch = "".join(
        f"-I -p udp -s 10.99.1.2 -d 10.99.200.9 --sport {port} --dport 53 -r 10.99.2.2 "
        f"-q 10.99.1.2 --reply-port-src {port + 10000} --reply-port-dst {port} -t 60\n"
        for port in ports[::2]
    )
    subprocess.run(
        ["conntrack", "-R", "-"], input=batch, text=True, check=True, capture_output=True
    )
    return [("10.99.1.2", port, "10.99.200.9", 53, UDP) for port in ports]


def test_thousands_at_once(shop: Shop, translator: Translator) -> None:
    """More than a batch, some twice, in disorder, with gaps."""
    rows = fill(range(20000, 22000))
    order = np.random.default_rng(23).integers(0, len(rows), 5000).tolist()
    wanted = [None if i % 2 else ("10.99.2.2", 30000 + i) for i in order]
    assert backends_of(translator.translate(tuples(rows[i] for i in order))) == wanted
    assert translator.errors == 0


@pytest.mark.parametrize("option", [socket.SO_SNDBUF, socket.SO_RCVBUF])
def test_what_finds_no_room_is_counted(shop: Shop, translator: Translator, option: int) -> None:
    """Lost requests or answers cost the tuples that they are about, and no other."""
    assert translator._socket is not None
    translator._socket.setsockopt(socket.SOL_SOCKET, option, 1)  # the kernel's least: some KiB
    rows = fill(range(20000, 20200))
    answers = backends_of(translator.translate(tuples(rows)))
    for i, answer in enumerate(answers):
        assert answer in (None, ("10.99.2.2", 30000 + i))
    lost = [i for i, answer in enumerate(answers) if answer is None and i % 2 == 0]
    assert lost
    assert len(lost) <= translator.errors <= 200
    before = translator.errors
    assert backends_of(translator.translate(tuples(rows[2:3]))) == [("10.99.2.2", 30002)]
    assert translator.errors == before


def test_a_look_up_is_cheap(shop: Shop, translator: Translator, connections: Connections) -> None:
    connections.listen(shop.back, AF_INET, 5353, SOCK_DGRAM)
    asked = tuples(connections.call(shop.front, (SERVICE, 53), SOCK_DGRAM) for _ in range(500))
    costs = []
    for _ in range(20):
        start = time.thread_time()
        assert translator.translate(asked).found.all()
        costs.append((time.thread_time() - start) / 500)
    assert sorted(costs)[10] < 20e-6, costs


def test_nothing_is_looked_up_without_the_module(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: Connections
) -> None:
    """And it is asked from when it is."""
    monkeypatch.setattr(conntrack, "_LOADED", tmp_path / "nf_conntrack_max")
    translator = Translator()
    connections.callback(translator.close)
    connections.listen(shop.back, AF_INET, 8080)
    asked = tuples([connections.call(shop.front, (SERVICE, 80))])
    assert backends_of(translator.translate(asked)) == [None]
    assert (translator.available, translator.reason) == (False, "nf_conntrack is not loaded")
    (tmp_path / "nf_conntrack_max").touch()
    assert backends_of(translator.translate(asked)) == [("10.99.2.2", 8080)]
    assert (translator.available, translator.reason) == (True, "")


def test_a_missing_permission_is_reported(shop: Shop) -> None:
    """Without CAP_NET_ADMIN the kernel refuses; nothing is found, and nothing breaks."""
    code = (
        "import os\n"
        "from podtally.netlink.conntrack import Translator\n"
        "os.setuid(65534)\n"
        "t = Translator(); print(t.available, t.reason, sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(AGENT)},
    )
    assert done.stdout.strip() == f"False|{os.strerror(errno.EPERM)}"
