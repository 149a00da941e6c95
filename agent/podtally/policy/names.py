# SPDX-License-Identifier: Apache-2.0
"""The identifying name of a policy: kind, namespace, name."""

from podtally.config.policy_name import PolicyName
from podtally.policy.model import Policy


def name_of(policy: Policy) -> PolicyName:
    return PolicyName(policy.kind, policy.namespace, policy.name)
