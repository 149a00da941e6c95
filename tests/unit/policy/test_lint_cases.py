# SPDX-License-Identifier: Apache-2.0
"""Policies with one oddity each, and what `podtally check` reports of them.

What kubectl and the API server refuse is an error; what they take, and is probably not meant, is
a warning.
"""

from pathlib import Path

import pytest

from podtally import cli
from podtally.policy.cluster.manifests import from_documents
from podtally.policy.lint.checks import lint
from podtally.policy.load.documents import read_text
from podtally.policy.load.parser import read_documents
from tests.unit.policy.policy_text import declared

HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: t, namespace: a}\n"
POD = HEAD + "spec:\n  podSelector: {}\n"
JSON = '"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"t"}'
JSON_U = JSON.replace('"t"', '"u"')
SELECTOR = HEAD + "spec: {podSelector: %s}\n"
PEER = POD + "  ingress: [{from: [%s]}]\n"
PORT = POD + "  ingress: [{ports: [%s]}]\n"

FINE = {
    "default deny": POD + "  ingress: []\n",
    "no rules": POD,
    "null rules": POD + "  ingress:\n",
    "list": "apiVersion: v1\nkind: List\nitems:\n- " + POD.replace("\n", "\n  "),
    "list of a kind": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\n"
    "items: [{metadata: {name: t}, spec: {podSelector: {}}}]\n",
    "another kind": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n",
    "CRLF": POD.replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + POD,
    "anchors": HEAD + "spec:\n  podSelector: &s {matchLabels: {a: b}}\n  ingress: [{from: [{podSelector: *s}]}]\n",
    "merge": HEAD + "spec:\n  podSelector: {matchLabels: &l {a: b}}\n"
    "  ingress: [{from: [{podSelector: {matchLabels: {<<: *l, c: d}}}]}]\n",
    "a whole float": PORT % "{port: 80.0}",
    "octal": PORT % "{port: 0o120}",
    "octal of YAML 1.1": PORT % "{port: 0120}",
    "generateName": POD.replace("name: t", "generateName: t-"),
    "types twice": POD + "  policyTypes: [Ingress, Ingress]\n",
    "empty documents": f"---\n---\n{POD}---\n",
    "excepts that overlap": PEER % "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.1.0.0/16]}}",
    "null port": PORT % "null",
    "null time": POD.replace("name: t", "name: t, creationTimestamp: null"),
    "quoted": SELECTOR % '{matchLabels: {a: "true"}}',
    "two JSON values": f'{{{JSON},"spec":{{"podSelector":{{}}}}}}\n{{{JSON_U},"spec":{{"podSelector":{{}}}}}}',
    "both in one peer": PEER % "{namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchLabels: {c: d}}}",
    "all pods, or a namespace": PEER % "{podSelector: {}}, {namespaceSelector: {matchLabels: {a: b}}}",
    "egress to addresses": POD + "  policyTypes: [Egress]\n  egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]\n",
    "DNS by name": POD + "  policyTypes: [Egress]\n  egress: [{to: [{podSelector: {}}]}, {ports: [{port: dns, protocol: UDP}]}]\n",
    "nothing goes out": POD + "  policyTypes: [Egress]\n",
}  # fmt: skip
ODD = {
    "allows all": (POD + "  ingress: [{}]\n", ["warning allow-all spec.ingress[0]"]),
    "null rule": (POD + "  ingress: [null]\n", ["warning allow-all spec.ingress[0]"]),
    "no selector": (HEAD + "spec: {ingress: []}\n", ["warning no-selector spec"]),
    "empty peer": (PEER % "{}", ["error schema spec.ingress[0].from[0]"]),
    "null peer": (PEER % "null", ["error schema spec.ingress[0].from[0]"]),
    "egress without types": (
        POD + "  egress: [{ports: [{port: 53, protocol: UDP}]}]\n", ["warning policy-types spec.egress"]),
    "egress with empty types": (
        POD + "  policyTypes: []\n  egress: [{ports: [{port: 53, protocol: UDP}]}]\n",
        ["warning policy-types spec.egress"]),
    "empty egress without types": (POD + "  egress: []\n", ["warning policy-types spec.egress"]),
    "egress that is ignored": (
        POD + "  policyTypes: [Ingress]\n  egress: [{ports: [{port: 1}]}]\n", ["warning ignored-rules spec.egress"]),
    "no DNS": (
        POD + "  policyTypes: [Egress]\n  egress: [{to: [{podSelector: {}}], ports: [{port: 53}]}]\n",
        ["warning no-dns spec.egress"]),
    "no DNS for the world": (
        POD + "  policyTypes: [Egress]\n  egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 443}]}]\n",
        ["warning no-dns spec.egress"]),
    "alternatives": (
        PEER % "{namespaceSelector: {}}, {podSelector: {matchLabels: {a: b}}}",
        ["warning or-selectors spec.ingress[0].from[1]", ]),
    "except outside": (
        PEER % "{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}",
        ["error schema spec.ingress[0].from[0].ipBlock.except[0]"]),
    "except of all": (
        PEER % "{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}",
        ["error schema spec.ingress[0].from[0].ipBlock.except[0]"]),
    "except of another family": (
        PEER % '{ipBlock: {cidr: "::/0", except: [10.0.0.0/8]}}',
        ["error schema spec.ingress[0].from[0].ipBlock.except[0]"]),
    "IPv4 in IPv6": (
        PEER % '{ipBlock: {cidr: "::ffff:10.0.0.0/104"}}', ["warning schema spec.ingress[0].from[0].ipBlock.cidr"]),
    "host bits": (PEER % "{ipBlock: {cidr: 10.1.2.3/8}}", ["warning schema spec.ingress[0].from[0].ipBlock.cidr"]),
    "leading zero": (PEER % "{ipBlock: {cidr: 010.0.0.0/8}}", ["warning schema spec.ingress[0].from[0].ipBlock.cidr"]),
    "no length": (PEER % "{ipBlock: {cidr: 10.0.0.1}}", ["error schema spec.ingress[0].from[0].ipBlock.cidr"]),
    "block and selector": (
        PEER % "{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}", ["error schema spec.ingress[0].from[0]"]),
    "number in quotes": (PORT % '{port: "80"}', ["error schema spec.ingress[0].ports[0].port"]),
    "port 0": (PORT % "{port: 0}", ["error schema spec.ingress[0].ports[0].port"]),
    "port -1": (PORT % "{port: -1}", ["error schema spec.ingress[0].ports[0].port"]),
    "protocol in lower case": (
        PORT % "{port: 80, protocol: tcp}", ['error schema spec.ingress[0].ports[0].protocol (did you mean "TCP"?)']),
    "ICMP": (PORT % "{protocol: ICMP}", ["error no-ports spec.ingress[0].ports[0].protocol"]),
    "name in upper case": (PORT % "{port: HTTP}", ["error schema spec.ingress[0].ports[0].port"]),
    "long name": (PORT % "{port: abcdefghijklmnop}", ["error schema spec.ingress[0].ports[0].port"]),
    "endPort and name": (PORT % "{port: a, endPort: 9}", ["error schema spec.ingress[0].ports[0].endPort"]),
    "endPort before": (PORT % "{port: 9, endPort: 8}", ["error schema spec.ingress[0].ports[0].endPort"]),
    "endPort alone": (PORT % "{endPort: 80}", ["error schema spec.ingress[0].ports[0].endPort"]),
    "key twice": (POD + "  ingress: [{}]\n  ingress: []\n", ["error schema  given twice"]),
    "unknown field": (
        HEAD + "spec: {podSelectors: {}}\n", ['error schema spec.podSelectors (did you mean "podSelector"?)']),
    "fields in upper case": (
        HEAD + "spec: {PodSelector: {}, Ingress: []}\n",
        ['error schema spec.PodSelector (did you mean "podSelector"?)',
         'error schema spec.Ingress (did you mean "ingress"?)']),
    "from in egress": (
        POD + "  egress: [{from: [{podSelector: {}}]}]\n", ['error schema spec.egress[0].from (did you mean "to"?)']),
    "type in lower case": (
        POD + "  policyTypes: [ingress]\n", ['error schema spec.policyTypes[0] (did you mean "Ingress"?)']),
    "tab": (POD + "\tingress: [{}]\n", ["error schema  indent with spaces"]),
    "older version": (
        POD.replace("networking.k8s.io/v1", "extensions/v1beta1"), ["error schema apiVersion use networking.k8s.io/v1"]),
    "kind in lower case": (
        POD.replace("NetworkPolicy", "networkpolicy"), ['error schema kind (did you mean "NetworkPolicy"?)']),
    "Items": (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nItems: [{metadata: {name: t}}]\n",
        ['error schema  (did you mean "items"?)']),
    "Helm": (POD.replace("name: t", "name: {{ .Release.Name }}"), ["error schema  a template, not an object"]),
    "Helm block": ("{{- if .Values.np }}\n" + POD + "{{- end }}\n", ["error schema  a template, not an object"]),
    "placeholder": (POD.replace("namespace: a", "namespace: ${NS}"), ["error schema  the placeholder ${NS}"]),
    "truth value": (SELECTOR % "{matchLabels: {a: yes}}", ["error schema spec.podSelector.matchLabels not true or false"]),
    "number as label": (SELECTOR % "{matchLabels: {a: 1}}", ["error schema spec.podSelector.matchLabels not a whole number"]),
    "no label": (SELECTOR % '{matchLabels: {"a b": x}}', ["error schema  matchLabels['a b']"]),
    "In nothing": (
        SELECTOR % "{matchExpressions: [{key: a, operator: In, values: []}]}",
        ["error schema spec.podSelector.matchExpressions[0].values"]),
    "Exists with values": (
        SELECTOR % "{matchExpressions: [{key: a, operator: Exists, values: [x]}]}",
        ["error schema spec.podSelector.matchExpressions[0].values"]),
    "operator in lower case": (
        SELECTOR % "{matchExpressions: [{key: a, operator: in, values: [x]}]}",
        ['error schema spec.podSelector.matchExpressions[0].operator (did you mean "In"?)']),
    "status": (POD + "status: {conditions: []}\n", ["warning schema status"]),
    "no name": (POD.replace("name: t", "name: T_x"), ["error schema metadata.name"]),
    "comments in JSON": (f'{{\n// why\n{JSON}}}', ["error schema  JSON has no comments"]),
    "comma in JSON": (
        f'{{{JSON},"spec":{{"podSelector":{{}},}}}}', ["warning schema  trailing comma is not valid JSON"]),
    "key twice in JSON": (f'{{{JSON},"kind":"x"}}', ["error schema  given twice"]),
    "values of a chart": ("replicaCount: 1\n", ["warning schema  skipped"]),
    "a namespace of no pods": (
        POD.replace("namespace: a", "namespace: netns"), ["warning selects-nothing metadata.namespace HostPolicy"]),
    "overlap": (
        PEER % "{ipBlock: {cidr: 10.0.0.0/8}}]}, {from: [{ipBlock: {cidr: 10.1.0.0/16}}",
        ["warning shadowed spec.ingress[1]"]),
}  # fmt: skip


