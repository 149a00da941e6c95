# SPDX-License-Identifier: Apache-2.0
"""The name of a policy, as settings give it."""

from podtally.config.policy_name import PolicyName
from podtally.policy.model import Policy


def name_of(policy: Policy) -> PolicyName:
    return PolicyName(policy.kind, policy.namespace, policy.name)
