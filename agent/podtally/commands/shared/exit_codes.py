# SPDX-License-Identifier: Apache-2.0
"""Exit codes of the command lines, and how errors end a command."""

import os
import sys
from collections.abc import Callable

from podtally.errors import PodtallyError

OK, FINDINGS, USAGE_ERROR = 0, 1, 2
INTERRUPTED = 130


def exit_code(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; an error is one line on stderr."""
    try:
        code = command()
        sys.stdout.flush()  # a closed pipe must fail here, not when the interpreter exits
        return code
    except PodtallyError as error:
        print(f"podtally: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `podtally ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        return OK
