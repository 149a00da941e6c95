# SPDX-License-Identifier: Apache-2.0
"""Batches of a history like that of a node: steady conversations, and some that come and go."""

from collections.abc import Iterator

import numpy as np

from podtally.ledger.recording.history_rows import MINUTE_NS, Batch, HistoryRows, RowLabels

WORKLOADS, PODS, PEERS = 20, 200, 50
FRESH = 0.02  # of the conversations of a minute: with an address outside that is new
START = 29_000_000  # a minute since 1970
_SEED = 23

LABELS = tuple(
    RowLabels(
        interface=f"veth{pod:08x}",
        account="flows",
        namespace=f"team-{pod % 5}",
        pod=f"web-{pod % WORKLOADS}-5d9f8c7b-{pod:05x}",
        uid=f"8a4f0c1e-0000-4000-8000-{pod:012x}",
        workload=f"web-{pod % WORKLOADS}",
        workload_kind="Deployment",
        peer_kind="external" if peer % 5 == 0 else "pod",
        peer_namespace="" if peer % 5 == 0 else f"team-{peer % 5}",
        peer_workload="" if peer % 5 == 0 else f"backend-{peer}",
        scope="internet" if peer % 5 == 0 else "zone",
        verdict="denied" if pod % 50 == 0 and peer == 0 else "allowed",
    )
    for pod in range(PODS)
    for peer in range(PEERS)
)


def batches(rows: int, per_minute: int, step: int = 1) -> Iterator[Batch]:
    """Yield batches of ``per_minute`` rows, every ``step`` minutes, ``rows`` rows in all."""
    rng = np.random.default_rng(_SEED)
    for number in range(-(-rows // per_minute)):
        yield _batch(rng, number, START + step * number, per_minute)


def _batch(rng: np.random.Generator, number: int, minute: int, count: int) -> Batch:
    label = (rng.permutation(2 * count) % len(LABELS))[:count].astype(np.int32)
    raw = np.zeros((count, 16), np.uint8)
    raw[:, 10:12], raw[:, 12], raw[:, 13] = 255, 198, 18
    raw[:, 14], raw[:, 15] = label % PEERS, label // PEERS % 4
    fresh = rng.random(count) < FRESH
    raw[fresh, 14:16] = rng.integers(100, 255, (int(fresh.sum()), 2))
    begin = minute * MINUTE_NS
    is_steady = rng.random(count) < 0.5
    first = np.where(is_steady, 0, rng.integers(0, 59, count))
    last = np.where(is_steady, 59, rng.integers(first, 60))
    rows = HistoryRows(
        minute=np.full(count, minute, np.int64),
        label=label,
        address=raw.view(np.uint64).reshape(count, 2),
        port=np.where(label % 3, 443, 5432).astype(np.int32),
        protocol=np.full(count, 6, np.uint8),
        initiator=np.full(count, 1, np.uint8),
        connections=rng.integers(0, 9, count),
        bytes=(10 ** rng.uniform(2, 6.5, (count, 2))).astype(np.int64),
        packets=(10 ** rng.uniform(0, 3.5, (count, 2))).astype(np.int64),
        first_ns=begin + first * 10**9,
        last_ns=begin + last * 10**9,
    )
    used, place = np.unique(rows.label, return_inverse=True)
    rows = rows._replace(label=place.astype(np.int32))
    return Batch("bench", number, [LABELS[each] for each in used.tolist()], rows)
