# SPDX-License-Identifier: Apache-2.0
"""By which name a connection's endpoint found its peer, from the answer to the label."""

import numpy as np
import pytest

from podtally.dns.domain_labels import AMBIGUOUS_LABEL, UNVERIFIED_LABEL, DomainLabels
from podtally.dns.domain_table import NO_DOMAINS
from podtally.dns.known_names import FORGOTTEN, MESSAGES_LOST, SEEN_LATE
from podtally.dns.peer_naming import DomainInputs
from podtally.dns.server_names import NO_SERVER_NAMES, HelloTracker
from podtally.dns.tracker import Answer
from podtally.kernel.captured import TCP as TCP_PROTOCOL
from podtally.kernel.captured import Captured
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.domains.domain_shares import MAX_DOMAINS
from podtally.ledger.domains.peer_domains import NO_DOMAIN, PeerDomain, PeerDomains
from podtally.ledger.ledger import Ledger, Limits
from podtally.ledger.metrics.families import FLOWS
from podtally.ledger.series.label_sets import OTHER
from tests.unit.dns_messages import RESOLVER, client_hello, mapped
from tests.unit.ledger.ledger_support import contents
from tests.unit.rows import ACK, FLAGS, SECOND, SYN, Flow, book, from_here, names

WEB, DB = 7, 9
ADDRESS = "198.18.5.5"
ROGUE = mapped("10.99.0.66")
OPENED = Flow(
    remote=ADDRESS,
    seen=from_here(SYN) | ACK,
    first_seen_ns=5 * SECOND,
    bytes=(2000, 0),
    packets=(3, 0),
)


def answer(name: str, at: float = 1.0, address: str = ADDRESS, **changes: object) -> Answer:
    made = Answer(WEB, int(at * SECOND), RESOLVER, name, (), (mapped(address),), 30)
    return made._replace(**changes)  # type: ignore[arg-type]


def hello(name: str, flow: Flow = OPENED, at: float = 5.1) -> Captured:
    ends = (mapped(flow.local), mapped(flow.remote), flow.local_port, flow.remote_port)
    return Captured(
        flow.ifindex,
        int(at * SECOND),
        *ends,
        TCP_PROTOCOL,
        True,
        1,
        False,
        client_hello(name),
        True,
    )


def inputs(
    *answers: Answer, hellos: tuple[Captured, ...] = (), missing: int = 0, reads_tls: bool = True
) -> DomainInputs:
    table = NO_DOMAINS.updated(answers, 6 * SECOND)
    tracker = HelloTracker()
    for each in hellos:
        tracker.add(each)
    return DomainInputs(
        table=table,
        server_names=NO_SERVER_NAMES.updated(tracker.take(6 * SECOND), 6 * SECOND),
        trusted=table.trust({RESOLVER}),
        missing=missing,
        is_on=True,
        reads_tls=reads_tls,
    )


def make_ledger(labels: DomainLabels | None = None) -> Ledger:
    limits = Limits(10_000, 10_000, 300 * SECOND)
    ledger = Ledger(FLAGS, limits, keep_closed=True, domains=labels)
    ledger.interfaces.appeared(WEB, "veth7", (0, 0))
    ledger.interfaces.attached(WEB, True, (0, 0))
    return ledger


def context(domains: DomainInputs, now: float = 6.0) -> EpochContext:
    return EpochContext(names(), int(now * SECOND), domains=domains)


def turn(ledger: Ledger, flows: list[Flow], present: EpochContext) -> None:
    """Book an epoch."""
    if flows:
        book(ledger, present, flows, present.now_ns)
    ledger.settle(present, ())


def named(
    domains: DomainInputs, flow: Flow = OPENED, labels: DomainLabels | None = None
) -> PeerDomain:
    """Return the domain of a connection, and check that the label shows it."""
    ledger = make_ledger(labels)
    turn(ledger, [flow], context(domains))
    domain = ledger.domains.values[max(int(ledger.connections.columns.domain[0]), NO_DOMAIN)]
    shown = {each.peer_domain for each in contents(ledger.view()[FLOWS])}
    assert shown == {domain.label}
    return domain


