# SPDX-License-Identifier: Apache-2.0
"""What several nodes report is merged: a connection once, sums exact, whoever is missing."""

import random
from collections import Counter

from podtally.api.schema import (
    AddressOwner,
    CandidateRow,
    Candidates,
    Explanation,
    Flows,
    ResolveReply,
)
from podtally.commands.traffic.conversations import (
    Book,
    BookPage,
    Conversation,
    ConversationCounts,
    TrafficSnapshot,
    totals,
)
from podtally.plugin import candidates, explain, flows, resolve
from podtally.plugin.fleet import NodeReply
from podtally.plugin.merged_traffic import fold, merge

A_TO_B = Conversation(
    "shop", "a", "Deployment", "pod", "data", "b", "cluster", "tcp", "80", "allowed"
)
B_TO_A = Conversation(
    "data", "b", "StatefulSet", "pod", "shop", "a", "cluster", "tcp", "80", "allowed"
)
OUT = A_TO_B._replace(peer_kind="external", peer_namespace="", peer_workload="", scope="internet")
WITHIN = A_TO_B._replace(peer_namespace="shop", peer_workload="a")


def snapshot(
    conversations: dict[Conversation, ConversationCounts], gap: int | None = 0
) -> TrafficSnapshot:
    book = Book(BookPage("eth0", "egress"), {"flows": 100}, gap)
    return TrafficSnapshot(1.0, conversations, (book,), totals(conversations))


def test_a_connection_between_two_nodes_is_there_once() -> None:
    client = snapshot(
        {A_TO_B: ConversationCounts(1000, 4000, 23, 0), OUT: ConversationCounts(7, 8, 2, 0)}
    )
    server = snapshot({B_TO_A: ConversationCounts(4000, 1000, 0, 23)}, gap=5)
    for nodes in ({"n1": client, "n2": server}, {"n2": server, "n1": client}):
        merged = merge(nodes)
        assert merged.conversations == {
            A_TO_B: ConversationCounts(1000, 4000, 23, 0),
            OUT: ConversationCounts(7, 8, 2, 0),
        }
        assert merged.totals["allowed"] == (totals(merged.conversations))["allowed"]
        assert (merged.totals["allowed"].connections, merged.totals["allowed"].bytes) == (25, 5015)
        assert merged.book_summary().bytes == 200
        (gap,) = merged.book_summary().gaps
        assert (gap.interface, gap.bytes) == ("n2/eth0", 5)


def test_either_end_alone_is_enough() -> None:
    assert fold({A_TO_B: ConversationCounts(1000, 4000, 23, 0)}) == {
        A_TO_B: ConversationCounts(1000, 4000, 23, 0)
    }
    assert fold({B_TO_A: ConversationCounts(4000, 1000, 0, 23)}) == {
        B_TO_A: ConversationCounts(4000, 1000, 0, 23)
    }


def test_what_one_end_lacks_the_other_has() -> None:
    """Two of the client's nodes are missing: the server saw more."""
    folded = fold({
        A_TO_B: ConversationCounts(100, 400, 3, 0), B_TO_A: ConversationCounts(4000, 1000, 0, 23)
    })  # fmt: skip
    assert folded == {A_TO_B: ConversationCounts(1000, 4000, 23, 0)}


def test_failures_are_added_and_counted_once() -> None:
    assert merge({
        "n1": snapshot({A_TO_B: ConversationCounts(1, 2, 3, 0, 1)}),
        "n2": snapshot({A_TO_B: ConversationCounts(1, 2, 3, 0, 2)}),
        "n3": snapshot({B_TO_A: ConversationCounts(4, 2, 0, 6, 3)}),
    }).conversations == {A_TO_B: ConversationCounts(2, 4, 6, 0, 3)}  # fmt: skip


