# SPDX-License-Identifier: Apache-2.0
"""What the API and the commands show of DNS: the latest questions, and the answers for a name."""

import argparse
import io
import time
from ipaddress import IPv6Address

import pytest

from podtally.api import schema
from podtally.api.dns_lookup import SeenDns
from podtally.api.dns_schema import DnsQueries, DnsQuery
from podtally.commands import resolve
from podtally.commands.shared.tables import Style
from podtally.commands.traffic import dns_table
from podtally.dns.domain_table import NO_DOMAINS
from podtally.dns.peer_naming import DomainInputs
from podtally.dns.tracker import Answer, RecentQuery
from podtally.errors import PodtallyError
from podtally.kernel.captured import HOST
from tests.unit.dns_messages import RESOLVER, mapped
from tests.unit.lookup_host import SECOND, shop
from tests.unit.lookup_host import Host as LookupHost

WEB, DB, GONE = 7, 8, 99
OWN = mapped("10.99.0.66")  # a resolver that is not trusted
NAME = "api.stripe.com"


def ago(seconds: float) -> int:
    return time.monotonic_ns() - int(seconds * SECOND)


def asked(
    seconds_ago: float, endpoint: int = WEB, rcode: int = 0, **changes: object
) -> RecentQuery:
    took = -1 if rcode < 0 else 2_500_000
    made = RecentQuery(ago(seconds_ago), endpoint, RESOLVER, NAME, 1, rcode, took)
    return made._replace(**changes)  # type: ignore[arg-type]


def _packed(address: str) -> bytes:
    return IPv6Address(address).packed if ":" in address else mapped(address)


def answer(address: str, seconds_ago: float, **changes: object) -> Answer:
    chain = ("cname.stripe.com",)
    made = Answer(WEB, ago(seconds_ago), RESOLVER, NAME, chain, (_packed(address),), 30)
    return made._replace(**changes)  # type: ignore[arg-type]


def host(*answers: Answer, recent: tuple[RecentQuery, ...] = ()) -> LookupHost:
    made, table = shop(), NO_DOMAINS.updated(answers, time.monotonic_ns())
    inputs = DomainInputs(
        table=table,
        trusted=table.trust({RESOLVER}),
        trusted_resolvers=frozenset({RESOLVER}),
        is_on=True,
    )
    made.dns = SeenDns(inputs, recent=recent)
    return made


def queries(made: LookupHost, **words: str) -> DnsQueries:
    return made.answers.dns({name: [value] for name, value in words.items()})


# -- the latest questions --------------------------------------------------------------------


def test_questions_have_the_names_of_their_senders() -> None:
    made = host(recent=(asked(3), asked(2, DB, 3, resolver=OWN, type=64), asked(1, HOST, -1)))
    found = queries(made).queries
    assert [(q.namespace, q.pod, q.workload) for q in found] == [
        ("", "host", "host"),
        ("shop", "db-0", "db"),
        ("shop", "web-0", "web"),
    ]
    assert [(q.type, q.rcode, q.trusted) for q in found] == [
        ("A", "unanswered", True),
        ("SVCB", "NXDOMAIN", False),
        ("A", "NOERROR", True),
    ]
    assert [q.seconds for q in found] == [None, 0.0025, 0.0025]
    assert [q.resolver for q in found] == ["10.99.0.53", "10.99.0.66", "10.99.0.53"]
    assert found[2].interface == "veth7"


def test_of_an_interface_that_is_gone_nothing_is_guessed() -> None:
    (found,) = queries(host(recent=(asked(1, GONE, 23, type=4711),))).queries
    assert (found.namespace, found.pod) == ("unknown", "unknown")
    assert (found.type, found.rcode) == ("TYPE4711", "RCODE23")


def test_what_is_chosen() -> None:
    made = host(recent=(asked(4), asked(3, HOST, 2), asked(2, DB, 3), asked(1, WEB, -1)))
    assert [q.rcode for q in queries(made, failed="1").queries] == [
        "unanswered",
        "NXDOMAIN",
        "SERVFAIL",
    ]
    chosen = queries(made, failed="1", namespace="shop")
    assert [q.pod for q in chosen.queries] == ["web-0", "db-0"]
    one = queries(made, namespace="shop", limit="1")
    assert ([q.pod for q in one.queries], one.remembered, one.left_off) == (["web-0"], 4, 2)


@pytest.mark.parametrize("limit", ["0", "-1", "x", "8193", "1" * 5000, "²"])
def test_a_limit_is_a_number_within_bounds(limit: str) -> None:
    with pytest.raises(PodtallyError, match="invalid limit"):
        queries(host(), limit=limit)


def test_without_capture_it_is_an_error() -> None:
    with pytest.raises(PodtallyError, match="DNS is not captured"):
        shop().answers.dns({})
    with pytest.raises(PodtallyError, match="DNS is not captured"):
        shop().answers.names({"name": [NAME]})


