# SPDX-License-Identifier: Apache-2.0
"""Texts into documents: lines, lists, YAML as Go reads it, and texts that mean harm."""

import json
import os
import random
import time
import tracemalloc
from typing import Any

import pytest

from podtally.policy.load import documents
from podtally.policy.load.documents import read_text
from podtally.policy.load.parser import read_text as read_policies
from podtally.policy.model import Policy
from podtally.yamltree import tree
from tests.unit.kube_support import BOUND_SECONDS

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: web
"""


def values(text: str) -> list[Any]:
    found = read_text(text, "t.yaml")
    assert found.problems == ()
    return [document.content["x"] for document in found.documents]


def complaint(text: str | bytes) -> tuple[int, str]:
    found = read_text(text, "t.yaml")
    assert found.documents == ()
    (problem,) = found.problems
    assert problem.source == "t.yaml"
    return problem.line, problem.message


def scalar(text: str) -> Any:
    return values(f"apiVersion: v1\nkind: T\nx: {text}\n")[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80", 80),
        ("010", 8),  # strconv.ParseInt with base 0
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("089", 89),
        ("-3", -3),
        ("80.0", 80),
        ("1e3", 1000),
        ("1.5", 1.5),
        ("'80'", "80"),
        ("!!str 80", "80"),
        ("!!int '80'", 80),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("2025-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
        ("1:30", "1:30"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("-web", "-web"),
        ("on-call", "on-call"),
    ],
)
def test_plain_text_is_read_as_go_reads_it(text: str, value: Any) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_a_plain_y_is_text_with_a_warning() -> None:
    found = read_text("apiVersion: v1\nkind: T\nx: [y, 'n', N]\n", "t.yaml")
    assert found.documents[0].content["x"] == ["y", "n", "N"]
    assert [(p.line, p.severity) for p in found.problems] == [(3, "warning")] * 2
    reading = read_policies(POLICY.replace("app: web", "app: y"), "t.yaml")
    assert [policy.unreadable for policy in reading.policies] == [""]


def test_keys_become_strings() -> None:
    assert scalar("{1: a, true: b, 'c': d}") == {"1": "a", "true": "b", "c": "d"}


def test_merge_keys_and_aliases() -> None:
    text = "apiVersion: v1\nkind: T\nbase: &b {k: 1, l: 2}\nx: {<<: *b, l: 3}\n"
    assert values(text) == [{"k": 1, "l": 3}]


def test_lines_are_reported_by_field() -> None:
    (document,) = read_text("# a\n---\n" + POLICY, "t.yaml").documents
    assert document.lines.at(("spec", "ingress", 0, "from", 0, "podSelector")) == 11
    assert document.lines.at(("spec", "ingress", 0, "from", 0, "podSelector", "matchLabels")) == 12
    assert document.lines.at(("spec", "nothing")) == 7
    assert document.subject() == "NetworkPolicy shop/a"


def test_a_broken_document_hides_no_other_and_lines_go_on() -> None:
    found = read_text(POLICY + "---\nx: [\n--- # next\n" + POLICY, "t.yaml")
    first, second = found.documents
    assert [first.lines.at(("kind",)), second.lines.at(("kind",))] == [2, 15]
    (problem,) = found.problems
    assert problem.line in (12, 13)
    assert "not YAML" in problem.message


def test_json_lists_have_lines_and_kinds_of_their_own() -> None:
    text = (
        '\n{"apiVersion": "networking.k8s.io/v1",\n "kind": "NetworkPolicyList", "items": [\n'
        '{"metadata": {"name": "a"},\n "spec": {}},\n{"metadata":\n {"name": "b"}}]}\n'
    )
    found = read_text(text, "t.json")
    assert found.problems == ()
    one, other = found.documents
    assert (one.kind, one.api_version) == ("NetworkPolicy", "networking.k8s.io/v1")
    assert one.lines.at(("spec",)) == 5
    assert other.lines.at(("metadata", "name")) == 7


def test_several_json_values_and_a_list_of_lists() -> None:
    item = '{"apiVersion": "v1", "kind": "T", "x": 1}'
    many = f'{{"apiVersion": "v1", "kind": "List", "items": [{item}, {item}]}}'
    assert values(f"{item} {many}\n{item}") == [1, 1, 1, 1]
    assert read_text('{"kind": "List", "apiVersion": "v1", "items": null}', "t").documents == ()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is given twice"),
        ('{"a": 1,\n"a": 2}', 2, "'a' is given twice"),
        ("a: &x\n  b: *x\n", 2, "contains itself"),
        ("a: *nobody\n", 1, "unknown anchor"),
        ("[" * 200 + "]" * 200, 1, "deeper than 100"),
        ('{"a":' * 200 + "1" + "}" * 200, 1, "deeper than 100"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, 1, ""),
        ("[" * 1_000_000, 1, "deeper than 100"),
        ("- " * 200_000, 1, "deeper than 100"),
        ("a: " + "9" * 100_000, 1, "a number of 100000 digits"),
        ('{"a": ' + "9" * 100_000 + "}", 1, "a number of 100000 digits"),
        ("a: 1e999", 1, "too large"),
        ("a: .inf", 1, "not a JSON number"),
        ("a: .nan", 1, "not a JSON number"),
        ("a: !!python/object/apply:os.system [ls]", 1, "tag"),
        ("a: !!binary aGk=", 1, "tag"),
        ("a: !!int web", 1, "not of its tag int"),
        ("{a: 1}: 2", 1, "plain text"),
        ("? [1]\n: 2", 1, "plain text"),
        ("null: 2", 1, "key is empty"),
        ("a: 1\n  b: 2\n", 2, "not YAML"),
        ("a: \x00", 1, "not YAML"),
        (b"a: 1\nb: \xff", 2, "not UTF-8"),
        ('{"a": "\\ud800"}', 1, "surrogate"),
        ("5", 1, "not an object"),
        ("- a", 1, "not an object"),
        ("a: 1", 1, "apiVersion is missing"),
        ("apiVersion: v1\nkind: 5", 2, "kind is missing"),
        ("apiVersion: v1\nkind: List\nitems: [5]", 3, "not an object"),
        ("<<: 5", 1, "only mappings can be merged"),
    ],
    ids=range(30),
)
def test_what_cannot_be_read_is_reported_with_its_line(
    text: str | bytes, line: int, words: str
) -> None:
    before = time.monotonic()
    at, message = complaint(text)
    assert time.monotonic() - before < BOUND_SECONDS
    assert (at, words in message) == (line, True), message
    assert len(message) < 300


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_aliases_that_explode_cost_nothing() -> None:
    tracemalloc.start()
    before = time.monotonic()
    line, message = complaint(BOMB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (line, "more than 1000000 values" in message) == (6, True)
    assert time.monotonic() - before < BOUND_SECONDS
    assert peak < 4 << 20


def test_the_budget_is_one_for_all_documents_of_a_text() -> None:
    nearly = "\n".join(BOMB.splitlines()[:5]) + "\n"  # 111,110 values
    found = read_text("---\n".join([f"apiVersion: v1\nkind: T\n{nearly}"] * 20), "t.yaml")
    assert 1 <= len(found.documents) < 10
    assert len(found.documents) + len(found.problems) == 20


def test_aliases_do_not_make_it_deeper() -> None:
    chain = "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 500))
    _, message = complaint("a0: &a0 [x]\n" + chain)
    assert "deeper than 100" in message


def test_too_long_and_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 1 << 20)
    assert "more than 1 MiB" in complaint("a" * ((1 << 20) + 1))[1]
    monkeypatch.setattr(documents, "MAX_PIECES", 3)
    found = read_text("apiVersion: v1\nkind: T\n---\n" * 5, "t.yaml")
    assert len(found.documents) == 3
    assert "more than 3 documents" in found.problems[0].message
    monkeypatch.setattr(tree, "MAX_JSON_VALUES", 100)
    with pytest.raises(tree.TreeError, match="more than 100 values"):
        list(tree.json_values('{"a": [' + "1," * 200 + "1]}"))


NASTY = [
    "null", "~", "[]", "{}", "[null]", "{a: null}", "-1", "0", "65536", "9" * 30, "1.5", "true",
    '""', "&a [*a]", "*a", "!!str x", "[[[[]]]]", "' '", '"\\0"', "x" * 5000, "1e308", "- -",
    "{podSelector: {}}", "[{}]", "[{from: [{}]}]", "{matchLabels: {a: b}}", "{<<: *a}", "|",
    "10.0.0.0/8", "::/0", "{cidr: 10.0.0.0/8, except: [10.0.0.0/7]}", "0x10", "yes", "\u2028",
]  # fmt: skip
WORDS = [
    "apiVersion", "kind", "metadata", "name", "namespace", "spec", "podSelector", "matchLabels",
    "matchExpressions", "key", "operator", "values", "ingress", "egress", "from", "to", "ports",
    "port", "endPort", "protocol", "policyTypes", "ipBlock", "cidr", "except", "subject", "pods",
    "namespaces", "priority", "tier", "action", "networks", "protocols", "tcp", "rules", "items",
]  # fmt: skip
SEEDS = [
    POLICY,
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
    "metadata: {name: c}\nspec:\n  tier: Admin\n  priority: 5\n  subject: {namespaces: {}}\n"
    "  egress:\n  - action: Deny\n    to:\n    - networks: [10.0.0.0/8]\n"
    "    protocols:\n    - tcp: {destinationPort: {range: {start: 1, end: 9}}}\n",
    "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\n"
    "metadata: {name: c}\nspec:\n  priority: 5\n  subject: {namespaces: {}}\n"
    "  ingress:\n  - action: Pass\n    from:\n    - pods: {namespaceSelector: {}, podSelector: {}}\n"
    "    ports:\n    - portNumber: {port: 80, protocol: UDP}\n",
    "apiVersion: podtally.io/v1alpha1\nkind: HostPolicy\nmetadata: {name: h}\nspec:\n"
    "  host: true\n  ingress:\n  - from:\n    - ipBlock: {cidr: 203.0.113.0/24}\n"
    "    ports:\n    - port: 22\n",
    '{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "j"},'
    ' "spec": {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"ports": [{"port": 80}]}]}}',
    "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i}\nspec:\n  rules:\n"
    "  - host: a.example.com\n    http:\n      paths:\n      - {path: /, pathType: Prefix,"
    " backend: {service: {name: s, port: {number: 80}}}}\n",
    BOMB,
]


def hostile(chance: random.Random) -> str:
    """A good document with a few things done to it."""
    text = chance.choice(SEEDS)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(7):
            case 0:
                text = text[:at] + chance.choice(NASTY) + text[at:]
            case 1:
                text = text[:at] + text[at + chance.randint(1, 20) :]
            case 2:
                text = text.replace(chance.choice(WORDS), chance.choice(WORDS), 1)
            case 3:
                value = chance.choice(["{}", "80", "TCP", "b", "a", "[", "Admin", "10.0.0.0/8"])
                text = text.replace(value, chance.choice(NASTY), 1)
            case 4:
                text = (
                    text[:at]
                    + chr(chance.choice([0, 9, 10, 13, 34, 39, 58, 123, 0x2028]))
                    + text[at:]
                )
            case 5:
                text = text[:at] + "\n---\n" + text[at:]
            case _:
                lines = text.splitlines(keepends=True)
                chance.shuffle(lines)
                text = "".join(lines)
    return text


def test_hostile_documents_neither_crash_nor_hang_nor_vanish() -> None:
    """More of them: PODTALLY_FUZZ_DOCUMENTS."""
    count = int(os.environ.get("PODTALLY_FUZZ_DOCUMENTS", "10000"))
    chance = random.Random(23)
    slowest = 0.0
    seen = {"good": 0, "unreadable": 0, "problems": 0}
    for _ in range(count):
        text = hostile(chance)
        before = time.monotonic()
        reading = read_policies(text, "fuzz")
        slowest = max(slowest, time.monotonic() - before)
        errors = [
            p for p in reading.problems if p.severity == "error" and "Ingress" not in p.subject
        ]
        unreadable = [policy for policy in reading.policies if policy.unreadable]
        assert not errors or unreadable or any(not _lost(p.message) for p in errors), text
        for problem in reading.problems:
            assert "\n" not in str(problem)
            assert len(str(problem)) < 1500
        assert all(isinstance(policy, Policy) and hash(policy) for policy in reading.policies)
        seen["good"] += len(reading.policies) - len(unreadable)
        seen["unreadable"] += bool(unreadable)
        seen["problems"] += bool(reading.problems)
    assert slowest < BOUND_SECONDS
    assert seen["good"] > count / 20
    assert seen["unreadable"] > count / 4


def _lost(message: str) -> bool:
    return "is required" not in message  # a missing selector is refused, and clear all the same


@pytest.mark.parametrize("kind", ["name", "key", "field", "value", "anchor"])
def test_megabyte_names(kind: str) -> None:
    long = "n" * (1 << 20)
    text = {
        "name": POLICY.replace("name: a,", f"name: {long},"),
        "key": POLICY.replace("app: web", f"? {long}\n          : web"),
        "field": POLICY.replace("  podSelector: {}", f"  ? {long}\n  : 5"),
        "value": POLICY.replace("app: web", f"app: {long}"),
        "anchor": POLICY.replace("app: web", f"app: &{long} {'x' * 100}"),
    }[kind]
    before = time.monotonic()
    reading = read_policies(text, "t.yaml")
    assert time.monotonic() - before < BOUND_SECONDS
    (policy,) = (p for p in reading.policies if p.kind == "NetworkPolicy")
    assert policy.unreadable
    assert len(policy.unreadable) < 1000
    assert len(policy.name) < 300


def test_lines_of_a_long_list_in_json_are_reported_without_reading_it_again_for_each() -> None:
    """Each object's line was looked for by a parse of the whole text: ten minutes for this one."""
    bad = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {}}
    items = ",\n".join(json.dumps(bad | {"spec": {"wrong": i}}) for i in range(3000))
    text = read_text(f'{{"apiVersion": "v1", "kind": "List", "items": [\n{items}\n]}}', "big.json")
    lines = [document.lines.at(("spec", "wrong")) for document in text.documents]
    assert lines == list(range(2, 3002))
