# SPDX-License-Identifier: Apache-2.0
"""Reports of validation: every problem at its line, and warnings on what is accepted."""

from typing import Any

import pytest

from podtally.policy.load.parser import accepts, read_text
from podtally.policy.problems import WARNING
from tests.unit.policy.test_validation import (
    admin_policy,
    block,
    cluster_policy,
    network_policy,
    problems,
    with_metadata,
)


def test_every_problem_is_reported_at_its_line() -> None:
    text = (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: X}\n"
        "spec:\n  ingress:\n  - ports:\n    - port: 0\n    - {port: 9, protocol: udp}\n"
        "    from:\n    - ipBlock:\n        cidr: 10.0.0.0/8\n        except:\n"
        "        - 10.1.0.0/16\n        - 11.0.0.0/16\n"
    )
    found = [(p.line, p.field) for p in read_text(text, "p.yaml").problems]
    assert found == [
        (3, "metadata.namespace"),
        (7, "spec.ingress[0].ports[0].port"),
        (8, "spec.ingress[0].ports[1].protocol"),
        (14, "spec.ingress[0].from[0].ipBlock.except[1]"),
    ]
    first = read_text(text, "p.yaml").problems[0]
    assert str(first).startswith(
        "p.yaml:3: NetworkPolicy X/p: metadata.namespace: 'X' must consist"
    )


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (block("10.0.0.1/8"), "host bits"),
        (with_metadata(admin_policy(), namespace="x"), "cluster-scoped"),
        (admin_policy({"ports": [{"portRange": {"start": 9, "end": 8}}]}), "before it starts"),
        (admin_policy(subject={"namespaces": {"matchLabels": {"a": "b c"}}}), "letters"),
        ({**network_policy(), "status": {"conditions": []}}, "no longer in the API"),
        (
            cluster_policy(
                {"to": [{"networks": ["10.0.0.0/8"]}], "protocols": [{"destinationNamedPort": "w"}]}
            ),
            "never networks",
        ),
        (cluster_policy({"to": [{"networks": ["10.0.0.1/8"]}]}), "host bits"),
        (
            cluster_policy({"to": [{"domainNames": ["_dmarc.example.com"]}]}),
            "starting with a symbol",
        ),
    ],
)
def test_accepted_objects_with_warnings(policy: dict[str, Any], words: str) -> None:
    (problem,) = problems(policy)
    assert (problem.severity, words in problem.message) == (WARNING, True)
    assert accepts(policy)
