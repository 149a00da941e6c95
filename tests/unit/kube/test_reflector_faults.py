# SPDX-License-Identifier: Apache-2.0
"""Faults of server and connection: once they end, the consumer has the server's state."""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.apiserver.server import ApiServer, Fault
from tests.unit.kube_support import QUICK, Watching, pod, resource

NAMES = st.sampled_from([f"pod-{number}" for number in range(11)])


class Disturbed(RuleBasedStateMachine):
    """Writes and faults in any order."""

    @initialize(count=st.integers(0, 11), compacts=st.booleans())
    def begin(self, count: int, compacts: bool) -> None:
        self.api = ApiServer()
        self.api.bookmark_seconds = 0.02
        self.api.store.history_limit = 5 if compacts else 0
        self.watching = Watching(self.api, [resource("pods"), resource("nodes")], QUICK)
        self.written = 0
        for number in range(count):
            self.put(f"pod-{number}")

    @rule(name=NAMES)
    def put(self, name: str) -> None:
        self.written += 1
        self.api.put("pods", pod(name, written=str(self.written)))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if any(key.name == name for key in self.api.store.objects("pods")):
            self.api.delete("pods", "shop", name)

    @rule()
    def delete_all(self) -> None:
        for key in self.api.store.objects("pods"):
            self.api.delete("pods", *key)

    @rule(bytes_=st.integers(1, 300))
    def cut_within_a_line(self, bytes_: int) -> None:
        self.api.faults.cut_after_bytes = bytes_

    @rule()
    def cut(self) -> None:
        self.api.cut()

    @rule(lose=st.booleans())
    def restart(self, lose: bool) -> None:
        self.api.restart(lose_history=lose)

    @rule()
    def compact(self) -> None:
        self.api.store.compact()

    @rule(by_http=st.booleans())
    def gone_by(self, by_http: bool) -> None:
        self.api.faults.gone_by_http = by_http

    @rule(code=st.sampled_from([403, 404, 410, 429, 500, 503, 504]), times=st.integers(1, 2))
    def errors(self, code: int, times: int) -> None:
        self.api.faults.errors.append(Fault(code, "Test", times=times))

    @rule(seconds=st.sampled_from([0.0, 0.05]))
    def lag(self, seconds: float) -> None:
        self.api.lag_seconds = seconds

    @rule(freeze=st.booleans())
    def freeze(self, freeze: bool) -> None:
        self.api.faults.freeze = freeze

    @rule()
    def agrees(self) -> None:
        """Also in the middle, so that not all faults come before the first list."""
        self.api.release()
        self.watching.agrees("pods", 15.0)
        self.watching.agrees("nodes", 15.0)

    def teardown(self) -> None:
        if not hasattr(self, "watching"):
            return
        try:
            self.agrees()
        finally:
            self.watching.source.stop()
            self.api.close()


TestDisturbed = Disturbed.TestCase
TestDisturbed.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("seed", range(2))
def test_a_busy_server_that_keeps_being_cut(seed: int) -> None:
    """Hundreds of writes while connections are cut, lists expire and the server restarts."""
    dice = random.Random(seed)
    with ApiServer() as api:
        api.store.history_limit = 23
        with Watching(api) as watching:
            for number in range(600):
                name = f"pod-{dice.randrange(40)}"
                if dice.random() < 0.3 and any(k.name == name for k in api.store.objects("pods")):
                    api.delete("pods", "shop", name)
                else:
                    api.put("pods", pod(name, written=str(number)))
                if number % 50 == 49:
                    trouble = dice.choice([api.cut, api.restart, api.store.compact])
                    trouble()
                if number % 30 == 29:
                    api.faults.cut_after_bytes = dice.randrange(1, 200)
                watching.table.take()
            watching.agrees(seconds=15.0)
