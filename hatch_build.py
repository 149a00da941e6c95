# SPDX-License-Identifier: Apache-2.0
"""Builds the kernel programs when hatchling builds a wheel, and puts them into it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface[Any]):
    """Named by pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # a checkout's are built by scripts/setup
            return
        root = Path(self.root)
        script = root / "scripts" / "build-programs"
        built = subprocess.run([script, "--stale"], stderr=subprocess.PIPE, text=True, check=False)
        if built.returncode:
            sys.exit(f"{built.stderr}podtally: cannot build the kernel programs: see {script}")
        build_data["artifacts"].append("agent/podtally/bpf/podtally.json")
