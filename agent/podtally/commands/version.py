# SPDX-License-Identifier: Apache-2.0
"""``podtally version``: prints versions of podtally, Python and kernel."""

import argparse
import json
import platform

from podtally import __version__
from podtally.commands.shared.arguments import add_output

_EPILOG = """\
example:
  podtally version -o json

Exit codes: 0 fine, 2 usage error.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    found = {
        "version": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
    }
    if args.output == "json":
        print(json.dumps(found, indent=2))
    else:
        print("podtally {version} (Python {python}, kernel {kernel}, {machine})".format(**found))
    return 0