def test_both_may_open_connections() -> None:
    folded = fold({
        A_TO_B: ConversationCounts(100, 400, 3, 5), B_TO_A: ConversationCounts(400, 100, 5, 3)
    })  # fmt: skip
    assert folded == {B_TO_A: ConversationCounts(400, 100, 5, 3)}
    even = {A_TO_B: ConversationCounts(1, 1, 2, 2), B_TO_A: ConversationCounts(1, 1, 2, 2)}
    assert len(fold(even)) == 1


def test_replicas_of_one_workload_count_their_connections_once() -> None:
    assert fold({WITHIN: ConversationCounts(5000, 5000, 23, 23)}) == {
        WITHIN: ConversationCounts(5000, 0, 23, 0)
    }


def test_another_verdict_or_scope_is_another_conversation() -> None:
    for other in (B_TO_A._replace(verdict="denied"), B_TO_A._replace(scope="node")):
        both = {A_TO_B: ConversationCounts(1, 2, 3, 0), other: ConversationCounts(2, 1, 0, 3)}
        assert fold(both) == both


def test_workloads_of_one_name_and_two_kinds_are_not_confused() -> None:
    twins = {
        A_TO_B: ConversationCounts(1, 2, 3, 0),
        A_TO_B._replace(workload_kind="DaemonSet"): ConversationCounts(10, 20, 30, 0),
        B_TO_A: ConversationCounts(22, 11, 0, 33),
    }
    assert fold(twins) == twins


def test_random_clusters_add_up() -> None:
    """Connections are made, each end is counted on its node; the merged sums are the truth."""
    dice = random.Random(12)
    for _ in range(50):
        workloads = [("ns", f"w{number}") for number in range(6)]
        truth: Counter[tuple[str, str]] = Counter()
        nodes: dict[str, dict[Conversation, list[int]]] = {f"n{number}": {} for number in range(4)}
        for _ in range(40):
            (_, a), (_, b) = dice.sample(workloads, 2)
            sent, received = dice.randrange(1000), dice.randrange(1000)
            truth["bytes", ""] += sent + received
            truth["connections", ""] += 1
            for here, there, columns in (
                (a, b, (sent, received, 1, 0)),
                (b, a, (received, sent, 0, 1)),
            ):
                key = Conversation(
                    "ns", here, "Deployment", "pod", "ns", there, "cluster", "tcp", "80", "allowed"
                )
                counts = nodes[dice.choice(list(nodes))].setdefault(key, [0, 0, 0, 0])
                counts[:] = [now + more for now, more in zip(counts, columns, strict=True)]
        merged = merge({
            node: snapshot({key: ConversationCounts(*each) for key, each in counts.items()})
            for node, counts in nodes.items()
        })  # fmt: skip
        total = merged.totals["allowed"]
        assert (total.bytes, total.connections) == (truth["bytes", ""], truth["connections", ""])


def candidate(**changes: object) -> CandidateRow:
    row = CandidateRow(
        "shop",
        "a",
        "egress",
        "pod",
        "data",
        "b",
        "tcp",
        "80",
        "allowed",
        "denied",
        "data/b",
        "",
        23,
        500,
    )
    return CandidateRow(**({name: getattr(row, name) for name in row.__struct_fields__} | changes))


def test_candidates_are_summed_and_a_connection_counts_once() -> None:
    other_end = candidate(
        namespace="data",
        workload="b",
        direction="ingress",
        peer_namespace="shop",
        peer_workload="a",
    )
    alone = candidate(
        direction="ingress", peer_kind="external", peer_namespace="", peer_workload=""
    )
    merged = candidates.merge([
        NodeReply("n1", Candidates([], [candidate()])),
        NodeReply("n2", Candidates([], [candidate(connections=2, bytes=7), alone])),
        NodeReply("n3", Candidates([], [msg(other_end, 25, 507)])),
    ])  # fmt: skip
    assert [
        (row.workload, row.direction, row.connections, row.bytes) for row in merged.changes
    ] == [
        ("a", "egress", 25, 507),
        ("a", "ingress", 23, 500),
    ]
    named = [
        candidate(peer_kind="external", peer_domain=name) for name in ("a.example", "b.example")
    ]
    assert candidates.merge([NodeReply("n1", Candidates([], named))]).changes == named
    lonely = candidates.merge([NodeReply("n3", Candidates([], [other_end]))])
    assert len(lonely.changes) == 1


