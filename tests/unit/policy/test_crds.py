# SPDX-License-Identifier: Apache-2.0
"""Everything that a CRD of network-policy-api accepts, in either channel, is read and judged.

The table has what the CRDs say, as kubebuilder's markers on the API's types have it: v1alpha1
(AdminNetworkPolicy, BaselineAdminNetworkPolicy) since v0.1.7, v1alpha2 (ClusterNetworkPolicy)
since v0.2.0, v1beta1 as it is at the head of the repository. A field that a channel lacks is
pruned before anything else is checked, so it is not written here.
"""

import string
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podtally.policy.load.documents import Document, LineMap
from podtally.policy.load.parser import read_documents
from podtally.policy.model import DENIED
from podtally.policy.problems import ERROR
from podtally.policy.reference.engine import Engine
from tests.unit.policy.policy_support import ask, outside, pod


class Crd(NamedTuple):
    kind: str
    version: str
    experimental: bool
    actions: tuple[str, ...]
    most: int  # of rules, peers, ports
    networks: bool = True
    strict: bool = False  # networks without host bits, labels of domains without a sign before
    named: bool = True  # ports by name


ALL = ("Allow", "Deny", "Pass")
NEWER = ("Accept", "Deny", "Pass")
CRDS = [
    Crd("AdminNetworkPolicy", "v1alpha1", False, ALL, 100),
    Crd("AdminNetworkPolicy", "v1alpha1", True, ALL, 100),
    Crd("BaselineAdminNetworkPolicy", "v1alpha1", False, ALL[:2], 100),
    Crd("BaselineAdminNetworkPolicy", "v1alpha1", True, ALL[:2], 100),
    Crd("ClusterNetworkPolicy", "v1alpha2", False, NEWER, 25),
    Crd("ClusterNetworkPolicy", "v1alpha2", True, NEWER, 25),
    Crd("ClusterNetworkPolicy", "v1beta1", False, NEWER, 25, strict=True, named=False),
    Crd("ClusterNetworkPolicy", "v1beta1", True, NEWER, 25, strict=True),
]
WORDS = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
LABELS = st.dictionaries(st.builds("x{}".format, WORDS), WORDS, max_size=2)
PORTS = st.integers(1, 65535)


def as_document(content: dict[str, Any]) -> Document:
    return Document("t", content["apiVersion"], content["kind"], content, LineMap(None))


