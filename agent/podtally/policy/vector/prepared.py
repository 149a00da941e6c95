# SPDX-License-Identifier: Apache-2.0
"""What a set of policies is compiled to for judging, and what no policy is asked about."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from podtally.policy.model import HOST, POD, UNDECLARED, UNIDENTIFIED, UNKNOWN, PolicyEndpoint
from podtally.policy.reference import engine
from podtally.policy.vector.classes import EndpointClasses
from podtally.policy.vector.outcomes import OutcomeTable
from podtally.policy.vector.rules import CompiledPolicy, Numbers
from podtally.policy.vector.tiers import OPEN, Tiers


class PreparedPolicies:
    """What is the same for all batches until the policies change; it grows with the classes."""

    def __init__(
        self, policies: Sequence[CompiledPolicy], classes: EndpointClasses, sides: OutcomeTable
    ) -> None:
        self._ordered = sorted(policies, key=lambda one: engine.evaluation_order(one.policy))
        self._classes, self._sides = classes, sides
        self._exempt = np.zeros(0, np.int32)

    def exempt(self) -> Numbers:
        """(classes,)"""
        fresh = self._classes.endpoints[len(self._exempt) :]
        if fresh:
            sides = [_exempt(party, self._sides) for party in fresh]
            self._exempt = np.concatenate((self._exempt, np.array(sides, np.int32)))
        return self._exempt

    def tiers(self, is_egress: bool) -> Tiers:
        return self._egress if is_egress else self._ingress

    @cached_property
    def _ingress(self) -> Tiers:
        return Tiers(self._ordered, False, self._classes, self._sides)

    @cached_property
    def _egress(self) -> Tiers:
        return Tiers(self._ordered, True, self._classes, self._sides)


def _exempt(party: PolicyEndpoint, sides: OutcomeTable) -> int:
    """As the engine's, but for the pod itself."""
    if party.kind == UNIDENTIFIED:
        return sides.number(UNKNOWN, engine.UNKNOWN_END)
    if party.kind not in (POD, HOST):
        return sides.number(UNDECLARED, engine.OUTSIDE)
    if party.kind == POD and party.host_network:
        return sides.number(UNDECLARED, engine.HOST_NETWORK)
    return OPEN
