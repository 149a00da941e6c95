# SPDX-License-Identifier: Apache-2.0
"""Rules by domain name, in both engines: which answers make one match, and what stays unknown."""

import pytest

from podtally.dns.wire_names import name_text, read_labels
from podtally.policy.domain_patterns import above, covers, matches, normalise
from podtally.policy.model import (
    ALLOW,
    BASELINE_TIER,
    DENY,
    EVERYTHING,
    HOST,
    PASS,
    TCP,
    DomainPeer,
    HostSubject,
    PodPeer,
    PolicyEndpoint,
    PolicyPort,
    Rule,
)
from tests.unit.policy.policy_domain_support import (
    CLOSED,
    WEB,
    admin,
    answered,
    by_name,
    judge,
    known,
)
from tests.unit.policy.policy_support import ask, block, ip, outside, policy, rules

HTTPS = (PolicyPort(TCP, 443, 443),)


# -- 1: rules that accept, in the Admin tier ---------------------------------------------------


def test_a_name_that_the_pod_asked_for_is_allowed_with_the_evidence() -> None:
    payments = admin(Rule(0, ALLOW, (PodPeer(EVERYTHING),)), by_name("api.stripe.com"))
    found = judge(known("api.stripe.com"), payments, CLOSED)
    assert found == (
        "allowed",
        "ClusterNetworkPolicy/payments egress[1]: api.stripe.com, queried 12 s before, TTL 30",
        "allowed",
    )


@pytest.mark.parametrize("action", [DENY, PASS])
def test_a_name_in_a_rule_that_denies_or_passes_is_a_doubt_where_it_could_matter(
    action: str,
) -> None:
    odd = admin(by_name("api.example.com", action=action))
    network = policy("shop/open", egress=rules(Rule(0, ALLOW)))
    found = judge(known("api.example.com"), odd, CLOSED if action == PASS else network)
    # Where it passes, NetworkPolicy denies either way.
    assert found.verdict == ("denied" if action == PASS else "unknown")
    if action == DENY:
        assert found.reason == (
            "ClusterNetworkPolicy/payments egress[0]: api.example.com matches, but the API defines "
            "names only in rules that allow"
        )
    assert judge(known("other.example.com"), odd, network).verdict == "allowed"
    assert (
        judge(known("api.example.com"), odd, admin(Rule(0, DENY), priority=1)).verdict == "denied"
    )


def test_a_name_in_a_rule_that_passes_matters_before_a_denial() -> None:
    rest = Rule(1, DENY, (block("0.0.0.0/0"),))
    odd = admin(by_name("api.example.com", action=PASS), rest)
    assert judge(known("api.example.com"), odd).verdict == "unknown"
    assert judge(known(), odd).verdict == "denied"


def test_a_name_in_the_baseline_is_a_doubt() -> None:
    rule = Rule(0, ALLOW, (DomainPeer(("api.example.com",), is_defined=False),))
    baseline = admin(rule, Rule(1, DENY))._replace(tier=BASELINE_TIER)
    assert judge(known("api.example.com"), baseline).verdict == "unknown"
    assert judge(known("www.example.com"), baseline).verdict == "denied"
    assert judge(known("api.example.com"), baseline, CLOSED).verdict == "denied"