@st.composite
def selectors(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        found["matchLabels"] = draw(LABELS)
    if draw(st.booleans()):
        operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
        expression: dict[str, Any] = {"key": "x" + draw(WORDS), "operator": operator}
        if operator in ("In", "NotIn"):
            expression["values"] = draw(st.lists(WORDS, min_size=1, max_size=3))
        found["matchExpressions"] = [expression]
    return found


@st.composite
def networks(draw: st.DrawFn, crd: Crd) -> str:
    if draw(st.booleans()):
        bits, address = draw(st.integers(0, 32)), draw(st.integers(0, 2**32 - 1))
        if crd.strict:
            address = address >> (32 - bits) << (32 - bits)
        return ".".join(map(str, address.to_bytes(4, "big"))) + f"/{bits}"
    bits, address = draw(st.integers(0, 128)), draw(st.integers(2**125, 2**126 - 1))
    if crd.strict:
        address = address >> (128 - bits) << (128 - bits)
    groups = [f"{address >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)]
    return ":".join(groups) + f"/{bits}"


def domains(crd: Crd) -> st.SearchStrategy[str]:
    first = string.ascii_letters + string.digits + ("" if crd.strict else "_[]^`\\")
    label = st.builds(
        "{}{}".format,
        st.sampled_from(first),
        st.text(string.ascii_letters + string.digits + "-_", max_size=6).map(
            lambda t: t + "a" if t else t
        ),
    )
    name = st.lists(label, min_size=2, max_size=4).map(".".join)
    return st.builds("{}{}{}".format, st.sampled_from(["", "*."]), name, st.sampled_from(["", "."]))


@st.composite
def peers(draw: st.DrawFn, crd: Crd, egress: bool) -> dict[str, Any]:
    kinds = ["namespaces", "pods"]
    if egress:
        kinds += ["networks"]
        if crd.experimental:
            kinds += ["nodes"]
            if not crd.kind.startswith("Baseline"):
                kinds += ["domainNames"]
    kind = draw(st.sampled_from(kinds))
    if kind == "networks":
        return {kind: draw(st.lists(networks(crd), min_size=1, max_size=3, unique=True))}
    if kind == "domainNames":
        return {kind: draw(st.lists(domains(crd), min_size=1, max_size=3, unique=True))}
    if kind != "pods":
        return {kind: draw(selectors())}
    pods = {"podSelector": draw(selectors())}
    if crd.version == "v1alpha1" or draw(st.booleans()):
        pods["namespaceSelector"] = draw(selectors())
    return {kind: pods}


@st.composite
def ports(draw: st.DrawFn, crd: Crd, named: bool) -> dict[str, Any]:
    protocol = draw(st.sampled_from(["TCP", "UDP", "SCTP"]))
    kind = draw(st.sampled_from(["number", "range", "name"] if named else ["number", "range"]))
    start = draw(st.integers(1, 65534))
    span = {"start": start, "end": draw(st.integers(start + 1, 65535))}
    if crd.kind == "ClusterNetworkPolicy":
        if kind == "name":
            return {"destinationNamedPort": draw(WORDS)}
        port = {"number": draw(PORTS)} if kind == "number" else {"range": span}
        return {protocol.lower(): {"destinationPort": port}}
    if kind == "name":
        return {"namedPort": draw(WORDS)}
    given = {"protocol": protocol} if draw(st.booleans()) else {}
    return (
        {"portNumber": given | {"port": start}} if kind == "number" else {"portRange": given | span}
    )


@st.composite
def rule(draw: st.DrawFn, crd: Crd, egress: bool) -> dict[str, Any]:
    to = draw(st.lists(peers(crd, egress), min_size=1, max_size=3))
    found: dict[str, Any] = {"action": draw(st.sampled_from(crd.actions))}
    found["to" if egress else "from"] = to
    if draw(st.booleans()):
        found["name"] = draw(st.text(max_size=100).filter(lambda text: text.isprintable()))
    if draw(st.booleans()):
        without = any(set(peer) & {"networks", "nodes", "domainNames"} for peer in to)
        cluster = crd.kind == "ClusterNetworkPolicy"  # see _without_port_names of the older kinds
        named = crd.named and not (without and (crd.experimental or not cluster))
        field = "protocols" if cluster else "ports"
        found[field] = draw(st.lists(ports(crd, named), min_size=1, max_size=3))
    return found


@st.composite
def objects(draw: st.DrawFn, crd: Crd) -> dict[str, Any]:
    spec: dict[str, Any] = {"subject": draw(peers(crd, False))}
    if not crd.kind.startswith("Baseline"):
        spec["priority"] = draw(st.integers(0, 1000))
    if crd.kind == "ClusterNetworkPolicy":
        spec["tier"] = draw(st.sampled_from(["Admin", "Baseline"]))
    for name, egress in (("ingress", False), ("egress", True)):
        if draw(st.booleans()):
            spec[name] = draw(st.lists(rule(crd, egress), max_size=3))
    name = "default" if crd.kind.startswith("Baseline") else "p"
    api_version = f"policy.networking.k8s.io/{crd.version}"
    metadata = {"name": name}
    return {"apiVersion": api_version, "kind": crd.kind, "metadata": metadata, "spec": spec}


@pytest.mark.slow  # Hypothesis over whole CRDs: 10 s of CPU
@pytest.mark.parametrize(
    "crd", CRDS, ids=lambda crd: f"{crd.kind}-{crd.version}-{crd.experimental}"
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_a_crd_takes_is_read(crd: Crd, data: st.DataObject) -> None:
    content = data.draw(objects(crd))
    document = as_document(content)
    reading = read_documents([document])
    assert [problem for problem in reading.problems if problem.severity == ERROR] == []
    (policy,) = reading.policies
    assert policy.unreadable == ""


@pytest.mark.parametrize("most", [25, 26, 100, 101])
@pytest.mark.parametrize(
    "crd", CRDS, ids=lambda crd: f"{crd.kind}-{crd.version}-{crd.experimental}"
)
def test_lists_may_be_as_long_as_the_crd_says(crd: Crd, most: int) -> None:
    peer: dict[str, Any] = {"namespaces": {}}
    spec: dict[str, Any] = {"subject": peer, "ingress": [{"action": "Deny", "from": [peer] * most}]}
    spec |= {"priority": 1} if not crd.kind.startswith("Baseline") else {}
    spec |= {"tier": "Admin"} if crd.kind == "ClusterNetworkPolicy" else {}
    content = {
        "apiVersion": f"policy.networking.k8s.io/{crd.version}",
        "kind": crd.kind,
        "metadata": {"name": "default"},
        "spec": spec,
    }
    document = as_document(content)
    taken = not any(p.severity == ERROR for p in read_documents([document]).problems)
    assert taken is (most <= crd.most)


def test_a_named_port_matches_no_network_in_the_older_kinds_too() -> None:
    """Refused by the experimental CRD, taken by the standard one: judged, and reported."""
    spec = {
        "priority": 1,
        "subject": {"namespaces": {}},
        "egress": [
            {
                "action": "Allow",
                "to": [{"networks": ["203.0.113.0/24"]}],
                "ports": [{"namedPort": "w"}],
            },
            {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]},
        ],
    }
    content = {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": spec,
    }
    document = as_document(content)
    reading = read_documents([document])
    assert "never networks" in reading.problems[0].message
    assert Engine(reading.policies).judge(ask(pod("shop/a"), outside())).verdict == DENIED
