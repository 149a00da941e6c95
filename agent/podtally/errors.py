# SPDX-License-Identifier: Apache-2.0
"""The error that ends a command with one line: what is wrong, and how to fix it."""


class PodtallyError(Exception):
    """A problem that the operator can fix; ``cli`` prints it as one line and exits with 2."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what = what
        self.fix = fix