def test_over_http() -> None:
    made = host(answer("203.0.113.7", 1), recent=(asked(1),))
    router = schema.ApiRouter(made.answers, None)  # type: ignore[arg-type]
    assert router.reply(schema.DNS, "limit=1").status == 200
    assert b'"203.0.113.7"' in router.reply(schema.NAMES, f"name={NAME}").body
    assert router.reply(schema.DNS, "limit=0").status == 400
    assert router.reply(schema.NAMES, "").status == 400
    assert router.reply(schema.NAMES, f"name={NAME}&at=never").status == 400


# -- the answers for a name --------------------------------------------------------------------


def named(made: LookupHost, name: str = NAME, seconds_ago: float | None = None) -> list[str]:
    words = {"name": [name]}
    if seconds_ago is not None:
        at = time.time() - seconds_ago
        words["at"] = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))]
    return [f"{each.pod} {each.address}" for each in made.answers.names(words).answers]


def test_each_endpoint_has_its_own_answers() -> None:
    made = host(
        answer("203.0.113.7", 60),
        answer("203.0.113.9", 20),
        answer("2001:db8::9", 10, endpoint=HOST),
        answer("203.0.113.1", 5, name="www.stripe.com"),
    )
    wanted = ["host 2001:db8::9", "web-0 203.0.113.9", "web-0 203.0.113.7"]
    assert named(made) == wanted
    assert named(made, "API.Stripe.com.") == wanted
    assert named(made, "stripe.com") == []


def test_what_was_known_at_a_time() -> None:
    made = host(answer("203.0.113.7", 600), answer("203.0.113.7", 400), answer("203.0.113.9", 100))
    assert named(made) == ["web-0 203.0.113.9", *["web-0 203.0.113.7"] * 2]
    assert named(made, seconds_ago=200) == ["web-0 203.0.113.7"]
    assert named(made, seconds_ago=900) == []
    words = {"name": [NAME], "limit": ["1"]}
    assert made.answers.names(words).left_off == 2


def test_an_answer_has_its_evidence() -> None:
    made = host(
        answer("203.0.113.7", 60),
        answer("203.0.113.9", 10, resolver=OWN, chain=()),
        answer("203.0.113.8", 5, is_hint=True),
    )
    hint, own, old = made.answers.names({"name": [NAME]}).answers
    assert (old.trusted, old.expired, old.hint, old.ttl) == (True, True, False, 30)
    assert (old.chain, old.resolver, old.workload) == (["cname.stripe.com"], "10.99.0.53", "web")
    assert (own.trusted, own.expired, own.chain) == (False, False, [])
    assert (hint.trusted, hint.hint) == (True, True)
    out = io.StringIO()
    resolve.show_answers([hint, own, old], out)
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [line[4] for line in lines] == ["TRUST", "hint", "untrusted", "trusted"]
    assert lines[3][:4] == ["shop", "web-0", "203.0.113.7", "10.99.0.53"]
    assert lines[3][7].endswith(",expired")


@pytest.mark.parametrize("text", ["10.0.0.300", "1.2.3", "web", "shop/web", "2001:db8::x"])
def test_what_is_not_a_name_is_an_invalid_address(text: str) -> None:
    args = argparse.Namespace(address=text, at=None, config=None, listen="127.0.0.1:1")
    with pytest.raises(PodtallyError, match="invalid IP address"):
        resolve.main(args)


# -- tables ------------------------------------------------------------------------------------


def table(*rows: DnsQuery, style: Style) -> list[str]:
    return dns_table.live(DnsQueries(list(rows), len(rows)), None, style, "podtally dns")


def test_alike_questions_are_one_line() -> None:
    recent = tuple(asked(each, duration_ns=each * 1_000_000) for each in (3, 2, 1))
    found = queries(host(recent=(*recent, asked(0, DB, -1, resolver=OWN)))).queries
    out = io.StringIO()
    dns_table.once(DnsQueries(found, 4), None, out)
    head, *lines = [line.split() for line in out.getvalue().splitlines()]
    assert head[4] == "ANSWER"
    assert lines[0][:8] == [
        *("shop", "web", NAME, "A", "NOERROR", "3", "2.0ms", "3.0ms"),
    ]
    assert lines[1][:9] == [
        *("shop", "db", NAME, "A", "unanswered", "1", "-", "-", "10.99.0.66!"),
    ]


def test_a_terminal_gets_what_fits() -> None:
    recent = tuple(asked(1, name=f"n{each}.example.com", rcode=2) for each in range(40))
    found = queries(host(recent=recent)).queries
    lines = table(*found, style=Style(60, colour=True, rows=12))
    assert len(lines) <= 12
    assert "and 33 more" in lines
    assert "40 failed" in lines[-1]
    assert "\x1b[31;1mSERVFAIL" in "".join(lines)
    plain = table(*found, style=Style(60, colour=False, rows=12))
    assert max(map(len, plain)) <= 60


def test_names_cannot_control_the_terminal() -> None:
    found = queries(host(recent=(asked(1, name="a\x1b[2J.example"),))).queries
    out = io.StringIO()
    dns_table.once(DnsQueries(found, 1), None, out)
    live = table(*found, style=Style(200, colour=False))
    assert "\x1b" not in out.getvalue() + "".join(live)
