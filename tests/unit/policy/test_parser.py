# SPDX-License-Identifier: Apache-2.0
"""The meaning of objects: defaults, missing and empty fields, unreadable ones; and files."""

import json
import time
from typing import Any

import pytest

from podtally.errors import PodtallyError
from podtally.policy.ingress import DeclaredIngress, IngressRoute, IngressServicePort
from podtally.policy.load.parser import merged, read_object, read_text
from podtally.policy.model import (
    ADMIN_TIER,
    ALLOW,
    ANY_PROTOCOL,
    BASELINE_TIER,
    DENY,
    EVERYTHING,
    LAST_PORT,
    LAST_PRIORITY,
    NETWORK_TIER,
    PASS,
    SCTP,
    TCP,
    UDP,
    Block,
    DomainPeer,
    HostSubject,
    Network,
    NodePeer,
    PodPeer,
    PodSubject,
    Policy,
    PolicyPort,
    Requirement,
    Rule,
    Selector,
)
from tests.unit.policy.policy_parser_support import HEAD

MAPPED = 0xFFFF << 32
WEB = Selector((Requirement("app", "In", frozenset({"web"})),))


def policy(text: str) -> Policy:
    (found,) = read_text(text, "t.yaml").policies
    return found


def network(spec: str) -> Policy:
    found = policy(f"{HEAD}spec: {spec}\n")
    assert not found.unreadable
    return found


def rule(ingress: str) -> Rule:
    found = network(f"{{ingress: [{ingress}]}}").ingress
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ("{}", (), None),
        ("", (), None),
        ("{podSelector: null, ingress: null, policyTypes: null}", (), None),
        ("{ingress: []}", (), None),
        ("{ingress: [{}]}", (Rule(0, ALLOW),), None),
        ("{ingress: [null]}", (Rule(0, ALLOW),), None),
        ("{egress: []}", (), None),  # the default needs egress rules
        ("{egress: [{}]}", (), (Rule(0, ALLOW),)),
        ("{policyTypes: [], egress: [{}]}", (), (Rule(0, ALLOW),)),
        ("{policyTypes: [Egress]}", None, ()),
        ("{policyTypes: [Egress], ingress: [{}]}", None, ()),
        ("{policyTypes: [Ingress], egress: [{}]}", (), None),
        ("{policyTypes: [Ingress, Egress], ingress: [{}]}", (Rule(0, ALLOW),), ()),
    ],
)
def test_policy_types_and_rule_lists(spec: str, ingress: Any, egress: Any) -> None:
    found = network(spec)
    assert (found.ingress, found.egress) == (ingress, egress)
    assert found.subject == PodSubject(None, EVERYTHING)
    assert (found.tier, found.namespace, found.name) == (NETWORK_TIER, "shop", "p")


@pytest.mark.parametrize(
    ("written", "peers", "ports"),
    [
        ("{from: [], ports: []}", None, None),
        ("{from: null, ports: null}", None, None),
        ("{from: [{podSelector: {}}]}", (PodPeer(None, EVERYTHING),), None),
        ("{from: [{namespaceSelector: {}}]}", (PodPeer(EVERYTHING, EVERYTHING),), None),
        (
            "{from: [{podSelector: {matchLabels: {app: web}}, namespaceSelector: {}}]}",
            (PodPeer(EVERYTHING, WEB),),
            None,
        ),
        (
            "{from: [{podSelector: {matchLabels: {app: web}}}, {namespaceSelector: null, podSelector: {}}]}",
            (PodPeer(None, WEB), PodPeer(None, EVERYTHING)),
            None,
        ),
        (
            "{from: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.1.0.0/16]}}]}",
            (Block(Network(MAPPED | 10 << 24, 104), (Network(MAPPED | 0xA010000, 112),)),),
            None,
        ),
        ("{from: [{ipBlock: {cidr: '::/0'}}]}", (Block(Network(0, 0)),), None),
        ("{ports: [{}]}", None, (PolicyPort(TCP, 0, LAST_PORT),)),
        ("{ports: [{protocol: SCTP}]}", None, (PolicyPort(SCTP, 0, LAST_PORT),)),
        ("{ports: [{port: 80}]}", None, (PolicyPort(TCP, 80, 80),)),
        ("{ports: [{port: 80, endPort: 90, protocol: UDP}]}", None, (PolicyPort(UDP, 80, 90),)),
        ("{ports: [{port: web}]}", None, (PolicyPort(TCP, name="web"),)),
    ],
)
def test_peers_and_ports(written: str, peers: Any, ports: Any) -> None:
    assert rule(written) == Rule(0, ALLOW, peers, ports)


