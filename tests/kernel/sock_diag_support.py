# SPDX-License-Identifier: Apache-2.0
"""A host and its neighbour, sockets in cgroups on either, and their owners."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Self

import numpy as np
import pytest

from podtally.netlink.sock_diag import SocketDiag
from podtally.netlink.sock_diag_layout import TCP, UDP
from tests.kernel.links_support import inside, named_netns, own_netns, sh
from tests.kernel.test_conntrack import Asked, tuples
from tests.kernel.uplink import HOST4, HOST6, OUT4, OUT6, cgroup

KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
OUT = f"ptl-out-{os.getpid()}"


class Ends(NamedTuple):
    family: socket.AddressFamily
    host: str
    out: str
    any: str


V4 = Ends(socket.AF_INET, HOST4, OUT4, "0.0.0.0")
V6 = Ends(socket.AF_INET6, HOST6, OUT6, "::")


@contextmanager
def host_with_neighbour() -> Iterator[None]:
    """The calling thread lives on the host within the block; the neighbour is named OUT."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with own_netns(), named_netns(OUT):
        sh(f"ip link add up0 type veth peer name eth0 netns {OUT}")
        for where, link, four, six in (
            ("", "up0", HOST4, HOST6),
            (f"-n {OUT}", "eth0", OUT4, OUT6),
        ):
            sh(f"ip {where} addr add {four}/24 dev {link}")
            sh(f"ip {where} addr add {six}/64 dev {link} nodad")
            sh(f"ip {where} link set {link} up")
        yield


class Sockets(ExitStack):
    """Sockets of one test, which end with it."""

    def make(
        self, protocol: int, family: int, local: tuple[str, int], *options: int
    ) -> socket.socket:
        """Bound, with SOL_SOCKET options set to 1, listening if it can."""
        made = self.enter_context(socket.socket(family, KINDS[protocol]))
        made.settimeout(3)
        for option in (socket.SO_REUSEADDR, *options):
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        made.bind(local)
        if protocol == TCP:
            made.listen(64)
        return made

    def there(self, protocol: int, ends: Ends, port: int = 0) -> socket.socket:
        """Bound in OUT."""
        with inside(OUT):
            made = self.enter_context(socket.socket(ends.family, KINDS[protocol]))
            made.settimeout(3)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((ends.out, port))
            return made

    def __enter__(self) -> Self:
        return self


def in_new_cgroup(make: Callable[[], socket.socket]) -> tuple[int, socket.socket]:
    """A socket keeps the cgroup of who made it, also when that is gone."""
    with cgroup() as number:
        return number, make()


def ask(diag: SocketDiag, asked: Asked, interface: int = 0) -> int:
    (answer,) = diag.cgroups(tuples([asked]), np.array([interface]))
    return int(answer)


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    with host_with_neighbour():
        yield


@pytest.fixture
def diag() -> Iterator[SocketDiag]:
    made = SocketDiag()
    assert (made.available, made.reason) == (True, "")
    yield made
    assert made.errors == 0
    made.close()


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with Sockets() as made:
        yield made
