# SPDX-License-Identifier: Apache-2.0
"""A directory of endpoints for tests, and look-ups in it."""

import numpy as np

from podtally.config import StaticEndpoint
from podtally.identity.cluster.state import ClusterState
from podtally.identity.interface_endpoints import address_number
from podtally.identity.local.directory import (
    Directory,
)
from podtally.identity.model import Endpoint, Owner
from podtally.netlink.model import AddressesChanged
from podtally.runtimes.cgroups import CgroupOwner
from tests.unit.rows import NETWORKS, SECOND

UID = "0b3f7a52-9a4e-4d51-8f63-1d2a9c1e7f05"
POD = CgroupOwner("pod", UID, "c" * 64)
NAMED = Endpoint("shop", "web-0", "web", "StatefulSet", "cri", (("app", "web"),), UID)
START = 100 * SECOND
PATIENCE = 10 * SECOND


def packed(address: str) -> bytes:
    return address_number(address).to_bytes(16, "big")


def directory(*static: StaticEndpoint, cluster: ClusterState | None = None) -> Directory:
    made = Directory(static, NETWORKS, PATIENCE, cluster)
    made.appeared(7, "veth7", "", host=False, at_ns=START)
    made.apply_addresses(AddressesChanged(7, (packed("10.99.0.7"), packed("2001:db8::7")), START))
    return made


def endpoint(made: Directory, ifindex: int = 7, at_ns: int = START + 1) -> Endpoint:
    made.refresh(at_ns)
    return made.names.endpoint(ifindex)


def owner(made: Directory, address: str, at_ns: int = START + 1) -> Owner:
    high, low = (np.array([word], np.uint64) for word in divmod(address_number(address), 1 << 64))
    return made.names.owners[int(made.names.look_up(high, low, np.array([at_ns]))[0])]
