# SPDX-License-Identifier: Apache-2.0
"""Policies as they are written in files, and what lint finds in them."""

from podtally.policy.lint.findings import DeclaredDocuments
from podtally.policy.load.documents import read_text
from podtally.policy.load.parser import read_documents


def declared(text: str) -> list[DeclaredDocuments]:
    return [
        DeclaredDocuments(found, document)
        for document in read_text(text, "p.yaml").documents
        for found in read_documents([document]).policies
    ]


def declared_of(egress: str) -> list[DeclaredDocuments]:
    """Return a NetworkPolicy with these egress rules."""
    return declared(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n"
        f"spec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{egress}]}}\n"
    )
