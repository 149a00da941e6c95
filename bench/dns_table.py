# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.dns_table PAIRS``: memory of a table of names, with its checkpoint, as JSON."""

import gc
import json
import sys
import time
from pathlib import Path

from podtally.dns.domain_table import NO_DOMAINS
from podtally.dns.tracker import Answer
from podtally.ledger.checkpoint.saved import encode
from podtally.runtime.free_memory import return_free_memory

PODS, AT_ONCE = 50, 1000
SECOND = 1_000_000_000
_MAPPED = b"\0" * 10 + b"\xff\xff"
RESOLVER = _MAPPED + bytes((10, 96, 0, 10))


def answer(number: int, at_ns: int) -> Answer:
    """Return one with a name of its own; every fourth has an alias."""
    address = _MAPPED + bytes((198, 18 + (number >> 16), number >> 8 & 255, number & 255))
    name = f"host-{number}.eu.service.example.com"
    chain = (f"c{number}.cdn.example.net",) if number % 4 == 0 else ()
    return Answer(1 + number % PODS, at_ns, RESOLVER, name, chain, (address,), 30)


def main(pairs: int) -> None:
    table = NO_DOMAINS.updated([answer(0, 1)], 2)  # imports what it needs
    before, table, saved, took = _memory(), NO_DOMAINS, b"", 0.0
    for first in range(0, pairs, AT_ONCE):
        now_ns = (1 + first) * SECOND
        answers = [answer(each, now_ns) for each in range(first, min(first + AT_ONCE, pairs))]
        began = time.process_time()
        table = table.updated(answers, now_ns + 1)
        saved = encode(table.values())
        took = time.process_time() - began
    after = _memory()
    assert saved
    found = {"pairs": len(table), "texts": len(table.texts), "mb": after - before}
    print(json.dumps(found | {"update_ms": took * 1000}))


def _memory() -> float:
    """Return the process's memory as the agent's is at rest, MB."""
    gc.collect()
    return_free_memory()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main(int(sys.argv[1]))
