# SPDX-License-Identifier: Apache-2.0
"""DNS by workload in the metrics; which resolvers are trusted; networks by domain."""

from pathlib import Path

import dns.rcode
import pytest

from podtally.config.kinds import SettingError, networks, split_networks
from podtally.dns.peer_naming import DomainInputs
from podtally.dns.tracker import ANSWER_NS, DnsTracker
from podtally.identity.model import UNKNOWN_ENDPOINT
from podtally.identity.services import NO_SERVICES
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.domains.dns_booking import MAX_RESOLVERS
from podtally.ledger.metrics.dns_families import DNS_BYPASS, DNS_QUERIES, DNS_SECONDS, DNS_TROUBLE
from podtally.runtime.trusted_resolvers import TrustedResolvers
from tests.unit.dns_messages import RESOLVER, mapped, query, received, response, sent
from tests.unit.ledger.ledger_support import contents
from tests.unit.rows import SECOND, make_ledger, names

TRUSTED = DomainInputs(is_on=True, trusted_resolvers=frozenset({RESOLVER}))


def context(now_ns: int = 2 * SECOND, **changes: object) -> EpochContext:
    return EpochContext(names(**changes), now_ns, domains=TRUSTED)  # type: ignore[arg-type]


def test_questions_are_counted_under_their_workload() -> None:
    tracker, ledger = DnsTracker(), make_ledger()
    for number, code in ((1, 0), (2, 0), (3, 3)):
        asked = query("api.example.com", number=number)
        answer = response(asked)
        answer.set_rcode(dns.rcode.Rcode(code))
        tracker.add(sent(asked))
        tracker.add(received(answer))
    tracker.add(sent(query("lost.example.com", "AAAA", 4)))
    tracker.add(received(response(query("unasked.example.com", number=9))))
    tracker.note_lost({sent(query("a.example")).endpoint: 23})
    ledger.book_dns(tracker.take(2 * SECOND + ANSWER_NS), context())
    view = ledger.view()
    own = ("shop", "web", "10.99.0.53")
    assert contents(view[DNS_QUERIES]) == {
        (*own, "A", "NOERROR"): [2],
        (*own, "A", "NXDOMAIN"): [1],
        (*own, "AAAA", "unanswered"): [1],
    }
    assert contents(view[DNS_SECONDS]) == {("shop", "web"): [3, *[0] * 12, 3_000_000]}
    assert contents(view[DNS_TROUBLE]) == {
        ("shop", "web", "unsolicited"): [1],
        ("shop", "web", "lost"): [23],
    }
    assert not contents(view[DNS_BYPASS])


def test_untrusted_resolvers_are_counted_and_bounded() -> None:
    tracker, ledger = DnsTracker(), make_ledger()
    for number in range(2 * MAX_RESOLVERS):
        asked, rogue = query("api.example.com", number=number), mapped(f"203.0.113.{number + 1}")
        tracker.add(sent(asked, remote=rogue))
        tracker.add(received(response(asked), remote=rogue))
    ledger.book_dns(tracker.take(2 * SECOND), context())
    counted = contents(ledger.view()[DNS_BYPASS])
    assert len(counted) == MAX_RESOLVERS + 1
    assert counted["shop", "web", "other"] == [MAX_RESOLVERS]


def test_what_an_endpoint_without_a_name_asked_waits() -> None:
    tracker, ledger = DnsTracker(), make_ledger()
    asked = query("api.example.com")
    tracker.add(sent(asked))
    tracker.add(received(response(asked)))
    nameless = {7: UNKNOWN_ENDPOINT._replace(final=False)}
    ledger.book_dns(tracker.take(2 * SECOND), context(endpoints=nameless))
    assert not contents(ledger.view()[DNS_QUERIES])
    ledger.book_dns(tracker.take(3 * SECOND), context(3 * SECOND))
    assert contents(ledger.view()[DNS_QUERIES]) == {
        ("shop", "web", "10.99.0.53", "A", "NOERROR"): [1]
    }


def test_trusted_resolvers(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "search example.com\nnameserver 198.18.0.53\nnameserver fe80::1%eth0\nnameserver\n"
    )
    found = TrustedResolvers(["203.0.113.53", "2001:db8::53"], [file, tmp_path / "missing"]).now(
        NO_SERVICES
    )
    assert {mapped("198.18.0.53"), mapped("203.0.113.53"), mapped("169.254.20.10")} <= found
    assert bytes.fromhex("20010db8000000000000000000000053") in found
    assert mapped("10.99.0.53") not in found


def test_networks_by_domain() -> None:
    given = networks(
        {
            "office": "203.0.113.0/24",
            "payments": {"domains": ["*.Stripe.com."], "addresses": ["198.18.0.0/16"]},
        }
    )
    assert split_networks(given) == (
        {"office": ("203.0.113.0/24",), "payments": ("198.18.0.0/16",)},
        {"payments": ("*.stripe.com",)},
    )


@pytest.mark.parametrize(
    "value",
    [
        {"domain": "a.example"},
        {"domains": "a b"},
        {"domains": "*.*.example"},
        {},
        {"addresses": "x"},
    ],
)
def test_wrong_networks(value: object) -> None:
    with pytest.raises(SettingError) as raised:
        networks({"payments": value})
    assert raised.value.steps[0] == "payments"
