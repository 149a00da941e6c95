# SPDX-License-Identifier: Apache-2.0
"""The counters of all links at once, and namespaces by their ids."""

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from podtally.attach.counters import CounterReader
from podtally.netlink.links import all_links
from podtally.netlink.namespaces import Namespaces
from podtally.netlink.netlink import Requests
from tests.kernel.links_support import give_addresses, make_pod, named_netns, own_netns, sh

LINKS = 200
PINGS = 23


@pytest.fixture
def reader() -> Iterator[CounterReader]:
    with own_netns():
        reader = CounterReader()
        yield reader
        reader.close()


def test_they_are_the_links_own(reader: CounterReader) -> None:
    with named_netns("ptl-ln"):
        make_pod("v0", "ptl-ln")
        give_addresses("v0", "ptl-ln", 4)
        sh(f"ping -q -c {PINGS} -i 0.005 10.99.4.2")
        requests = Requests()
        # a link that still settles may send between the two readings
        for _ in range(20):
            before, rows, after = all_links(requests), reader.read(), all_links(requests)
            if before == after:
                break
            time.sleep(0.05)
        requests.close()
    read = list(zip(*(column.tolist() for column in rows), strict=True))
    assert read == [(x.ifindex, x.rx_bytes, x.tx_bytes, *x.frames) for x in after]
    assert rows.rx_bytes.max() > PINGS * 98
    assert rows.rx_frames.max() > PINGS


def test_a_read_of_200_links_is_cheap(reader: CounterReader) -> None:
    script = "".join(f"link add f{n} type ifb\n" for n in range(LINKS))
    subprocess.run(["ip", "-batch", "-"], input=script, text=True, check=True)
    assert len(reader.read()[0]) == LINKS + 1
    costs = []
    for _ in range(20):
        start = time.thread_time()
        reader.read()
        costs.append(time.thread_time() - start)
    assert sorted(costs)[len(costs) // 2] < 0.001, costs


def test_names_and_reused_names() -> None:
    with own_netns():
        namespaces = Namespaces()
        with named_netns("ptl-ln", "ptl-lm"):
            nsids = {}
            for name in ("ptl-ln", "ptl-lm"):
                make_pod(name[4:], name)
                fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
                nsids[name] = namespaces.nsid_of_fd(fd)
                os.close(fd)
            assert all(namespaces.name_of(nsid) == name for name, nsid in nsids.items())
            sh("ip netns del ptl-ln")
            sh("ip netns add ptl-ln")
            make_pod("again", "ptl-ln")
            fd = os.open("/run/netns/ptl-ln", os.O_RDONLY)
            now = namespaces.nsid_of_fd(fd)
            os.close(fd)
            assert namespaces.name_of(now) == "ptl-ln"
            sh("ip netns del ptl-lm")
            assert namespaces.name_of(nsids["ptl-lm"]) == ""
        assert namespaces.name_of(-1) == ""
        assert namespaces.addresses(12345) is None
        namespaces.close()
