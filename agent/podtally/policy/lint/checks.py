# SPDX-License-Identifier: Apache-2.0
"""Runs all checks on readable policies: by themselves, and against a cluster.

What the API server would reject is reported by ``load.parser``.
"""

from collections.abc import Iterable, Iterator, Sequence

from podtally.policy.cluster.model import ClusterModel
from podtally.policy.explain.formatting import format_rule
from podtally.policy.lint.cluster_checks import LintCluster, selector_findings, unisolated_findings
from podtally.policy.lint.domain_findings import domain_findings, names_by_domain
from podtally.policy.lint.findings import (
    DUPLICATE,
    IGNORED_RULES,
    PROTOCOL_WITHOUT_PORTS,
    SHADOWED,
    UNSUPPORTED_KIND,
    DeclaredDocuments,
    LintFinding,
    finding,
    items,
    part,
)
from podtally.policy.lint.intent_checks import intent_findings, service_address_findings
from podtally.policy.lint.shadowed_rules import ComparisonBudget, ShadowedRule, shadowed_rules
from podtally.policy.load.documents import Document
from podtally.policy.model import EGRESS, INGRESS, NETWORK_TIER
from podtally.policy.problems import WARNING, Problem
from podtally.policy.reference.matching import rules_of
from podtally.yamltree.scalars import brief

# Protocols without ports that people write into policies.
_WITHOUT_PORTS = frozenset({"ICMP", "ICMPV6", "IGMP", "ESP", "AH", "GRE", "IPIP", "ARP"})


def lint(
    declared: Sequence[DeclaredDocuments],
    model: ClusterModel | None,
    budget: ComparisonBudget | None = None,
) -> list[LintFinding]:
    """Return findings in the order of the policies; without a model those of policies alone."""
    findings: list[LintFinding] = []
    readable = [each for each in declared if not each.policy.unreadable]
    cluster = LintCluster(model) if model else None
    for each in declared:
        findings += _portless(each.document)
    for each in readable:
        findings += _ignored_rules(each)
        findings += selector_findings(each, cluster)
        findings += domain_findings(each, model)
    findings += intent_findings(readable)
    findings += _duplicates(readable)
    findings += _shadowed(readable, budget or ComparisonBudget())
    if model is not None and cluster is not None:
        findings += service_address_findings(readable, model)
        findings += unisolated_findings([each.policy for each in declared], model, cluster)
    return findings


def unsupported_kinds(others: Iterable[Document]) -> Iterator[LintFinding]:
    """Yield a finding for each document that is a policy of an unsupported kind."""
    for document in others:
        if document.kind.endswith("NetworkPolicy"):
            message = f"unsupported policy kind of {document.api_version}: not evaluated"
            field = names_by_domain(document)
            if field:
                message += f", nor its rules by domain name ({field})"
            yield finding(UNSUPPORTED_KIND, document, ("kind",), message)


def _portless(document: Document) -> Iterator[LintFinding]:
    for direction in (INGRESS, EGRESS):
        for number, rule in enumerate(items(document.content, "spec", direction)):
            for index, port in enumerate(items(rule, "ports")):
                for path in ((), ("portNumber",), ("portRange",)):
                    name = part(port, *path, "protocol")
                    if isinstance(name, str) and name.upper() in _WITHOUT_PORTS:
                        at = ("spec", direction, number, "ports", index, *path, "protocol")
                        message = f"unsupported protocol {brief(name)}: use TCP, UDP or SCTP"
                        yield finding(PROTOCOL_WITHOUT_PORTS, document, at, message)


def _ignored_rules(each: DeclaredDocuments) -> Iterator[LintFinding]:
    for direction in (INGRESS, EGRESS):
        written = items(each.document.content, "spec", direction)
        if written and rules_of(each.policy, direction) is None:
            message = f"ignored: policyTypes does not include {direction.capitalize()}"
            yield finding(IGNORED_RULES, each.document, ("spec", direction), message)


def _duplicates(declared: Sequence[DeclaredDocuments]) -> Iterator[LintFinding]:
    first: dict[tuple[str, str, str], Document] = {}
    for policy, document in declared:
        key = (policy.kind, policy.namespace, policy.name)
        if key in first:
            where = f"{first[key].source}:{first[key].lines.at(())}"
            message = f"is also declared in {where}; the later one is used"
            yield finding(DUPLICATE, document, (), message)
        first.setdefault(key, document)


def _shadowed(
    declared: Sequence[DeclaredDocuments], budget: ComparisonBudget
) -> Iterator[LintFinding]:
    # Of two objects of one name the later is in force.
    latest = {(p.kind, p.namespace, p.name): (p, d) for p, d in declared}
    documents = {id(policy): document for policy, document in latest.values()}
    for shadow in shadowed_rules((policy for policy, _ in latest.values()), budget):
        path = ("spec", shadow.direction, shadow.rule.index)
        yield finding(SHADOWED, documents[id(shadow.policy)], path, _shadow_words(shadow))
    if budget.skipped:
        message = f"too many similar rules: stopped with {budget.skipped} rules not compared"
        yield LintFinding(SHADOWED, Problem("", 0, "policies", "", message, WARNING))


def _shadow_words(shadow: ShadowedRule) -> str:
    other = format_rule(shadow.other, shadow.other_rule, shadow.direction)
    if shadow.policy.tier == shadow.other.tier == NETWORK_TIER:
        return f"makes no difference: {other} allows everything it allows"
    return f"is never reached: {other} ({shadow.other_rule.action}) matches everything it matches"
