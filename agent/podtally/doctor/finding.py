# SPDX-License-Identifier: Apache-2.0
"""What a probe says of the host; how it is shown is the command's."""

from typing import NamedTuple


class DoctorFinding(NamedTuple):
    """One line of the report.

    ``ok`` is None where it could not be told, or is neither good nor bad. ``fatal``: without
    it podtally cannot run; then, and only if ``ok`` is False, the host is found wanting.
    """

    name: str
    ok: bool | None
    detail: str
    fix: str = ""
    fatal: bool = False


def error_text(error: OSError) -> str:
    """Put an errno into the system's words, without Python's decoration."""
    return error.strerror or str(error)
