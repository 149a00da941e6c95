# SPDX-License-Identifier: Apache-2.0
"""What a start imports before packets are counted: nothing that only books."""

import subprocess
import sys

BOOKING = (
    *("podtally.runtime.bring_up", "podtally.runtime.epoch_loop", "podtally.ledger.ledger"),
    *("podtally.policy", "podtally.dns", "podtally.identity", "podtally.history"),
    *("prometheus_client", "psutil", "sqlite3"),
)
LISTENING = ("podtally.web.server", "podtally.runtime.counting", "podtally.attach.attacher")


def test_what_counts_packets_imports_nothing_that_books() -> None:
    imported = _imported("podtally.cli, podtally.commands.run, podtally.runtime.daemon")
    assert imported.issuperset(LISTENING)
    assert imported & set(BOOKING) == set()


def test_what_books_is_what_is_left_out() -> None:
    """Else a module that has another name by now would pass for one that is left out."""
    assert _imported("podtally.runtime.bring_up, podtally.runtime.epoch_loop").issuperset(BOOKING)


def _imported(modules: str) -> set[str]:
    code = f"import sys, {modules}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
