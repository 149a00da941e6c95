# SPDX-License-Identifier: Apache-2.0
"""Which resolvers count for verdicts, and which pods of this host may answer for them."""

from dataclasses import replace
from pathlib import Path

from podtally.identity.interface_endpoints import AddressSpan, InterfaceEndpoint, address_number
from podtally.identity.model import FOREVER
from podtally.identity.services import BackendAddress, Services
from podtally.kube.objects import KubeService, KubeServicePort
from podtally.runtime.trusted_resolvers import NODE_LOCAL, TrustedResolvers

DNS_POD, OTHER_POD, CLUSTER_IP = "10.99.0.53", "10.99.0.9", "10.99.255.10"
NAME = ("kube-system", "kube-dns")


def packed(text: str) -> bytes:
    return address_number(text).to_bytes(16)


def services() -> Services:
    port = KubeServicePort("dns", "UDP", 53, 0)
    service = KubeService(*NAME, "u-dns", (CLUSTER_IP,), (port,), 0)
    backends = {(17, 53): (BackendAddress(address_number(DNS_POD), 53),)}
    return Services({}, {NAME: backends}, {NAME: service})


def behind(ifindex: int, *addresses: str, host: bool = False) -> InterfaceEndpoint:
    spans = tuple(AddressSpan(each, 0, FOREVER) for each in addresses)
    return InterfaceEndpoint(ifindex, f"veth{ifindex}", host=host, addresses=spans)


def test_the_clusters_the_hosts_and_configured_ones_are_trusted(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("search example.com\nnameserver 198.18.0.53\nnameserver fe80::1%eth0\n")
    trusted = TrustedResolvers(("203.0.113.53",), (file, tmp_path / "none")).now(services())
    every = ("203.0.113.53", NODE_LOCAL, "198.18.0.53", "fe80::1", DNS_POD, CLUSTER_IP)
    assert trusted == set(map(packed, every))


def test_a_pod_answers_from_its_own_addresses_and_for_services_that_it_serves() -> None:
    resolvers = TrustedResolvers(())
    resolvers.now(services())
    serving, other = behind(8, DNS_POD), behind(9, OTHER_POD)
    # Configured in the pod, but routed elsewhere: no address of its own.
    claimed = AddressSpan(CLUSTER_IP, 0, routed=False, on_link=True)
    other = replace(other, addresses=(*other.addresses, claimed))
    found = resolvers.senders([serving, other, behind(2, "198.18.0.1", host=True), behind(7)])
    assert found == {
        8: {packed(DNS_POD), packed(CLUSTER_IP)},
        9: {packed(OTHER_POD)},
    }