def test_selectors() -> None:
    found = network(
        "{podSelector: {matchLabels: {b: '', a: x}, matchExpressions: [{key: c, operator: NotIn, "
        "values: [w, z]}, {key: d, operator: DoesNotExist}]}}"
    )
    assert found.subject.pods == Selector(  # type: ignore[union-attr]
        (
            Requirement("a", "In", frozenset({"x"})),
            Requirement("b", "In", frozenset({""})),
            Requirement("c", "NotIn", frozenset({"w", "z"})),
            Requirement("d", "DoesNotExist"),
        )
    )


def test_names_that_are_left_to_the_server() -> None:
    found = policy(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {generateName: p-}\n"
    )
    assert (found.namespace, found.name, found.unreadable) == ("default", "p-", "")


ADMIN = """
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: a}
spec:
  priority: 7
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  egress:
  - name: first
    action: Pass
    to:
    - networks: [10.0.0.0/8, "2001:db8::/32"]
    - nodes: {}
    - domainNames: ["*.example.com"]
  - action: Deny
    to: [{namespaces: {}}, {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}]
    ports:
    - portNumber: {port: 80}
    - portRange: {start: 1, end: 9, protocol: UDP}
    - namedPort: web
"""


def test_admin_network_policy() -> None:
    assert policy(ADMIN) == Policy(
        "AdminNetworkPolicy",
        "",
        "a",
        PodSubject(EVERYTHING, WEB),
        None,
        (
            Rule(
                0,
                PASS,
                (
                    Block(Network(MAPPED | 10 << 24, 104)),
                    Block(Network(0x20010DB8 << 96, 32)),
                    NodePeer(EVERYTHING),
                    DomainPeer(("*.example.com",), is_defined=False),
                ),
                None,
                "first",
            ),
            Rule(
                1,
                DENY,
                (PodPeer(EVERYTHING, EVERYTHING), PodPeer(EVERYTHING, WEB)),
                (
                    PolicyPort(TCP, 80, 80),
                    PolicyPort(UDP, 1, 9),
                    PolicyPort(ANY_PROTOCOL, name="web"),
                ),
            ),
        ),
        ADMIN_TIER,
        7,
    )


def test_baseline_admin_network_policy() -> None:
    found = policy(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\n"
        "metadata: {name: default}\nspec: {subject: {namespaces: {}}, "
        "ingress: [{action: Allow, from: [{namespaces: {}}]}]}\n"
    )
    assert (found.tier, found.priority, found.egress) == (BASELINE_TIER, LAST_PRIORITY, None)
    assert found.ingress == (Rule(0, ALLOW, (PodPeer(EVERYTHING, EVERYTHING),)),)


def test_cluster_network_policy() -> None:
    found = policy(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        "metadata: {name: c}\nspec: {tier: Baseline, priority: 3, subject: {pods: {podSelector: {}}}, "
        "ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: "
        "{number: 80}}}, {sctp: {destinationPort: {range: {start: 1, end: 2}}}}, "
        "{destinationNamedPort: web}]}]}\n"
    )
    assert (found.tier, found.priority) == (BASELINE_TIER, 3)
    assert found.subject == PodSubject(EVERYTHING, EVERYTHING)
    ports = (PolicyPort(TCP, 80, 80), PolicyPort(SCTP, 1, 2), PolicyPort(ANY_PROTOCOL, name="web"))
    assert found.ingress == (Rule(0, ALLOW, (PodPeer(EVERYTHING, EVERYTHING),), ports),)


def test_host_policy() -> None:
    found = policy(
        "apiVersion: podtally.io/v1alpha1\nkind: HostPolicy\nmetadata: {name: h}\nspec:\n"
        "  host: true\n  units: [ssh.service]\n  ingress:\n"
        "  - from: [{ipBlock: {cidr: 203.0.113.0/24}}, {containers: ['web-*'], endpointSelector: {}}]\n"
        "    ports: [{port: 22}]\n  egress:\n  - ports: [{protocol: UDP}]\n"
    )
    assert found.subject == HostSubject(None, ("ssh.service",), (), True)
    office = Block(Network(MAPPED | 0xCB007100, 120))
    web = HostSubject(EVERYTHING, (), ("web-*",), False)
    assert found.ingress == (Rule(0, ALLOW, (office, web), (PolicyPort(TCP, 22, 22),)),)
    assert found.egress == (Rule(0, ALLOW, None, (PolicyPort(UDP, 0, LAST_PORT),)),)


def test_ingress() -> None:
    text = (
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i, annotations: "
        "{kubernetes.io/ingress.class: nginx}}\nspec:\n"
        "  defaultBackend: {resource: {kind: Bucket, name: b}}\n  rules:\n"
        "  - host: a.example.com\n    http: {paths: [{path: /x, pathType: Exact, backend: "
        "{service: {name: web, port: {name: http}}}}]}\n  - {}\n"
    )
    routes = (
        IngressRoute("a.example.com", "/x", "Exact", IngressServicePort("web", 0, "http")),
        IngressRoute("", "", "", None),
    )
    reading = read_text(text, "t")
    assert reading.ingresses == (DeclaredIngress("default", "i", "nginx", routes),)
    assert reading.problems == ()


