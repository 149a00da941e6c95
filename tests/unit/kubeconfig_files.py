# SPDX-License-Identifier: Apache-2.0
"""Writes kubeconfig files for tests."""

from pathlib import Path
from typing import Any

import yaml

SECRET = "s3cret-t0ken"


def write_config(folder: Path, user: dict[str, Any], cluster: dict[str, Any]) -> Path:
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "lab", "user": "agent"}},
            {"name": "broken", "context": {"cluster": "lab", "user": "nobody"}},
        ],
        "clusters": [{"name": "lab", "cluster": {k: v for k, v in cluster.items() if v != ""}}],
        "users": [{"name": "agent", "user": user}],
    }
    path.write_text(yaml.safe_dump(content))
    return path