def test_rows_of_the_history_are_added_up_before_the_largest_are_chosen() -> None:
    def row(workload: str, sent: int, first: str, last: str) -> dict[str, object]:
        amount = {"egress": sent, "ingress": 1}
        return {
            "workload": workload, "connections": 2, "bytes": amount, "packets": amount,
            "first": first, "last": last, "cost_dollars": 0.5,
        }  # fmt: skip

    def reply(*rows: dict[str, object]) -> Flows:
        return Flows("2026-01-31T00:00:00Z", "2026-01-31T12:00:00Z", list(rows), len(rows))

    replies = [
        NodeReply("n1", reply(row("web", 10, "b", "c"), row("db", 15, "b", "c"))),
        NodeReply("n2", reply(row("web", 10, "a", "b"))),
    ]
    found = flows.merge(replies, "bytes", 1)
    (web,) = found.rows
    assert (web["workload"], web["connections"], web["bytes"]) == (
        "web",
        4,
        {"egress": 20, "ingress": 2},
    )
    assert (web["first"], web["last"], web["cost_dollars"], found.groups) == ("a", "c", 1.0, 2)
    assert [each["workload"] for each in flows.merge(replies, "last", 0).rows] == ["web", "db"]
    assert [each["workload"] for each in flows.merge(replies, "cost", 0).rows] == ["web", "db"]


def test_rows_by_node_have_the_names_of_the_cluster() -> None:
    def reply(sent: int) -> Flows:
        amount = {"egress": sent, "ingress": 0}
        row = {
            "node": "an.other.name", "workload": "web", "connections": 1, "bytes": amount,
            "packets": amount, "first": "a", "last": "b",
        }  # fmt: skip
        return Flows("2026-01-31T00:00:00Z", "2026-01-31T12:00:00Z", [row], 1)

    rows = flows.merge([NodeReply("n1", reply(1)), NodeReply("n2", reply(2))], "bytes", 0).rows
    assert [(row["node"], row["bytes"]["egress"]) for row in rows] == [("n2", 2), ("n1", 1)]
    assert next(iter(rows[0])) == "node"


def msg(row: CandidateRow, connections: int, size: int) -> CandidateRow:
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    return CandidateRow(**(fields | {"connections": connections, "bytes": size}))


def test_an_owner_is_named_once_as_the_nearest_node_knows_it() -> None:
    def said(scope: str, from_: str, until: str = "") -> AddressOwner:
        return AddressOwner("pod", "shop", "web-1", "web", scope, from_, until)

    merged = resolve.merge([
        NodeReply("n1", ResolveReply("10.0.0.7", "", [said("cluster", "2026-01-31T12:00:01Z")])),
        NodeReply("n2", ResolveReply("10.0.0.7", "", [said("node", "2026-01-31T12:00:00Z")])),
        NodeReply("n3", ResolveReply("10.0.0.7", "", [])),
    ])  # fmt: skip
    (owner,) = merged
    assert (owner.scope, owner.from_, owner.nodes) == ("node", "2026-01-31T12:00:00Z", 2)


def test_nodes_that_explain_otherwise_are_named() -> None:
    def said(verdict: str) -> Explanation:
        return Explanation("a", "b", "TCP", 80, verdict, verdict, verdict, f"by {verdict}", ())

    merged = explain.merge(
        [NodeReply("n1", said("denied")), NodeReply("n2", said("allowed")), NodeReply("n3", said("allowed"))], []
    )  # fmt: skip
    assert merged.explanation.verdict == "allowed"
    assert merged.nodes == ["n2", "n3"]
    assert [(each.node, each.verdict) for each in merged.differing] == [("n1", "denied")]
