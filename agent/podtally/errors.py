"""The errors that end a command with one line: what is wrong, and the mend."""


class PodtallyError(Exception):
    """Something the operator can mend; ``cli`` prints it as one line and exits with 2."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(f"{what}; {mend}" if mend else what)
        self.what = what
        self.mend = mend
