# SPDX-License-Identifier: Apache-2.0
"""Keeps the table of declared exposure up to date, at most every two seconds."""

from podtally.identity.cluster.state import ClusterState
from podtally.identity.services import Services
from podtally.kube.source import KubeSource
from podtally.policy.exposure.exposures import Exposure, ExposureBuilder
from podtally.policy.load.policy_sources import DeclaredPolicies

EVERY_NS = 2_000_000_000  # Services of a big cluster change all the time
_DECLARING = ("services", "endpointslices", "nodes")


class ExposureSource:
    """Remembers what the table was made of."""

    def __init__(self) -> None:
        self._builder = ExposureBuilder()
        self._exposure: Exposure | None = None
        self._made_of: tuple[object, ...] = ()
        self._next_ns = 0

    def lookup(
        self,
        services: Services,
        declared: DeclaredPolicies,
        cluster: ClusterState | None,
        kube: KubeSource | None,
        now_ns: int,
    ) -> Exposure | None:
        """Return the table; None until the API has listed all resources that declare exposure."""
        if cluster is None or kube is None or not declared.ingresses_known:
            return None
        if not all(map(kube.listed, _DECLARING)):
            return None
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + EVERY_NS
            nodes = cluster.node_addresses()
            made_of = (services, declared.ingresses, nodes)
            if self._made_of != made_of:
                self._made_of = made_of
                self._exposure = self._builder.exposure(declared.ingresses, services, nodes)
        return self._exposure
