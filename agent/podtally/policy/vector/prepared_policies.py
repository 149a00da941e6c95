# SPDX-License-Identifier: Apache-2.0
"""The compiled policies in the order of evaluation, and the endpoints that they do not judge."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from podtally.policy.model import HOST, POD, UNDECLARED, UNIDENTIFIED, UNKNOWN, PolicyEndpoint
from podtally.policy.reference import engine
from podtally.policy.vector.cache import Numbers
from podtally.policy.vector.classes import EndpointClasses
from podtally.policy.vector.outcomes import OutcomeTable
from podtally.policy.vector.rules import CompiledPolicy
from podtally.policy.vector.tiers import OPEN, Tiers


class PreparedPolicies:
    """The compiled policies; grows with the classes."""

    def __init__(
        self, policies: Sequence[CompiledPolicy], classes: EndpointClasses, outcomes: OutcomeTable
    ) -> None:
        self._ordered = sorted(policies, key=lambda one: engine.evaluation_order(one.policy))
        self._classes, self._outcomes = classes, outcomes
        self._exempt = np.zeros(0, np.int32)

    def exempt(self) -> Numbers:
        """Return the outcome of each class that no policy judges, or OPEN. (classes,)"""
        fresh = self._classes.endpoints[len(self._exempt) :]
        if fresh:
            outcomes = [_exempt(endpoint, self._outcomes) for endpoint in fresh]
            self._exempt = np.concatenate((self._exempt, np.array(outcomes, np.int32)))
        return self._exempt

    def tiers(self, is_egress: bool) -> Tiers:
        return self._egress if is_egress else self._ingress

    @cached_property
    def _ingress(self) -> Tiers:
        return Tiers(self._ordered, False, self._classes, self._outcomes)

    @cached_property
    def _egress(self) -> Tiers:
        return Tiers(self._ordered, True, self._classes, self._outcomes)


def _exempt(endpoint: PolicyEndpoint, outcomes: OutcomeTable) -> int:
    """Return what the engine's ``_exempt`` does, except for traffic to itself."""
    if endpoint.kind == UNIDENTIFIED:
        return outcomes.number(UNKNOWN, engine.UNKNOWN_END)
    if endpoint.kind not in (POD, HOST):
        return outcomes.number(UNDECLARED, engine.OUTSIDE)
    if endpoint.kind == POD and endpoint.host_network:
        return outcomes.number(UNDECLARED, engine.HOST_NETWORK)
    return OPEN
