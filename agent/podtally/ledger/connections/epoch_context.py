# SPDX-License-Identifier: Apache-2.0
"""What an epoch is booked by: names, Services, policies, and look-ups in the kernel."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podtally.dns.peer_naming import NO_DOMAIN_INPUTS, DomainInputs
from podtally.identity.cluster_labels import NO_CLUSTER_LABELS, ClusterLabels
from podtally.identity.name_table import Names
from podtally.identity.services import NO_SERVICES, Services
from podtally.netlink.conntrack import Translations, Tuples
from podtally.policy.exposure.exposures import Exposure
from podtally.policy.load.policy_sources import DeclaredPolicies


def no_translations(tuples: Tuples) -> Translations:
    n = len(tuples.protocol)
    return Translations(np.zeros(n, np.bool_), np.zeros((n, 2), np.uint64), np.zeros(n, np.uint16))


def no_sockets(tuples: Tuples, _: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.zeros(len(tuples.protocol), np.int64)


class EpochContext(NamedTuple):
    """Collected before an epoch is booked, and passed down; the same for all of its rows."""

    names: Names
    now_ns: int
    services: Services = NO_SERVICES
    translate: Callable[[Tuples], Translations] = no_translations
    # From tuples and interfaces (n,) to the cgroups of the sockets that receive; 0: none
    sockets: Callable[[Tuples, NDArray[np.uint32]], NDArray[np.int64]] = no_sockets
    # The lower words, in network order, of addresses that have just changed their owner
    reassigned: NDArray[np.uint64] = np.zeros(0, np.uint64)
    cluster_labels: ClusterLabels = NO_CLUSTER_LABELS
    declared: DeclaredPolicies = DeclaredPolicies((), (), ())
    exposure: Exposure | None = None  # None: not known yet
    domains: DomainInputs = NO_DOMAIN_INPUTS
    wall_ns: int = 0  # the same instant as ``now_ns``, since 1970
