# SPDX-License-Identifier: Apache-2.0
"""Where the sources of the kernel programs are, and what is built from them."""

import hashlib
from pathlib import Path

BPF_DIR = Path(__file__).parents[1] / "bpf"
SOURCE = "podtally.c"
HEADER = "flow.h"
OBJECT = "podtally.json"  # beside the sources; not in the repository


def sources_digest(directory: Path = BPF_DIR) -> str:
    """Changes when the programs or their maps would."""
    text = hashlib.sha256()
    for path in sorted(directory.glob("*.[ch]")):
        content = path.read_bytes()
        text.update(f"{path.name} {len(content)}\n".encode())
        text.update(content)
    return text.hexdigest()
