"""``podtally run``: the agent."""

import argparse
import os

# One thread is all the arithmetic needs, and each of OpenBLAS' costs memory. Read by
# numpy on import, so it must be set before.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from podtally import config
from podtally.commands.arguments import add_names, add_places

_EPILOG = """\
example:
  podtally run --interfaces 'cali*,!cali-test*' --listen 0.0.0.0:9775 --epoch 1

Every setting can stand in the configuration file, with underscores; a flag overrides it:
  listen: 0.0.0.0:9775
  flow_log: /var/log/podtally/flows.jsonl
  endpoints:
    - {netns: web, namespace: shop, name: web-0, workload: web, labels: {app: web}}
  networks: {office: 203.0.113.0/24}

Exit codes: 0 stopped by a signal, 2 wrong use or a host that cannot run it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_places(parser)
    parser.add_argument(
        "--listen", metavar="ADDR:PORT", help=f"for /metrics ({config.DEFAULT_LISTEN})"
    )
    parser.add_argument(
        "--interfaces",
        metavar="PATTERN",
        help="globs, comma-separated, !GLOB excludes (default: all pod interfaces)",
    )
    parser.add_argument("--epoch", type=float, metavar="SECONDS", help="between readings (1)")
    parser.add_argument(
        "--max-flows", type=int, metavar="N", help="flows active within one epoch (65536)"
    )
    parser.add_argument(
        "--attach", choices=("auto", "tcx", "clsact"), help="how to attach (auto: tcx if there)"
    )
    parser.add_argument(
        "--flow-log", metavar="PATH", help="write a JSON line for every connection that is over"
    )
    parser.add_argument(
        "--flow-log-max-bytes", type=int, metavar="N", help="then it is rolled to PATH.1 (64 MiB)"
    )
    parser.add_argument(
        "--series-limit", type=int, metavar="N", help="flow series; more go to `other` (10000)"
    )
    parser.add_argument(
        "--series-grace",
        type=float,
        metavar="SECONDS",
        help="how long a dead pod's series stay (300)",
    )
    add_names(parser)
    parser.add_argument("--verbose", action="store_true", help="log more")


def main(args: argparse.Namespace) -> int:
    from podtally import agent, log  # what is only told --help needs none of it

    log.set_up(args.verbose)
    return agent.run(config.from_arguments(args))
