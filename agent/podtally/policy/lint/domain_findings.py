# SPDX-License-Identifier: Apache-2.0
"""Checks of rules by domain name, and where other kinds of policies have such rules."""

from collections.abc import Iterator

from podtally.policy.cluster.model import ClusterModel
from podtally.policy.lint.findings import (
    DOMAIN_NAMES,
    DeclaredDocuments,
    LintFinding,
    finding,
    items,
    part,
)
from podtally.policy.load.documents import Document
from podtally.policy.model import BASELINE_TIER, EGRESS, DomainPeer

_TO = "to"
_NAMES = "domainNames"
# Service names, as the DNS specification of Kubernetes builds them: name.namespace.svc.ZONE.
_SVC = "svc"
# Fields of Cilium, Calico and GKE.
_OTHER_FIELDS = ("toFQDNs", "domains", "fqdns", "matches")


def domain_findings(each: DeclaredDocuments, model: ClusterModel | None) -> Iterator[LintFinding]:
    """Yield the findings of one policy; ``model`` has the Services."""
    policy, document = each
    for rule in policy.egress or ():
        if not any(isinstance(peer, DomainPeer) for peer in rule.peers or ()):
            continue
        for number, peer in enumerate(items(document.content, "spec", EGRESS, rule.index, _TO)):
            names = items(peer, _NAMES)
            path = ("spec", EGRESS, rule.index, _TO, number, _NAMES)
            if names and not _is_defined(rule.peers or ()):
                where = "the Baseline tier" if policy.tier == BASELINE_TIER else rule.action
                message = (
                    "the API defines domain names only in rules of the Admin tier that accept; "
                    f"in {where} they may match, or not: use networks"
                )
                yield finding(DOMAIN_NAMES, document, path, message)
            for index, name in enumerate(names):
                service = _cluster_ip_service(str(name), model)
                if service:
                    message = (
                        f"is the Service {service} with a cluster address, where policy sees the "
                        "pods behind it: select those pods"
                    )
                    yield finding(DOMAIN_NAMES, document, (*path, index), message)


def names_by_domain(document: Document) -> str:
    """Return the field by which a policy of another kind has rules by domain name; "" if none."""
    pending: list[object] = [part(document.content, "spec"), part(document.content, "specs")]
    kind_has = document.kind == "FQDNNetworkPolicy"
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for field in _OTHER_FIELDS:
                if value.get(field) and (kind_has or field != "matches"):
                    return field
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return ""


def _is_defined(peers: tuple[object, ...]) -> bool:
    return all(peer.is_defined for peer in peers if isinstance(peer, DomainPeer))


def _cluster_ip_service(name: str, model: ClusterModel | None) -> str:
    """Return the Service of a name, as namespace/name, if it has a cluster address."""
    labels = name.lower().split(".")
    if len(labels) < 3 or labels[2] != _SVC:
        return ""
    service = f"{labels[1]}/{labels[0]}"
    return service if model is not None and model.services.get(service) else ""
