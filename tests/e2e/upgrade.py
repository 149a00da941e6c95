# SPDX-License-Identifier: Apache-2.0
"""Makes a podtally with another flow layout, as a later release might have."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.agents import SOURCES

# Text of flow.h, and what stands there in the other release: same names, other places.
CHANGES = (
    (
        "\t__u64 fingerprint;\n\t__u64 traffic[2]; /* [FROM_ENDPOINT], [TO_ENDPOINT] */\n\t__u64 seen;\n",
        "\t__u64 seen;\n\t__u64 traffic[2];\n\t__u64 fingerprint;\n",
    ),
    ("struct cold {\n", "struct cold {\n\t/* a release of the tests */\n"),
    ("\t__u64 first_seen_ns;", "\t__u64 pad1[7];\n\t__u64 first_seen_ns;"),
    ("\t__u64 bytes[2]; /*", "\t__u64 pad0[1];\n\t__u64 bytes[2]; /*"),
)


def other_release(into: Path) -> Path:
    """Copy the package there, with another layout; returns its source root."""
    root = into / "agent"
    shutil.copytree(
        SOURCES / "podtally", root / "podtally", ignore=shutil.ignore_patterns("__pycache__")
    )
    header = root / "podtally" / "bpf" / "flow.h"
    text = header.read_text()
    for old, new in CHANGES:
        assert text.count(old) == 1, f"flow.h has no {old!r} any more"
        text = text.replace(old, new)
    header.write_text(text)
    built = [sys.executable, "-m", "podtally.kernel.builder"]
    subprocess.run(built, env=os.environ | {"PYTHONPATH": str(root)}, check=True)
    return root