def test_the_name_that_was_asked_for() -> None:
    found = named(inputs(answer("api.eu.example.co.uk", chain=("cdn.example.net",))))
    assert found == PeerDomain("api.eu.example.co.uk", "dns", "cdn.example.net", "example.co.uk")


def test_nothing_was_asked() -> None:
    assert named(inputs()) == PeerDomain("", "")
    assert named(inputs(answer("late.example.com", at=5.5))) == PeerDomain("", "")
    assert named(inputs(answer("other.example.com", endpoint=DB))) == PeerDomain("", "")


def test_without_names_there_is_no_label() -> None:
    assert named(DomainInputs()) == PeerDomain("", "")


def test_an_answer_that_has_expired() -> None:
    found = named(inputs(answer("api.example.com", ttl=1)))
    assert (found.name, found.source, found.label) == ("api.example.com", "expired", "example.com")


def test_several_names_of_one_domain() -> None:
    found = named(inputs(answer("a.example.com"), answer("b.example.com", at=2.0)))
    assert (found.name, found.source, found.label) == ("b.example.com", "ambiguous", "example.com")


def test_several_domains_are_not_guessed() -> None:
    found = named(inputs(answer("a.example.com"), answer("b.example.net", at=2.0)))
    assert (found.name, found.source, found.label) == (
        "b.example.net",
        "ambiguous",
        AMBIGUOUS_LABEL,
    )


def test_tls_decides() -> None:
    answers = (answer("a.example.com"), answer("b.example.net", at=2.0))
    found = named(inputs(*answers, hellos=(hello("a.example.com"),)))
    assert (found.name, found.source, found.label) == ("a.example.com", "dns", "example.com")


def test_tls_alone_names_what_may_have_been_asked_unseen() -> None:
    found = named(inputs(hellos=(hello("doh.example.com"),), missing=2))
    assert (found.name, found.source, found.label) == ("doh.example.com", "tls", "example.com")


def test_tls_alone_proves_nothing_where_all_dns_was_seen() -> None:
    found = named(inputs(hellos=(hello("www.bank.example"),)))
    assert (found.name, found.source, found.label) == ("www.bank.example", "tls", UNVERIFIED_LABEL)


@pytest.mark.parametrize("missing", [MESSAGES_LOST, FORGOTTEN, MESSAGES_LOST | FORGOTTEN])
def test_what_an_endpoint_causes_itself_does_not_vouch_for_its_server_names(missing: int) -> None:
    """An endpoint that floods DNS, and sends any server name: it is not the domain's traffic."""
    found = named(inputs(hellos=(hello("www.bank.example"),), missing=missing))
    assert (found.name, found.source, found.label) == ("www.bank.example", "tls", UNVERIFIED_LABEL)
    found = named(inputs(hellos=(hello("doh.example.com"),), missing=missing | SEEN_LATE))
    assert found.label == "example.com"


def test_an_untrusted_resolver_vouches_for_nothing() -> None:
    found = named(inputs(answer("www.bank.example", resolver=ROGUE)))
    assert (found.name, found.source, found.label) == (
        "www.bank.example",
        "unverified",
        UNVERIFIED_LABEL,
    )


def test_a_server_name_of_an_earlier_connection_on_these_ports() -> None:
    found = named(inputs(answer("a.example.com"), hellos=(hello("old.example.net", at=4.0),)))
    assert found.name == "a.example.com"


@pytest.mark.parametrize(
    ("mode", "label"),
    [
        ("full", "api.example.com"),
        ("registrable", "example.com"),
        ("declared", "*.example.com"),
        ("off", ""),
    ],
)
def test_modes(mode: str, label: str) -> None:
    labels = DomainLabels(mode, {"payments": ("*.example.com",)})
    found = named(inputs(answer("api.example.com")), labels=labels)
    assert (found.label, found.network) == (label, "payments")


def test_a_network_by_domain_names_the_peer() -> None:
    ledger = make_ledger(DomainLabels(declared={"payments": ("*.example.com",)}))
    turn(ledger, [OPENED], context(inputs(answer("api.example.com"))))
    assert {each.peer_workload for each in contents(ledger.view()[FLOWS])} == {"payments"}


