# SPDX-License-Identifier: Apache-2.0
"""What the API server would take and refuse, and where a refusal points."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from podtally.policy.load.parser import accepts, read_text
from podtally.policy.problems import ERROR, Problem

SHARED = Path(__file__).parents[4] / "shared" / "netpol" / "validation_shared.json"


def shared_cases() -> list[Any]:
    if not SHARED.exists():
        skip = pytest.mark.skip(reason="../shared/netpol/validation_shared.json is not here")
        return [pytest.param({}, marks=skip)]
    cases = json.loads(SHARED.read_text())["cases"]
    return [pytest.param(case, id=case["id"]) for case in cases]


@pytest.mark.parametrize("case", shared_cases())
def test_every_shared_object_is_accepted_or_rejected(case: dict[str, Any]) -> None:
    assert accepts(case["policy"]) is case["valid"], case["why"]


def network_policy(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "x"},
        "spec": {"podSelector": {}, **spec},
    }


def admin_policy(rule: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    rules = [{"action": "Deny", "to": [{"namespaces": {}}], **rule}] if rule is not None else []
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"priority": 1, "subject": {"namespaces": {}}, "egress": rules, **spec},
    }


def cluster_policy(rule: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    policy = admin_policy(rule, **{"tier": "Admin", **spec})
    policy["apiVersion"] = "policy.networking.k8s.io/v1alpha2"
    policy["kind"] = "ClusterNetworkPolicy"
    return policy


def baseline_policy(rule: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    policy = admin_policy(rule, **{"priority": None, **spec})
    policy["kind"] = "BaselineAdminNetworkPolicy"
    policy["metadata"] = {"name": "default"}
    return policy


def ingress(path: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    whole = {"path": "/", "pathType": "Prefix", "backend": backend, **(path or {})}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "i", "namespace": "x"},
        "spec": {"rules": [{"host": "a.example.com", "http": {"paths": [whole]}}], **spec},
    }


def host_policy(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "podtally.io/v1alpha1",
        "kind": "HostPolicy",
        "metadata": {"name": "h"},
        "spec": spec,
    }


def problems(policy: dict[str, Any]) -> list[Problem]:
    return list(read_text(json.dumps(policy, indent=1), "p.json").problems)


def peer(**fields: Any) -> dict[str, Any]:
    return network_policy(ingress=[{"from": [fields]}])


def port(**fields: Any) -> dict[str, Any]:
    return network_policy(ingress=[{"ports": [fields]}])


def block(cidr: Any, *excepted: Any) -> dict[str, Any]:
    return peer(ipBlock={"cidr": cidr, "except": list(excepted)})


def with_metadata(policy: dict[str, Any], **fields: Any) -> dict[str, Any]:
    changed = copy.deepcopy(policy)
    changed["metadata"] = {**changed["metadata"], **fields}
    return changed


ACCEPTED = {
    "nothing but a selector": network_policy(),
    "no selector": {k: v for k, v in network_policy().items() if k != "spec"},
    "spec null": {**network_policy(), "spec": None},
    "selector null": network_policy(podSelector=None),
    "types null": network_policy(policyTypes=None),
    "types twice the same": network_policy(policyTypes=["Egress", "Egress"]),
    "lists null": network_policy(ingress=None, egress=None),
    "rule null is an empty rule": network_policy(ingress=[None]),
    "port null is an empty port": network_policy(ingress=[{"ports": [None]}]),
    "peers and ports null": network_policy(ingress=[{"from": None, "ports": None}]),
    "protocol null": port(protocol=None, port=80),
    "port null": port(protocol="UDP", port=None),
    "port a whole float": port(port=80.0),
    "range of one": port(port=80, endPort=80),
    "value null is empty": peer(podSelector={"matchLabels": {"a": None}}),
    "value empty": peer(podSelector={"matchLabels": {"a": ""}}),
    "key with a domain": peer(podSelector={"matchLabels": {"example.com/a_B.c": "x"}}),
    "same expression twice": peer(
        podSelector={"matchExpressions": [{"key": "a", "operator": "Exists"}] * 2}
    ),
    "exists with no values": peer(
        podSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": []}]}
    ),
    "host bits": block("10.0.0.1/8"),
    "leading zeros": block("010.0.0.0/08"),
    "everywhere": block("0.0.0.0/0", "10.0.0.0/8"),
    "everywhere of IPv6": block("::/0", "2001:db8::/32"),
    "IPv4 in IPv6": block("::ffff:10.0.0.0/104"),
    "no namespace": with_metadata(network_policy(), namespace=None),
    "a generated name": with_metadata(network_policy(), name=None, generateName="p-"),
    "what the server adds": with_metadata(
        network_policy(),
        uid="u", resourceVersion="5", generation=1, creationTimestamp="2025-01-01T00:00:00Z",
        managedFields=[{"manager": "x", "fieldsV1": {"f:spec": {}}}], selfLink="/x",
    ),
    "an old status": {**network_policy(), "status": {}},
    "annotations in capitals": with_metadata(network_policy(), annotations={"A/B": "x y"}),
    "admin without rules": admin_policy(),
    "admin, protocol left out": admin_policy({"ports": [{"portNumber": {"port": 80}}]}),
    "admin, unknown protocol": admin_policy(
        {"ports": [{"portNumber": {"port": 80, "protocol": "ICMP"}}]}
    ),
    "admin, a range that is one port": admin_policy({"ports": [{"portRange": {"start": 8, "end": 8}}]}),
    "admin, unknown operator": admin_policy(
        subject={"namespaces": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}
    ),
    "admin, null field of a peer": admin_policy({"to": [{"namespaces": {}, "pods": None}]}),
    "admin, host bits": admin_policy({"to": [{"networks": ["10.0.0.1/8"]}]}),
    "admin, domains": admin_policy({"to": [{"domainNames": ["*.example.com", "a.b."]}]}),
    "admin, named port to pods": admin_policy({"ports": [{"namedPort": "web"}]}),
    "baseline": baseline_policy({}),
    "cluster, pods without namespaces": cluster_policy(subject={"pods": {"podSelector": {}}}),
    "cluster, range": cluster_policy(
        {"protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 2}}}}]}
    ),
    "cluster, 25 rules": cluster_policy(ingress=[{"action": "Pass", "from": [{"namespaces": {}}]}] * 25),
    "ingress": ingress(),
    "ingress, wildcard": ingress(rules=[{"host": "*.example.com"}]),
    "ingress, default only": ingress(
        rules=None, defaultBackend={"service": {"name": "a", "port": {"name": "web"}}}
    ),
    "ingress, resource": ingress(
        {"backend": {"resource": {"apiGroup": "x.io", "kind": "Bucket", "name": "b"}}}
    ),
    "ingress, its own path": ingress({"pathType": "ImplementationSpecific", "path": ""}),
    "host policy": host_policy(host=True, ingress=[{"from": [{"units": ["ssh.service"]}]}]),
    "another group's kind": {**network_policy(policyTypez=5), "apiVersion": "projectcalico.org/v3"},
    "a class": {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {}},
}  # fmt: skip


@pytest.mark.parametrize("policy", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(policy: dict[str, Any]) -> None:
    assert accepts(policy), problems(policy)
    assert not [problem for problem in problems(policy) if problem.severity == ERROR]


NAMESPACES: dict[str, Any] = {"namespaces": {}}
REJECTED = {
    "unknown field": (network_policy(podSelektor={}), "spec.podSelektor", "unknown field"),
    "unknown field of a peer": (peer(podSelector={}, x=1), "spec.ingress[0].from[0].x", "unknown field"),
    "type": (port(port=[80]), "spec.ingress[0].ports[0].port", "whole number"),
    "a list for an object": (network_policy(podSelector=[]), "spec.podSelector", "an object"),
    "an object for a list": (network_policy(ingress={}), "spec.ingress", "a list"),
    "a number for a value": (
        network_policy(podSelector={"matchLabels": {"v": 1.5}}), "spec.podSelector.matchLabels", "quotes"),
    "a broken number": (port(port=80.5), "spec.ingress[0].ports[0].port", "whole number"),
    "a truth for a number": (port(port=True), "spec.ingress[0].ports[0].port", "not true"),
    "peer null is an empty peer": (
        network_policy(ingress=[{"from": [None]}]), "spec.ingress[0].from[0]", "is empty"),
    "type null is no type": (network_policy(policyTypes=[None]), "spec.policyTypes[0]", "use one of"),
    "three types": (network_policy(policyTypes=["Egress"] * 3), "spec.policyTypes", "two"),
    "protocol empty": (port(protocol="", port=80), "spec.ingress[0].ports[0].protocol", "use one of"),
    "protocol ICMP": (port(protocol="ICMP"), "spec.ingress[0].ports[0].protocol", "use one of"),
    "port of text digits": (port(port="80"), "spec.ingress[0].ports[0].port", "letter"),
    "port empty": (port(port=""), "spec.ingress[0].ports[0].port", "must consist"),
    "port of 16": (port(port="a" * 16), "spec.ingress[0].ports[0].port", "15"),
    "port huge": (port(port=1 << 70), "spec.ingress[0].ports[0].port", "65535"),
    "port negative": (port(port=-1), "spec.ingress[0].ports[0].port", "65535"),
    "end before start": (port(port=80, endPort=79), "spec.ingress[0].ports[0].endPort", "less"),
    "end too high": (port(port=80, endPort=65536), "spec.ingress[0].ports[0].endPort", "65535"),
    "end of a named port": (port(port="web", endPort=90), "spec.ingress[0].ports[0].endPort", "numeric"),
    "not in the CIDR": (block("10.0.0.0/8", "11.0.0.0/16"), "spec.ingress[0].from[0].ipBlock.except[0]", "strict subset"),
    "the CIDR itself": (block("10.0.0.0/8", "10.0.0.0/8"), "spec.ingress[0].from[0].ipBlock.except[0]", "strict subset"),
    "wider than the CIDR": (block("10.0.0.0/16", "10.0.0.0/8"), "spec.ingress[0].from[0].ipBlock.except[0]", "strict subset"),
    "IPv4 out of IPv6": (block("::/0", "10.0.0.0/8"), "spec.ingress[0].from[0].ipBlock.except[0]", "strict subset"),
    "except null": (block("10.0.0.0/8", None), "spec.ingress[0].from[0].ipBlock.except[0]", "invalid CIDR"),
    "CIDR null": (block(None), "spec.ingress[0].from[0].ipBlock.cidr", "required"),
    "CIDR of 33": (block("10.0.0.0/33"), "spec.ingress[0].from[0].ipBlock.cidr", "invalid CIDR"),
    "CIDR with a zone": (block("fe80::1%eth0/64"), "spec.ingress[0].from[0].ipBlock.cidr", "invalid CIDR"),
    "NotIn without values": (
        peer(podSelector={"matchExpressions": [{"key": "a", "operator": "NotIn"}]}),
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].values", "is required"),
    "Exists with values": (
        peer(namespaceSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
        "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].values", "must be empty"),
    "operator in small letters": (
        peer(podSelector={"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}),
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator", "use one of"),
    "no key": (
        peer(podSelector={"matchExpressions": [{"operator": "Exists"}]}),
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].key", "letters"),
    "key of two slashes": (
        network_policy(podSelector={"matchLabels": {"a/b/c": "d"}}),
        "spec.podSelector.matchLabels['a/b/c']", "letters"),
    "name with capitals": (with_metadata(network_policy(), name="P"), "metadata.name", "a-z"),
    "no name": (with_metadata(network_policy(), name=None), "metadata.name", "required"),
    "namespace with a dot": (with_metadata(network_policy(), namespace="a.b"), "metadata.namespace", "a-z"),
    "label": (with_metadata(network_policy(), labels={"a": "b c"}), "metadata.labels.a", "letters"),
    "annotation": (with_metadata(network_policy(), annotations={"a b": ""}), "metadata.annotations['a b']", "letters"),
    "older version": ({**network_policy(), "apiVersion": "extensions/v1beta1"}, "apiVersion", "networking.k8s.io/v1"),
    "core version": ({**network_policy(), "apiVersion": "v1"}, "apiVersion", "networking.k8s.io/v1"),
    "kind with a slip": ({**network_policy(), "kind": "NetworkPolcy"}, "kind", "NetworkPolicy"),
    "admin, no priority": (admin_policy(priority=None), "spec.priority", "required"),
    "admin, priority negative": (admin_policy(priority=-1), "spec.priority", "between"),
    "admin, no spec": ({**admin_policy(), "spec": None}, "spec", "required"),
    "admin, no subject": (admin_policy(subject=None), "spec.subject", "required"),
    "admin, two subjects": (
        admin_policy(subject={**NAMESPACES, "pods": {"namespaceSelector": {}, "podSelector": {}}}),
        "spec.subject", "exactly one"),
    "admin, pods without namespaces": (
        admin_policy(subject={"pods": {"podSelector": {}}}), "spec.subject.pods.namespaceSelector", "required"),
    "admin, no action": (admin_policy({"action": None}), "spec.egress[0].action", "required"),
    "admin, nobody": (admin_policy({"to": []}), "spec.egress[0].to", "1 to 100"),
    "admin, to missing": (admin_policy({"to": None}), "spec.egress[0].to", "required"),
    "admin, no ports": (admin_policy({"ports": []}), "spec.egress[0].ports", "1 to 100"),
    "admin, peer null": (admin_policy({"to": [None]}), "spec.egress[0].to[0]", "an object"),
    "admin, port 0": (admin_policy({"ports": [{"portNumber": {"port": 0}}]}), "spec.egress[0].ports[0].portNumber.port", "between"),
    "admin, port missing": (admin_policy({"ports": [{"portNumber": {}}]}), "spec.egress[0].ports[0].portNumber.port", "required"),
    "admin, networks empty": (admin_policy({"to": [{"networks": []}]}), "spec.egress[0].to[0].networks", "1 to 25"),
    "admin, networks twice": (
        admin_policy({"to": [{"networks": ["10.0.0.0/8"] * 2}]}), "spec.egress[0].to[0].networks", "duplicates"),
    "admin, an address": (
        admin_policy({"to": [{"networks": ["10.0.0.1"]}]}), "spec.egress[0].to[0].networks[0]", "invalid CIDR"),
    "admin, IPv4 in IPv6": (
        admin_policy({"to": [{"networks": ["::ffff:10.0.0.0/104"]}]}), "spec.egress[0].to[0].networks[0]", "invalid CIDR"),
    "admin, domain of one part": (
        admin_policy({"to": [{"domainNames": ["com"]}]}), "spec.egress[0].to[0].domainNames[0]", "invalid domain name"),
    "admin, star within": (
        admin_policy({"to": [{"domainNames": ["a.*.com"]}]}), "spec.egress[0].to[0].domainNames[0]", "invalid domain name"),
    "admin, named port to nodes": (
        admin_policy({"to": [{"nodes": {}}], "ports": [{"namedPort": "web"}]}), "spec.egress[0]", "no named ports"),
    "admin, long name": (admin_policy({"name": "n" * 101}), "spec.egress[0].name", "100"),
    "admin, networks on the way in": (
        admin_policy(ingress=[{"action": "Deny", "from": [{"networks": ["10.0.0.0/8"]}]}]),
        "spec.ingress[0].from[0].networks", "unknown field"),
    "baseline, priority": (baseline_policy(priority=1), "spec.priority", "unknown field"),
    "baseline, domains": (
        baseline_policy({"to": [{"domainNames": ["a.com"]}]}), "spec.egress[0].to[0].domainNames", "unknown field"),
    "cluster, tier": (cluster_policy(tier="admin"), "spec.tier", "use one of"),
    "cluster, no tier": (cluster_policy(tier=None), "spec.tier", "required"),
    "cluster, Allow": (cluster_policy({"action": "Allow"}), "spec.egress[0].action", "use one of"),
    "cluster, 26 peers": (cluster_policy({"to": [NAMESPACES] * 26}), "spec.egress[0].to", "1 to 25"),
    "cluster, ports": (cluster_policy({"ports": [{"namedPort": "a"}]}), "spec.egress[0].ports", "unknown field"),
    "cluster, number and range": (
        cluster_policy({"protocols": [{"udp": {"destinationPort": {"number": 1, "range": {"start": 1, "end": 2}}}}]}),
        "spec.egress[0].protocols[0].udp.destinationPort", "exactly one"),
    "cluster, destination null": (
        cluster_policy({"protocols": [{"sctp": {"destinationPort": None}}]}),
        "spec.egress[0].protocols[0].sctp", "destinationPort"),
    "cluster, named port to nodes": (
        cluster_policy({"to": [{"nodes": {}}], "protocols": [{"destinationNamedPort": "w"}]}),
        "spec.egress[0]", "no named ports"),
    "cluster, v1alpha1": (
        {**cluster_policy(), "apiVersion": "policy.networking.k8s.io/v1alpha1"}, "apiVersion", "v1alpha2"),
    "ingress, nothing": (ingress(rules=[]), "spec", "rules or a defaultBackend"),
    "ingress, an address": (ingress(rules=[{"host": "10.0.0.1"}]), "spec.rules[0].host", "not an address"),
    "ingress, star within": (ingress(rules=[{"host": "a.*.com"}]), "spec.rules[0].host", "wildcard"),
    "ingress, no paths": (ingress(rules=[{"http": {"paths": []}}]), "spec.rules[0].http.paths", "at least one path"),
    "ingress, no type": (ingress({"pathType": None}), "spec.rules[0].http.paths[0].pathType", "required"),
    "ingress, relative": (ingress({"path": "a"}), "spec.rules[0].http.paths[0].path", "begin"),
    "ingress, dots": (ingress({"path": "/a/../b"}), "spec.rules[0].http.paths[0].path", "contain"),
    "ingress, dots at the end": (ingress({"path": "/a/.."}), "spec.rules[0].http.paths[0].path", "end with"),
    "ingress, no backend": (ingress({"backend": {}}), "spec.rules[0].http.paths[0].backend", "a service"),
    "ingress, no port": (
        ingress({"backend": {"service": {"name": "a"}}}), "spec.rules[0].http.paths[0].backend.service.port", "number"),
    "ingress, two ports": (
        ingress({"backend": {"service": {"name": "a", "port": {"name": "b", "number": 1}}}}),
        "spec.rules[0].http.paths[0].backend.service.port", "both"),
    "ingress, two classes": (
        with_metadata(ingress(ingressClassName="a"), annotations={"kubernetes.io/ingress.class": "b"}),
        "metadata.annotations['kubernetes.io/ingress.class']", "ingressClassName"),
    "host policy for nobody": (host_policy(ingress=[]), "spec", "selects no endpoints"),
    "host policy, empty peer": (host_policy(host=True, ingress=[{"from": [{}]}]), "spec.ingress[0].from[0]", "is empty"),
    "host policy, mixed peer": (
        host_policy(host=True, egress=[{"to": [{"host": True, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]),
        "spec.egress[0].to[0]", "two peers"),
    "host policy, named port": (
        host_policy(host=True, ingress=[{"ports": [{"port": "ssh"}]}]), "spec.ingress[0].ports[0].port", "number"),
    "host policy, pods": (host_policy(podSelector={}), "spec.podSelector", "unknown field"),
}  # fmt: skip


@pytest.mark.parametrize(("policy", "field", "words"), REJECTED.values(), ids=REJECTED)
def test_rejected_with_the_field(policy: dict[str, Any], field: str, words: str) -> None:
    assert not accepts(policy)
    found = [(p.field, p.message) for p in problems(policy) if p.severity == ERROR]
    assert any(at == field and words in message for at, message in found), found
