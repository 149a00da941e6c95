# SPDX-License-Identifier: Apache-2.0
"""Lint findings and the names of the checks."""

from typing import Any, NamedTuple

from podtally.policy.load.documents import Document
from podtally.policy.model import Policy
from podtally.policy.problems import WARNING, Path, Problem, field_of

SCHEMA = "schema"
SELECTS_NOTHING = "selects-nothing"
SHADOWED = "shadowed"
PROTOCOL_WITHOUT_PORTS = "no-ports"
IGNORED_RULES = "ignored-rules"
DUPLICATE = "duplicate"
UNSUPPORTED_KIND = "not-read"
UNISOLATED = "unisolated"
POLICY_TYPES = "policy-types"
NO_SELECTOR = "no-selector"
OR_SELECTORS = "or-selectors"
ALLOW_ALL = "allow-all"
NO_DNS = "no-dns"
SERVICE_ADDRESS = "service-address"
DOMAIN_NAMES = "domain-names"
CHECKS = {
    SCHEMA: "the API server would reject it, or should",
    SELECTS_NOTHING: "a selector or a named port that matches nothing",
    SHADOWED: "a rule that never makes a difference",
    PROTOCOL_WITHOUT_PORTS: "a port of a protocol without ports",
    IGNORED_RULES: "rules of a direction that policyTypes does not include",
    DUPLICATE: "an object that is declared more than once",
    UNSUPPORTED_KIND: "a policy of a kind that podtally does not support",
    POLICY_TYPES: "egress without policyTypes: ingress is denied too, or nothing is isolated",
    NO_SELECTOR: "a NetworkPolicy without podSelector, which selects every pod",
    OR_SELECTORS: "a namespaceSelector and a podSelector in two peers: one of them is enough",
    ALLOW_ALL: "a rule that allows everything",
    NO_DNS: "egress is isolated, and no rule allows DNS",
    SERVICE_ADDRESS: "an ipBlock of Services' addresses (with --cluster and Services in it)",
    DOMAIN_NAMES: "a domain name where it has no meaning, or of a ClusterIP Service",
    UNISOLATED: "a namespace with pods that no policy isolates (with --cluster)",
}


class LintFinding(NamedTuple):
    check: str
    problem: Problem


class DeclaredDocuments(NamedTuple):
    """A policy and the document that declares it."""

    policy: Policy
    document: Document


def finding(check: str, document: Document, path: Path, message: str) -> LintFinding:
    line, subject = document.lines.at(path), document.subject()
    return LintFinding(
        check, Problem(document.source, line, subject, field_of(path), message, WARNING)
    )


def part(content: Any, *path: str | int) -> Any:
    """Return the value at the path; None if there is none."""
    for step in path:
        if isinstance(step, int):
            there = isinstance(content, list) and step < len(content)
        else:
            there = isinstance(content, dict) and step in content
        if not there:
            return None
        content = content[step]
    return content


def items(content: Any, *path: str | int) -> list[Any]:
    found = part(content, *path)
    return found if isinstance(found, list) else []