def test_an_untrusted_answer_makes_no_network() -> None:
    ledger = make_ledger(DomainLabels(declared={"payments": ("*.example.com",)}))
    turn(ledger, [OPENED], context(inputs(answer("api.example.com", resolver=ROGUE))))
    assert {each.peer_workload for each in contents(ledger.view()[FLOWS])} == {""}


def test_a_connection_without_data_waits_for_its_server_name() -> None:
    ledger = make_ledger()
    answers = (answer("a.example.com"), answer("b.example.net", at=2.0))
    syn = OPENED._replace(seen=from_here(SYN), bytes=(74, 0), packets=(1, 0))
    turn(ledger, [syn], context(inputs(*answers), 5.1))
    assert not contents(ledger.view()[FLOWS])
    data = OPENED._replace(seen=ACK, bytes=(2000, 0), packets=(2, 0))
    turn(ledger, [data], context(inputs(*answers, hellos=(hello("a.example.com"),)), 7.0))
    (labels, sums), _ = contents(ledger.view()[FLOWS]).items()
    assert (labels.peer_domain, sums) == ("example.com", [2074, 3, 1])


def test_without_tls_it_waits_no_longer_than_a_moment() -> None:
    ledger = make_ledger()
    syn = OPENED._replace(seen=from_here(SYN), bytes=(74, 0), packets=(1, 0))
    turn(ledger, [syn], context(inputs(), 5.1))
    assert not contents(ledger.view()[FLOWS])
    turn(ledger, [], context(inputs(), 5.15))
    assert {each.peer_domain for each in contents(ledger.view()[FLOWS])} == {""}


def test_a_connection_keeps_its_name() -> None:
    ledger = make_ledger()
    turn(ledger, [OPENED], context(inputs(answer("api.example.com"))))
    ledger.rename([WEB])
    turn(
        ledger, [OPENED._replace(seen=ACK)], context(inputs(answer("b.example.net", at=2.0)), 60.0)
    )
    assert {each.peer_domain for each in contents(ledger.view()[FLOWS])} == {"example.com"}


def test_the_checkpoint_keeps_names_and_older_ones_have_none() -> None:
    before = make_ledger()
    turn(before, [OPENED], context(inputs(answer("api.example.com"))))
    saved = before.save()
    after = make_ledger()
    after.load(saved, 7 * SECOND)
    assert after.domains.values[int(after.connections.columns.domain[0])].name == "api.example.com"
    del saved["domains"]
    arrays = {name: each for name, each in saved["connections"].arrays.items() if name != "domain"}
    saved["connections"] = saved["connections"]._replace(arrays=arrays)
    older = make_ledger()
    older.load(saved, 7 * SECOND)
    assert older.connections.columns.domain.tolist() == [0]


def test_a_workload_shows_a_bounded_number_of_domains() -> None:
    ledger, answers, flows = make_ledger(), [], []
    for i in range(2 * MAX_DOMAINS):
        address = f"198.18.{i // 250}.{i % 250 + 1}"
        answers.append(answer(f"www.n{i}.com", address=address))
        flows.append(OPENED._replace(remote=address, remote_port=443, local_port=1000 + i))
    turn(ledger, sorted(flows, key=lambda each: each.fingerprint), context(inputs(*answers)))
    sums = contents(ledger.view()[FLOWS])
    shown = {each.peer_domain for each in sums}
    assert len(shown - {OTHER}) <= MAX_DOMAINS
    assert OTHER in shown
    assert sum(each[0] for each in sums.values()) == 2 * MAX_DOMAINS * 2000


def test_unused_numbers_are_given_out_again() -> None:
    domains = PeerDomains()
    numbers = [domains.number(PeerDomain(f"n{i}.example", "dns")) for i in range(5000)]
    column = np.array([numbers[7], numbers[4000], 0, -1], np.int32)
    assert domains.prune(column)
    assert [domains.values[i].name for i in column[:3].tolist()] == [
        "n7.example",
        "n4000.example",
        "",
    ]
    assert column[3] == -1
    assert len(domains.values) == 4