def found(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    path = folder / "p.yaml"
    path.write_text(text)
    status = cli.main(["check", str(path)])
    return status, capsys.readouterr().out.replace(str(path), "p.yaml").splitlines()[:-1]


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
def test_what_is_fine_has_no_findings(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found(text, tmp_path, capsys) == (0, [])


@pytest.mark.parametrize(("text", "findings"), ODD.values(), ids=ODD)
def test_what_is_odd_is_reported(
    text: str, findings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = found(text, tmp_path, capsys)
    assert status > 0
    assert len(lines) == len(findings), lines
    for line, wanted in zip(lines, findings, strict=True):
        severity, check, field, *words = wanted.split(" ", 3)
        assert line.startswith(f"{severity}: p.yaml:"), line
        assert line.endswith(f" [{check}]"), line
        assert not field or f": {field}: " in line, line
        assert all(word in line for word in words), line


SERVICES = """\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: a}}
- {apiVersion: v1, kind: Namespace, metadata: {name: host}}
- {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}, status: {podIP: 10.244.0.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: q, namespace: host}, status: {podIP: 10.244.0.2}}
- {apiVersion: v1, kind: Service, metadata: {name: dns, namespace: a}, spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10]}}
- {apiVersion: v1, kind: Service, metadata: {name: none, namespace: a}, spec: {clusterIP: None}}
"""


def test_a_block_of_services_addresses_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = ("10.96.0.10/32", "10.96.0.0/12", "10.0.0.0/8", "0.0.0.0/0", "192.0.2.0/24")
    peers = ", ".join(f"{{ipBlock: {{cidr: {block}}}}}" for block in blocks)
    rule = f"{{to: [{peers}], ports: [{{port: 53, protocol: UDP}}]}}"
    (tmp_path / "p.yaml").write_text(POD + f"  policyTypes: [Egress]\n  egress: [{rule}]\n")
    (tmp_path / "cluster.yaml").write_text(SERVICES)
    arguments = ["check", str(tmp_path / "p.yaml"), "--cluster", str(tmp_path / "cluster.yaml")]
    assert cli.main([*arguments, "--ignore", "unisolated"]) == 1
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert [line.partition("spec.")[2].partition(":")[0] for line in lines] == [
        "egress[0].to[0].ipBlock",
        "egress[0].to[1].ipBlock",
    ]
    assert all("contains Service addresses (a/dns), which never match" in li for li in lines)


def test_a_namespace_of_that_name_may_have_pods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text(POD.replace("namespace: a", "namespace: host"))
    (tmp_path / "cluster.yaml").write_text(SERVICES)
    arguments = ["check", str(tmp_path / "p.yaml")]
    assert cli.main(arguments) == 1
    assert "selects nothing: podtally uses namespace host" in capsys.readouterr().out
    assert (
        cli.main(
            [*arguments, "--cluster", str(tmp_path / "cluster.yaml"), "--ignore", "unisolated"]
        )
        == 0
    )


def test_a_policy_of_another_namespace_allows_no_dns_and_one_for_the_same_pods_does() -> None:
    web = (
        POD.replace("{}", "{matchLabels: {app: web}}")
        + "  policyTypes: [Egress]\n  egress: [{to: [{podSelector: {}}]}]\n"
    )
    dns = (
        POD.replace("name: t", "name: dns")
        + "  policyTypes: [Egress]\n  egress: [{ports: [{port: 53, protocol: UDP}]}]\n"
    )
    web = web.replace("[{podSelector: {}}]", "[{podSelector: {}}], ports: [{port: 80}]")
    for other, checks in (
        (dns, []),
        (dns.replace("namespace: a", "namespace: b"), ["no-dns"]),
        (dns.replace("podSelector: {}", "podSelector: {matchLabels: {app: db}}"), ["no-dns"]),
    ):
        assert [each.check for each in lint(declared(f"{web}---\n{other}"), None)] == checks


def test_a_named_port_of_another_protocol_is_a_finding() -> None:
    cluster = SERVICES.replace(
        "metadata: {name: p, namespace: a}",
        "metadata: {name: p, namespace: a}, spec: {containers: [{ports: [{name: dns, containerPort: 53, protocol: UDP}]}]}",
    )
    world = from_documents(read_text(cluster, "c").documents).model
    for port, words in (
        ("{port: dns}", ["port dns is UDP, but this rule is for TCP"]),
        ("{port: dns, protocol: UDP}", []),
        ("{port: web}", ["no pod that the policy selects has a port named web"]),
    ):
        given = [
            each for each in lint(declared(PORT % port), world) if each.check == "selects-nothing"
        ]
        assert [each.problem.message for each in given] == words
    assert read_documents(read_text(PORT % "{port: dns}", "p").documents).problems == ()
