# SPDX-License-Identifier: Apache-2.0
"""Words for rules by domain name: the answer that makes one match, or what is missing."""

from podtally.dns.known_names import Answered, KnownNames, missing_causes
from podtally.policy.domain_patterns import matches
from podtally.policy.explain.formatting import format_endpoint, format_rule, join_words
from podtally.policy.model import DirectionVerdict, DomainPeer, Policy, Rule
from podtally.policy.reference.matching import RuleInput, matching_answer, peer_matches

_MAX_NAMES = 4  # of a rule or an address, in a message


def evidence(rule: Rule, policy: Policy, conn: RuleInput) -> str:
    """Return the answer by which a rule matches, after a colon; "" if it matches without."""
    found: Answered | None = None
    for peer in rule.peers or ():
        if not peer_matches(peer, policy, conn):
            continue
        answer = matching_answer(peer, conn.names) if isinstance(peer, DomainPeer) else None
        if answer is None:
            return ""
        if found is None or answer.expires > found.expires:
            found = answer
    return "" if found is None else f": {format_answer(found, conn.names)}"


def format_answer(answer: Answered, names: KnownNames) -> str:
    """Format an answer as evidence: ``api.example.com, queried 12 s before, TTL 30``."""
    age, ttl = names.at - answer.answered, answer.expires - answer.answered
    words = f"{answer.name}, queried {_seconds(age)} s before, TTL {_seconds(ttl)}"
    if answer.expires < names.at:
        words += f", expired {_seconds(names.at - answer.expires)} s before"
    return words


def strict_words(strict: str) -> str:
    """Return what a reason adds if the strict verdict differs."""
    return f"{strict} where the TTLs of DNS answers are enforced"


def with_strict(reason: str, verdict: str, strict: str) -> str:
    """Return the reason, with the strict verdict if it differs."""
    return reason if verdict == strict else f"{reason}; {strict_words(strict)}"


def expired_words(outcome: DirectionVerdict, conn: RuleInput) -> str:
    """Return which rule allows by which expired name: the same for every such connection."""
    if outcome.rule is None:
        return ""
    policy = outcome.policies[0]
    peers = (peer for peer in outcome.rule.peers or () if isinstance(peer, DomainPeer))
    answers = (matching_answer(peer, conn.names) for peer in peers)
    name = next((answer.name for answer in answers if answer is not None), "")
    return f"{format_rule(policy, outcome.rule, conn.direction)}: the answer for {name} had expired"


def domain_doubt(peer: DomainPeer, conn: RuleInput) -> str:
    """Say what is unknown that decides whether the peer matches."""
    answer = matching_answer(peer, conn.names)
    if answer is not None:
        return f"{answer.name} matches, but the API defines names only in rules that allow"
    who = format_endpoint(conn.peer, conn.peer_ip)
    why = join_words(missing_causes(conn.names.missing), "and")
    return f"whether {_listed(peer)} resolves to {who} is unknown: {why}"


def domain_mismatch(peer: DomainPeer, conn: RuleInput) -> str:
    """Say why the peer does not match."""
    who = format_endpoint(conn.peer, conn.peer_ip)
    answers = conn.names.answers
    unverified = [
        answer.name
        for answer in answers
        if not answer.trusted and any(matches(pattern, answer.name) for pattern in peer.names)
    ]
    if unverified:
        return f"{who} is {unverified[0]} only by a resolver that is not trusted"
    if not answers:
        return f"{who} was in no DNS answer, so it is not {_listed(peer)}"
    known = sorted({answer.name for answer in answers})
    return f"{who} is {join_words(known, 'and', _MAX_NAMES)}, not {_listed(peer)}"


def _listed(peer: DomainPeer) -> str:
    return join_words(list(peer.names), "or", _MAX_NAMES)


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 1 or seconds == 0 else f"{seconds:.1g}"