# -- 2: names and wildcards --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("kubernetes.io", "kubernetes.io", True),
        ("kubernetes.io", "www.kubernetes.io", False),
        ("kubernetes.io", "my-kubernetes.io", False),
        ("*.kubernetes.io", "www.kubernetes.io", True),
        ("*.kubernetes.io", "latest.blog.kubernetes.io", True),
        ("*.kubernetes.io", "kubernetes.io", False),
        ("*.kubernetes.io", "my-kubernetes.io", False),
        ("*.kubernetes.io", "kubernetes.io.evil.example", False),
        ("*.blog.kubernetes.io", "www.kubernetes.io", False),
        ("_dmarc.example.com", "_dmarc.example.com", True),
    ],
)
def test_what_a_pattern_matches(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected
    verdict = judge(known(name), admin(by_name(pattern)), CLOSED).verdict
    assert verdict == ("allowed" if expected else "denied")


def test_case_and_a_trailing_dot_do_not_matter() -> None:
    assert normalise("API.Example.COM.") == "api.example.com"
    assert normalise("*.Example.com.") == "*.example.com"


def test_one_of_many_names_is_enough() -> None:
    listed = [f"n{n}.example.com" for n in range(24)]
    named = admin(by_name(*listed, "*.example.org"))
    assert judge(known("n23.example.com"), named, CLOSED).verdict == "allowed"
    assert judge(known("a.example.org"), named, CLOSED).verdict == "allowed"
    assert judge(known("a.example.net"), named, CLOSED).verdict == "denied"


def test_what_a_pattern_covers() -> None:
    assert covers("*.a.b", "x.a.b")
    assert covers("*.a.b", "*.x.a.b")
    assert not covers("*.a.b", "a.b")
    assert not covers("*.x.a.b", "*.a.b")
    assert above("*.a.b.c") == ["*.a.b.c", "*.b.c", "*.c"]


# -- 3: trusted answers ------------------------------------------------------------------------


def test_an_address_that_the_pod_has_no_answer_for_is_not_of_the_name() -> None:
    found = judge(known(), admin(by_name("api.example.com")), CLOSED)
    assert (found.verdict, found.strict) == ("denied", "denied")
    only = policy(
        "", kind="HostPolicy", subject=HostSubject(EVERYTHING), egress=rules(by_name("a.b"))
    )
    host = PolicyEndpoint(HOST, ips=(ip("10.99.0.9"),), unit="app.service")
    found = judge(known(), only, question=ask(host, outside(), 443))
    assert found.reason.endswith(
        "nearest HostPolicy/ egress[0]: 203.0.113.9 was in no DNS answer, so it is not a.b"
    )


def test_the_name_that_was_queried_counts_not_the_canonical_one() -> None:
    """The name table lists queried names only; a rule for the canonical one does not match."""
    allowed = judge(known("www.example.com"), admin(by_name("www.example.com")), CLOSED)
    denied = judge(known("www.example.com"), admin(by_name("edge.cdn.example")), CLOSED)
    assert (allowed.verdict, denied.verdict) == ("allowed", "denied")


def test_ports_count_as_in_any_rule() -> None:
    named = admin(by_name("api.example.com")._replace(ports=HTTPS))
    names = known("api.example.com")
    assert judge(names, named, CLOSED).verdict == "allowed"
    assert judge(names, named, CLOSED, question=ask(WEB, outside(), 80)).verdict == "denied"


# -- 5: time -----------------------------------------------------------------------------------


def test_an_expired_answer_still_counts_and_the_strict_verdict_stands_beside() -> None:
    names = known(answered("api.stripe.com", ago=70, ttl=30))
    found = judge(names, admin(by_name("api.stripe.com")), CLOSED)
    assert found == (
        "allowed",
        "ClusterNetworkPolicy/payments egress[0]: api.stripe.com, queried 70 s before, TTL 30, "
        "expired 40 s before",
        "denied",
    )


def test_an_answer_is_valid_until_its_ttl_ends() -> None:
    named = admin(by_name("api.example.com"))
    found = judge(known(answered("api.example.com", 30, 30)), named, CLOSED)
    assert found.strict == "allowed"
    assert found.reason.endswith("api.example.com, queried 30 s before, TTL 30")
    late = known(answered("api.example.com", 30.001, 30))
    assert judge(late, named, CLOSED).strict == "denied"


@pytest.mark.parametrize(
    ("ago", "ttl", "words"),
    [
        (0, 0, "queried 0 s before, TTL 0"),
        (0.25, 0, "queried 0.2 s before, TTL 0, expired 0.2 s before"),
        (1, 1, "queried 1 s before, TTL 1"),
        (4000, 86400, "queried 4,000 s before, TTL 86,400"),
    ],
)
def test_seconds_in_the_evidence(ago: float, ttl: float, words: str) -> None:
    found = judge(known(answered("a.example", ago, ttl)), admin(by_name("a.example")), CLOSED)
    assert found.reason.endswith(f"a.example, {words}")


def test_an_expired_answer_does_not_matter_beside_a_valid_one() -> None:
    named = admin(by_name("*.example.com"))
    names = known(answered("old.example.com", 90, 30), answered("new.example.com", 2, 5))
    found = judge(names, named, CLOSED)
    assert found.strict == "allowed"
    assert found.reason.endswith("new.example.com, queried 2 s before, TTL 5")


def test_an_expired_answer_does_not_matter_if_another_rule_allows() -> None:
    also = Rule(0, ALLOW, (block("203.0.113.0/24"),))
    names = known(answered("api.example.com", 90, 30))
    assert judge(names, admin(by_name("api.example.com"), also), CLOSED).strict == "allowed"


# -- 6: trust ----------------------------------------------------------------------------------


def test_a_resolver_that_is_not_trusted_allows_nothing() -> None:
    host = policy(
        "h",
        kind="HostPolicy",
        subject=HostSubject(EVERYTHING),
        egress=rules(by_name("api.example.com")),
    )
    names = known(answered("api.example.com", trusted=False))
    client = PolicyEndpoint(HOST, ips=(ip("10.99.0.9"),), unit="app.service")
    found = judge(names, host, question=ask(client, outside(), 443))
    assert found.verdict == "denied"
    assert found.reason.endswith(
        "nearest HostPolicy/h egress[0]: 203.0.113.9 is api.example.com only by a resolver that is "
        "not trusted"
    )
    assert judge(names, admin(by_name("api.example.com")), CLOSED).verdict == "denied"


def test_the_rule_allows_no_dns() -> None:
    resolver = ask(WEB, outside("10.99.0.53"), 53)
    assert (
        judge(known(), admin(by_name("api.example.com")), CLOSED, question=resolver).verdict
        == "denied"
    )


def test_address_hints_of_service_records_do_not_count() -> None:
    """Only A and AAAA answers do: an HTTPS record may name any address."""
    hint = answered("api.example.com")._replace(is_hint=True)
    assert judge(known(hint), admin(by_name("api.example.com")), CLOSED).verdict == "denied"


def test_a_dot_within_a_label_ends_no_label() -> None:
    """``evil.example`` as one label before ``com`` is no name below ``example.com``."""
    labels = read_labels(b"\x0cevil.example\x03com\0", 0)[0]
    name = name_text(labels)
    assert not name.endswith(".example.com")
    assert judge(known(name), admin(by_name("*.example.com")), CLOSED).verdict == "denied"
