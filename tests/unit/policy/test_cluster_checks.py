# SPDX-License-Identifier: Apache-2.0
"""Selections and isolation in a cluster: the same as by judging every pod, without doing so."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podtally.policy.cluster.model import ClusterModel, ClusterPod, NamespaceModel
from podtally.policy.lint import cluster_checks as lint_cluster
from podtally.policy.lint.cluster_checks import LintCluster, unisolated_findings
from podtally.policy.model import (
    ALLOW,
    DENY,
    EGRESS,
    EVERYTHING,
    INGRESS,
    PodPeer,
    PodSubject,
    Policy,
    PolicyEndpoint,
    Requirement,
    Rule,
    Selector,
)
from podtally.policy.reference.engine import Engine
from podtally.policy.reference.matching import rules_of, selects_endpoint
from podtally.runtimes.model import Labels
from tests.unit.policy.policy_support import labelled, pod, rules

LABELS = st.none() | st.dictionaries(st.sampled_from(["app", "x"]), st.sampled_from("ab")).map(
    lambda found: tuple(sorted(found.items()))
)
REQUIREMENTS = st.builds(
    Requirement,
    st.sampled_from(["app", "x"]),
    st.sampled_from(["In", "NotIn"]),
    st.frozensets(st.sampled_from("abc"), min_size=1),
) | st.builds(Requirement, st.just("app"), st.sampled_from(["Exists", "DoesNotExist"]))
SELECTORS = st.lists(REQUIREMENTS, max_size=2).map(lambda found: Selector(tuple(found)))
ALL_PODS = (PodPeer(EVERYTHING, EVERYTHING),)
RULES = st.sampled_from(
    [
        None,
        (),
        rules(Rule(0, ALLOW)),
        rules(Rule(0, DENY, ALL_PODS)),
        rules(Rule(0, ALLOW, ALL_PODS)),
    ]
)
NETWORK = st.tuples(st.sampled_from(["shop", "pay"]), SELECTORS, RULES, RULES).map(
    lambda found: Policy("NetworkPolicy", found[0], "p", PodSubject(None, found[1]), *found[2:])
)
ADMIN = st.tuples(SELECTORS, SELECTORS, RULES, RULES, st.sampled_from([0, 2])).map(
    lambda found: Policy("ClusterNetworkPolicy", "", "c", PodSubject(*found[:2]), *found[2:])
)


def world_of(labels: list[tuple[str, Labels | None]]) -> ClusterModel:
    members = [
        ClusterPod(pod(f"{space}/p{n}")._replace(labels=each))
        for n, (space, each) in enumerate(labels)
    ]
    spaces = [NamespaceModel("shop", (("app", "a"),)), NamespaceModel("pay", ())]
    return ClusterModel(members, (), spaces)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(["shop", "pay"]), LABELS), max_size=6),
    st.lists(NETWORK | ADMIN, max_size=4),
)
def test_it_agrees_with_evaluating_every_pod(
    labels: list[tuple[str, Labels | None]], policies: list[Policy]
) -> None:
    world = world_of(labels)
    cluster = LintCluster(world)
    pods = [member.endpoint for member in world.members]
    for policy in policies:
        assert isinstance(policy.subject, PodSubject)
        selected = {each.labels for each in cluster.selected(policy, policy.subject)}
        assert selected == {
            p.labels
            for p in pods
            if selects_endpoint(policy, p) is not False and in_reach(policy, p)
        }
    found = {each.problem.message for each in unisolated_findings(policies, world, cluster)}
    engine = Engine(policies)
    for direction in (INGRESS, EGRESS):
        for space in ("shop", "pay"):
            names = sorted(p.name for p in pods if p.namespace == space)
            free = [
                p.name for p in pods if p.namespace == space and not isolated(p, direction, engine)
            ]
            words = f"{len(free)} of {len(names)} pods not isolated in {direction}: "
            assert any(each.startswith(words) for each in found) is bool(free)


def in_reach(policy: Policy, each: PolicyEndpoint) -> bool:
    return policy.namespace in ("", each.namespace)


def isolated(each: PolicyEndpoint, direction: str, engine: Engine) -> bool:
    selecting = engine.selecting(each)
    if any(sure and rules_of(policy, direction) is not None for policy, sure in selecting.network):
        return True
    return any(
        sure and rule.action == DENY and rule.peers == ALL_PODS
        for group in (*selecting.admin, *selecting.baseline)
        for policy, sure in group
        for rule in rules_of(policy, direction) or ()
    )


def test_a_selector_by_a_label_looks_at_its_bearers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 500
    world = ClusterModel(
        [ClusterPod(pod(f"shop/p{n}")._replace(labels=(("app", f"a{n}"),))) for n in range(count)],
        (),
        [NamespaceModel("shop", ())],
    )
    cluster = LintCluster(world)
    looked: list[PolicyEndpoint] = []

    def counting(policy: Policy, endpoint: PolicyEndpoint) -> bool | None:
        looked.append(endpoint)
        return selects_endpoint(policy, endpoint)

    policies = [
        Policy("NetworkPolicy", "shop", f"p{n}", PodSubject(None, labelled(app=f"a{n}")), (), ())
        for n in range(count)
    ]
    monkeypatch.setattr(lint_cluster, "selects_endpoint", counting)
    assert list(unisolated_findings(policies, world, cluster)) == []
    assert len(looked) <= 4 * count
