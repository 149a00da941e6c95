# SPDX-License-Identifier: Apache-2.0
"""Chooses the access to the Kubernetes API of a person at a terminal, as kubectl does."""

import os
from collections.abc import Mapping
from pathlib import Path

from podtally.errors import PodtallyError
from podtally.kube import kubeconfig
from podtally.kube.access import Access
from podtally.kube.api_access import SERVICE_ACCOUNT, in_cluster


def user_access(
    file: Path | None, context: str, environment: Mapping[str, str], interactive: bool = False
) -> Access:
    """Return the access by ``file``, $KUBECONFIG, ~/.kube/config or the service account.

    ``interactive``: a credential plugin may use the terminal. PodtallyError if there is none.
    """
    paths = [file] if file is not None else _usual_files(environment)
    if paths:
        return kubeconfig.load_merged(paths, context, interactive)
    if not (SERVICE_ACCOUNT / "token").exists():
        raise PodtallyError(
            "no cluster given: no $KUBECONFIG, no ~/.kube/config, no service account",
            "give --kubeconfig",
        )
    if context:
        raise PodtallyError("a context, but no kubeconfig", "give --kubeconfig")
    return in_cluster(environment)


def _usual_files(environment: Mapping[str, str]) -> list[Path]:
    """Return the files that kubectl would use: those of $KUBECONFIG that exist, or the usual."""
    named = [Path(name) for name in environment.get("KUBECONFIG", "").split(os.pathsep) if name]
    if named:
        return [path for path in named if path.exists()] or named[:1]
    usual = Path(environment.get("HOME") or os.path.expanduser("~")) / ".kube" / "config"
    return [usual] if usual.exists() else []
