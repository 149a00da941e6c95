# SPDX-License-Identifier: Apache-2.0
"""How bpf/*.[ch] read the context: in a way that every LLVM compiles to what the verifier takes.

That the programs load as another distribution's LLVM compiles them, `scripts/test-fresh` shows.
"""

import re
from pathlib import Path

import pytest

from podtally.kernel.sources import BPF_DIR

SOURCES = sorted(BPF_DIR.glob("*.[ch]"))
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_context_fields_are_read_by_the_macro(source: Path) -> None:
    """From LLVM 19 on, plain reads on two paths are merged behind a computed address.

    `sk`, a pointer, may be read plainly, at one place: there is nothing to merge.
    """
    code = COMMENT.sub("", source.read_text())

    fields = re.findall(r"\bskb\s*->\s*(\w+)|\(\s*\*\s*skb\s*\)", code)

    assert fields in ([], ["sk"])
