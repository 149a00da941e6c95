# SPDX-License-Identifier: Apache-2.0
"""The API's policies as events make them; compared with a plain table, and used for verdicts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from podtally.kube.model import ObjectPage
from podtally.policy.explain.reasons import reason
from podtally.policy.ingress import DeclaredIngress
from podtally.policy.load.api_resources import POLICY_RESOURCE_NAMES
from podtally.policy.load.live_policies import LivePolicies
from podtally.policy.model import ALLOWED, UNDECLARED, UNKNOWN, Policy
from podtally.policy.reference.engine import Engine
from tests.unit.policy.policy_api import changed, cluster_policy, ingress, network_policy, page
from tests.unit.policy.policy_support import ask, pod

QUESTION = ask(pod("shop/a"), pod("shop/b", "10.99.0.2"))


def heard_of_all(but: str = "") -> LivePolicies:
    live = LivePolicies()
    for name in POLICY_RESOURCE_NAMES - {but}:
        live.apply(page(name, []))
    return live


def names(live: LivePolicies) -> list[str]:
    return sorted(policy.name for policy in live.now().policies)


def verdict(live: LivePolicies) -> str:
    now = live.now()
    return Engine((*now.policies, *now.stand_ins)).judge(QUESTION).verdict


def test_until_everything_is_synced_nothing_is_undeclared_or_allowed() -> None:
    for missing in sorted(POLICY_RESOURCE_NAMES - {"ingresses"}):
        live = heard_of_all(but=missing)
        assert live.unsynced() == (missing,)
        now = live.now()
        judged = Engine((*now.policies, *now.stand_ins)).judge(QUESTION)
        assert judged.verdict == UNKNOWN
        assert f"{missing} are not yet synced from the API" in reason(QUESTION, judged)
        assert "unsynced" in {judged.ingress.cause, judged.egress.cause}
        assert "unreadable" not in {judged.ingress.cause, judged.egress.cause}
        live.apply(page(missing, [], last=False))
        assert verdict(live) == UNKNOWN
        live.apply(page(missing, [], first=False))
        assert verdict(live) == UNDECLARED
        assert live.unsynced() == ()


def test_an_allow_does_not_stand_while_a_tier_before_it_is_not_synced() -> None:
    live = heard_of_all(but="adminnetworkpolicies")
    live.apply(page("networkpolicies", [network_policy("shop/a", ingress=[{}])]))
    assert verdict(live) == UNKNOWN
    live.apply(page("adminnetworkpolicies", []))
    assert verdict(live) == ALLOWED


def test_an_admin_policy_that_passes_does_not_skip_a_tier_that_is_not_synced() -> None:
    live = heard_of_all(but="networkpolicies")
    passing = [{"action": "Pass", "from": [{"namespaces": {}}]}]
    onwards = [{"action": "Pass", "to": [{"namespaces": {}}]}]
    both = cluster_policy("a", ingress=passing, egress=onwards)
    live.apply(page("clusternetworkpolicies", [both]))
    assert [policy.unreadable for policy in live.now().policies] == [""]
    assert verdict(live) == UNKNOWN
    live.apply(page("networkpolicies", []))
    assert verdict(live) == UNDECLARED


def test_a_resource_that_the_server_lacks_counts_as_synced() -> None:
    live = heard_of_all(but="clusternetworkpolicies")
    live.apply(
        ObjectPage("clusternetworkpolicies", (), True, True, 5)
    )  # of kube/reflector, at a 404
    assert live.unsynced() == ()


def test_ingresses_are_known_when_they_were_listed() -> None:
    live = heard_of_all(but="ingresses")
    assert verdict(live) == UNDECLARED  # they judge nothing
    assert not live.now().ingresses_known
    live.apply(page("ingresses", [ingress("shop/web")]))
    assert live.now().ingresses_known
    (declared,) = live.now().ingresses
    assert isinstance(declared, DeclaredIngress)


def test_what_a_list_does_not_have_is_gone_at_its_end() -> None:
    live = heard_of_all()
    live.apply(page("networkpolicies", [network_policy(f"shop/{n}") for n in "abc"]))
    live.apply(page("networkpolicies", [network_policy("shop/d")], last=False))
    assert names(live) == ["a", "b", "c", "d"]
    # It restarted: nothing of its first attempt counts.
    live.apply(page("networkpolicies", [network_policy("shop/a")], last=False))
    live.apply(page("networkpolicies", [network_policy("shop/e")], first=False))
    assert names(live) == ["a", "e"]


def test_the_same_object_until_a_meaning_changes() -> None:
    live = heard_of_all()
    live.apply(page("networkpolicies", [network_policy("shop/a"), network_policy("shop/b")]))
    before = live.now()
    live.apply(page("networkpolicies", [network_policy("shop/b"), network_policy("shop/a")]))
    relabelled = network_policy("shop/a")
    relabelled["metadata"] |= {"labels": {"a": "b"}, "uid": "another"}
    live.apply(changed("networkpolicies", "MODIFIED", relabelled))
    live.apply(changed("networkpolicies", "DELETED", network_policy("shop/never")))
    live.apply(ObjectPage("pods", (), True, True, 5))
    assert live.now() is before
    live.apply(changed("networkpolicies", "MODIFIED", network_policy("shop/a", egress=[{}])))
    assert live.now() is not before


def test_namesakes_of_other_kinds_and_namespaces_are_distinguished() -> None:
    live = heard_of_all()
    live.apply(page("networkpolicies", [network_policy("shop/a"), network_policy("pay/a")]))
    live.apply(page("clusternetworkpolicies", [cluster_policy("a")]))
    live.apply(changed("networkpolicies", "DELETED", network_policy("shop/a")))
    found = {(policy.kind, policy.namespace) for policy in live.now().policies}
    assert found == {("NetworkPolicy", "pay"), ("ClusterNetworkPolicy", "")}


def test_one_that_is_not_understood_makes_its_pods_unknown_and_no_others() -> None:
    live = heard_of_all()
    live.apply(changed("networkpolicies", "ADDED", network_policy("shop/a", brandNew=1)))
    assert verdict(live) == UNKNOWN
    assert "brandNew" in str(live.now().problems[0])
    live.apply(changed("networkpolicies", "MODIFIED", network_policy("shop/a", ingress=[{}])))
    assert (verdict(live), live.now().problems) == (ALLOWED, ())
    live.apply(changed("networkpolicies", "ADDED", network_policy("pay/a", brandNew=1)))
    assert verdict(live) == ALLOWED


Step = tuple[str, list[tuple[str, int]]]
NAMED = st.tuples(st.sampled_from("abcde"), st.integers(1, 3))
STEPS = st.lists(
    st.tuples(st.sampled_from(["list", "part", "ADDED", "DELETED"]), st.lists(NAMED, max_size=4))
)


@settings(deadline=None)
@given(STEPS)
def test_any_events_leave_what_a_plain_table_has(steps: list[Step]) -> None:
    live, table = heard_of_all(), dict[str, int]()
    for kind, objects in steps:
        items = [
            network_policy(f"shop/{n}", ingress=[{"ports": [{"port": p}]}]) for n, p in objects
        ]
        if kind in ("list", "part"):
            live.apply(page("networkpolicies", items, last=kind == "list"))
            table = dict(objects) if kind == "list" else table | dict(objects)
        for (name, port), item in zip(objects, items, strict=True):
            if kind == "ADDED":
                table[name] = port
                live.apply(changed("networkpolicies", kind, item))
            elif kind == "DELETED":
                table.pop(name, None)
                live.apply(changed("networkpolicies", kind, item))
    assert {policy.name: port_of(policy) for policy in live.now().policies} == table


def port_of(policy: Policy) -> int:
    (rule,) = policy.ingress or ()
    return (rule.ports or ())[0].first