def test_kinds_that_are_not_read_are_passed_on() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n" + HEAD
    reading = read_text(text, "t")
    assert [other.kind for other in reading.others] == ["Pod"]
    assert read_object({"apiVersion": "v1", "kind": "Pod"}) is None


@pytest.mark.parametrize(
    ("text", "subject", "namespace", "tier"),
    [
        (HEAD + "spec: {podSelector: {matchLabels: {app: web}}, ingress: 5}", PodSubject(None, WEB), "shop", 1),
        (HEAD + "spec: {podSelector: {matchLabels: {app: -}}}", PodSubject(None, EVERYTHING), "shop", 1),
        (HEAD + "spec: 5", PodSubject(None, EVERYTHING), "shop", 1),
        (HEAD.replace("shop", "5"), PodSubject(None, EVERYTHING), "5", 1),
        (HEAD.replace("shop", "[a]"), PodSubject(EVERYTHING, EVERYTHING), "", 0),
        (HEAD.replace("{name: p, namespace: shop}", "5"), PodSubject(EVERYTHING, EVERYTHING), "", 0),
        (
            HEAD.replace("NetworkPolicy", "NetworkPolice") + "spec: {podSelector: {matchLabels: {app: web}}}",
            PodSubject(None, WEB), "shop", 1,
        ),
        (HEAD.replace("kind: NetworkPolicy\n", ""), PodSubject(None, EVERYTHING), "shop", 1),
        (HEAD.replace("apiVersion: networking.k8s.io/v1\n", ""), PodSubject(None, EVERYTHING), "shop", 1),
        (
            "apiVersion: podtally.io/v1alpha1\nkind: HostPolicy\nmetadata: {name: h}\n"
            "spec: {units: [ssh.service], ingres: []}",
            HostSubject(None, ("ssh.service",), (), False), "", 1,
        ),
        (ADMIN.replace("Deny", "Drop"), PodSubject(EVERYTHING, WEB), "", 0),
        (ADMIN.replace("portRange", "portsRange"), PodSubject(EVERYTHING, WEB), "", 0),
        (ADMIN.replace("app: web", "-: web"), PodSubject(EVERYTHING, EVERYTHING), "", 0),
        (ADMIN.replace("protocol: UDP", "protocol: udp"), PodSubject(EVERYTHING, WEB), "", 0),
        (
            "apiVersion: podtally.io/v1alpha1\nkind: HostPolicy\nmetadata: {name: h}\nspec: {units: 5}",
            HostSubject(EVERYTHING, (), (), True), "", 1,
        ),
    ],
    ids=range(15),
)  # fmt: skip
def test_what_cannot_be_read_stands_for_all_it_may_select(
    text: str, subject: Any, namespace: str, tier: int
) -> None:
    found = policy(text)
    if "-: web" in text:  # the API server takes the key, which no pod can have
        assert not found.unreadable
        return
    assert found.unreadable.startswith("t.yaml:")
    assert (found.subject, found.namespace, found.tier) == (subject, namespace, tier)
    assert (found.ingress, found.egress) == (None, None)


def test_what_the_server_refuses_but_is_clear_is_judged_and_reported() -> None:
    reading = read_text(
        ADMIN.replace(
            "namespaceSelector: {}, podSelector: {matchLabels", "podSelector: {matchLabels"
        ),
        "t",
    )
    assert [problem.severity for problem in reading.problems] == ["error", "error"]
    assert not reading.policies[0].unreadable


def test_one_object() -> None:
    found = read_object(
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}}
    )
    assert isinstance(found, Policy)
    with pytest.raises(PodtallyError, match=r"here: NetworkPolicy: metadata.name: is required"):
        read_object({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}, "here")
    with pytest.raises(PodtallyError, match="not a Kubernetes object"):
        read_object({})


def test_of_two_of_one_name_the_later_counts() -> None:
    one = read_text(HEAD + "spec: {ingress: [{}]}", "a.yaml")
    two = read_text(HEAD, "b.yaml")
    both = merged([one, two])
    assert both.policies == two.policies
    assert "declared twice" in both.problems[0].message
    candidate = read_text(HEAD, "c.yaml", candidate=True)
    assert len(merged([one, candidate]).policies) == 2


def test_reading_takes_time_in_proportion_to_the_policies() -> None:
    item = json.loads(json.dumps({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
            {"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]}
        ] * 5},
    }))  # fmt: skip

    def took(count: int) -> float:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [item] * count})
        before = time.process_time()
        assert len(read_text(text, "t").policies) == count
        return time.process_time() - before

    # 8 times as many; were it quadratic, 64 times the time
    assert min(took(1600) for _ in range(2)) < 25 * max(took(200) for _ in range(3))
