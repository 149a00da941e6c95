# SPDX-License-Identifier: Apache-2.0
"""The errors that end a command with one line: what is wrong, and the fix."""


class PodtallyError(Exception):
    """Something the operator can fix; ``cli`` prints it as one line and exits with 2."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what = what
        self.fix = fix
