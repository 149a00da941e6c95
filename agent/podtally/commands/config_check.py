# SPDX-License-Identifier: Apache-2.0
"""``podtally config check``: checks whether an agent can start with a configuration."""

import argparse
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from podtally import config
from podtally.attach.selection import refusals
from podtally.commands.shared.tables import printable
from podtally.config import Config, loader
from podtally.errors import PodtallyError
from podtally.kube.api_access import api_access
from podtally.netlink.links import all_links
from podtally.netlink.netlink import Requests
from podtally.policy.load.policy_files import PolicyFiles
from podtally.policy.names import name_of
from podtally.policy.problems import WARNING, Problem
from podtally.web import reload

_EPILOG = """\
examples:
  podtally config check /etc/podtally/podtally.yaml
  podtally config check && systemctl reload podtally   # the default file

Reads FILE as `podtally run --config FILE` would, and the kubeconfig, web configuration, policies
and candidates that it names; does not contact the Kubernetes API. Named interfaces that are
missing or cannot be watched are warnings: they may exist on other hosts. An unreadable policy
is a finding: the agent starts, and its verdicts are `unknown`.
Exit codes: 0 fine, 1 findings (in policies), 2 usage error, unreadable input, or a fixable
problem.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="read a configuration, and report what is wrong",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help=f"configuration file (default: {loader.DEFAULT_FILE}, if it exists)",
    )


def main(args: argparse.Namespace) -> int:
    """Return 0 if all is fine, 1 if policies have problems; PodtallyError for other problems."""
    read = config.load(args.file, {})
    if read.kubeconfig is not None:
        api_access(read)
    if read.web_config_file is not None:
        reload.load(read.web_config_file)
    _check_logs(read)
    for refusal in _refusals(read):
        print(printable(f"warning: interfaces: {refusal}"))
    problems = list(_problems(read))
    for problem in problems:
        print(printable(str(problem)))
    named = args.file or (loader.DEFAULT_FILE if loader.DEFAULT_FILE.exists() else "defaults")
    print(f"{named}: {len(problems)} problem{'' if len(problems) == 1 else 's'} in policies")
    return 1 if problems else 0


def _check_logs(read: Config) -> None:
    """Raise PodtallyError if a log cannot be written."""
    for name, log in (("flow_log", read.flow_log), ("events", read.events)):
        if log is None or str(log) == "-":
            continue
        path = Path(log)
        if not path.parent.is_dir():
            raise PodtallyError(f"{name}: no directory {path.parent}", "create it")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise PodtallyError(f"{name}: {path} is not a regular file", "use another path")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PodtallyError(f"{name}: {path} is not writable", "check its permissions")


def _refusals(read: Config) -> list[str]:
    """Return warnings for named interfaces that this host cannot watch."""
    if read.interfaces is None:
        return []
    try:
        requests = Requests()
    except OSError:
        return []
    with closing(requests):
        return refusals(read.interfaces, all_links(requests))


def _problems(read: Config) -> Iterator[Problem]:
    loaded = PolicyFiles(read.policies).load().parsed
    yield from loaded.problems
    if api_access(read) is None:  # otherwise the API may have the policy
        known = {name_of(policy) for policy in loaded.policies}
        for name in read.candidate_delete:
            if name not in known:
                message = "no such policy; nothing to delete"
                yield Problem("candidate_delete", 0, str(name), "", message, WARNING)
    if read.candidates:
        yield from PolicyFiles(read.candidates, candidate=True).load().parsed.problems
