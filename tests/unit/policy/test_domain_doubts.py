# SPDX-License-Identifier: Apache-2.0
"""Rules by domain name where DNS was not all seen, and in the vector engine."""

import numpy as np
import pytest

from podtally.dns.candidates import from_lists, name_column
from podtally.dns.known_names import (
    ENCRYPTED_DNS,
    FORGOTTEN,
    MESSAGES_LOST,
    NAMES_OFF,
    SEEN_LATE,
    KnownNames,
)
from podtally.policy.model import (
    ALLOW,
    DENY,
    EVERYTHING,
    HOST,
    TCP,
    UNIDENTIFIED,
    VERDICTS,
    HostSubject,
    PolicyEndpoint,
    Rule,
)
from podtally.policy.vector import name_classes
from podtally.policy.vector.evaluator import (
    ADDRESS_INDEX,
    Evaluator,
    PackedConnections,
)
from tests.unit.policy.policy_domain_support import (
    CLOSED,
    DB,
    WEB,
    admin,
    answered,
    by_name,
    judge,
    known,
)
from tests.unit.policy.policy_support import ask, ip, outside, policy, rules

# -- 7: doubt ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        (NAMES_OFF, "DNS is not captured"),
        (SEEN_LATE, "it was there before the agent"),
        (MESSAGES_LOST, "DNS messages were lost"),
        (ENCRYPTED_DNS, "it uses encrypted DNS"),
        (FORGOTTEN, "names were dropped at a limit"),
        (SEEN_LATE | ENCRYPTED_DNS, "it was there before the agent and it uses encrypted DNS"),
    ],
)
def test_without_all_dns_a_mismatch_is_unknown_with_the_cause(missing: int, why: str) -> None:
    named = admin(by_name("api.example.com", "*.example.org"))
    found = judge(known("www.example.com", missing=missing), named, CLOSED)
    assert found.verdict == "unknown"
    assert found.reason == (
        "ClusterNetworkPolicy/payments egress[0]: whether api.example.com or *.example.org "
        f"resolves to 203.0.113.9 is unknown: {why}"
    )


def test_a_known_address_matches_whatever_else_is_missing() -> None:
    names = known("api.example.com", missing=SEEN_LATE)
    assert judge(names, admin(by_name("api.example.com")), CLOSED).verdict == "allowed"


def test_doubt_counts_only_if_it_can_change_the_outcome() -> None:
    named, nothing = admin(by_name("api.example.com")), known(missing=NAMES_OFF)
    assert (
        judge(nothing, named, policy("shop/open", egress=rules(Rule(0, ALLOW)))).verdict
        == "allowed"
    )
    assert judge(nothing, admin(Rule(0, DENY), priority=1), named).verdict == "denied"
    assert judge(nothing, named, CLOSED, question=ask(WEB, outside(), 443)).verdict == "unknown"
    assert judge(nothing, named).verdict == "unknown"  # allowed, or undeclared


def test_where_names_are_missing_an_expired_answer_may_have_been_renewed() -> None:
    names = known(answered("api.example.com", 90, 30), missing=MESSAGES_LOST)
    found = judge(names, admin(by_name("api.example.com")), CLOSED)
    assert (found.verdict, found.strict) == ("allowed", "unknown")


# -- 8, 9: pods and hosts ----------------------------------------------------------------------


def test_a_pod_has_names_too() -> None:
    name = "10-99-0-2.shop.pod.cluster.local"
    headless = admin(by_name("*.pod.cluster.local"))
    assert judge(known(name), headless, CLOSED, question=ask(WEB, DB, 443)).verdict == "allowed"
    assert judge(known(), headless, CLOSED, question=ask(WEB, DB, 443)).verdict == "denied"


def test_an_unidentified_peer_is_judged_by_its_name() -> None:
    stranger = PolicyEndpoint(UNIDENTIFIED, ips=(ip("203.0.113.9"),))
    question = ask(WEB, stranger, 443)
    named = admin(by_name("api.example.com"))
    assert judge(known("api.example.com"), named, CLOSED, question=question).verdict == "allowed"


def test_host_policies_have_the_same_field() -> None:
    host = PolicyEndpoint(HOST, ips=(ip("10.99.0.9"),), unit="app.service")
    only = policy(
        "updates",
        kind="HostPolicy",
        subject=HostSubject(EVERYTHING),
        egress=rules(by_name("*.debian.org")),
    )
    question = ask(host, outside(), 443)
    found = judge(known("deb.debian.org"), only, question=question)
    assert found.verdict == "allowed"
    assert (
        found.reason == "HostPolicy/updates egress[0]: deb.debian.org, queried 12 s before, TTL 30"
    )
    assert judge(known("debian.org"), only, question=question).verdict == "denied"


# -- the classes of the vector engine ----------------------------------------------------------


def _connections(names: list[KnownNames]) -> PackedConnections:
    n = len(names)
    address = ip("203.0.113.9")
    column = from_lists(
        [k.answers for k in names], [k.at for k in names], [k.missing for k in names]
    )
    return PackedConnections(
        np.zeros(n, np.int32),
        np.full(n, ADDRESS_INDEX, np.int32),
        np.full(n, address >> 64, np.uint64),
        np.full(n, address & (1 << 64) - 1, np.uint64),
        np.full(n, TCP, np.int32),
        np.full(n, 443, np.int32),
        np.ones(n, np.bool_),
        name_column(column),
    )


@pytest.mark.parametrize("bound", ["_MAX_BYTES", "_MAX_NAMES"])
def test_ever_new_names_are_forgotten_and_judged_the_same(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(name_classes, "MAX_CLASSES", 4)
    monkeypatch.setattr(name_classes, bound, 8)
    listed = [f"{n:03b}" for n in range(8)]
    named = admin(*(by_name(f"{name}.example.com") for name in listed))
    evaluator = Evaluator([named, CLOSED], [WEB])
    for turn in range(3):
        names = [known(f"{n}.example.com", f"{m}.example.com") for n in listed for m in listed]
        names += [known(f"{turn}x{n}.example.com") for n in range(9)]
        found = evaluator.judge(_connections(names))
        assert [VERDICTS[code] for code in found.verdict] == ["allowed"] * 64 + ["denied"] * 9


def test_a_changed_list_is_judged_at_once() -> None:
    evaluator = Evaluator([admin(by_name("a.example.com")), CLOSED], [WEB])
    asked = _connections([known("a.example.com"), known("b.example.com")])
    before = [VERDICTS[code] for code in evaluator.judge(asked).verdict]
    evaluator.set_policies([admin(by_name("b.example.com")), CLOSED])
    after = [VERDICTS[code] for code in evaluator.judge(asked).verdict]
    evaluator.set_policies([CLOSED])
    without = [VERDICTS[code] for code in evaluator.judge(asked).verdict]
    assert (before, after) == (["allowed", "denied"], ["denied", "allowed"])
    assert without == ["denied", "denied"]


def test_replies_and_ingress_have_no_names() -> None:
    evaluator = Evaluator([admin(by_name("a.example.com")), CLOSED], [WEB])
    asked = _connections([known("a.example.com")])._replace(is_egress=np.zeros(1, np.bool_))
    assert VERDICTS[int(evaluator.judge(asked).verdict[0])] == "undeclared"
