# SPDX-License-Identifier: Apache-2.0
"""The result of a probe."""

from typing import NamedTuple


class DoctorFinding(NamedTuple):
    """One line of the report.

    ``ok`` is None if it is unknown, or neither good nor bad. ``fatal``: podtally cannot run if
    ``ok`` is False.
    """

    name: str
    ok: bool | None
    detail: str
    fix: str = ""
    fatal: bool = False


def error_text(error: OSError) -> str:
    """Return the system's message of an errno, without Python's decoration."""
    return error.strerror or str(error)
