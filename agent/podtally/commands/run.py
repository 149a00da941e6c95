"""``podtally run``: the agent."""

import argparse
import os

# One thread is all the arithmetic needs, and each of OpenBLAS' costs memory. Read by
# numpy on import, so it must be set before.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from podtally import config
from podtally.commands.arguments import add_names, add_places

_EPILOG = """\
examples:
  podtally run --interfaces 'cali*,!cali-test*' --listen 0.0.0.0:9775 --epoch 1
  podtally run --policies /etc/podtally/policies --candidate next.yaml --events -

Every setting can stand in the configuration file, with underscores; a flag overrides it:
  listen: 0.0.0.0:9775
  flow_log: /var/log/podtally/flows.jsonl
  policies: [/etc/podtally/policies]
  candidates: [/etc/podtally/next.yaml]
  events: /var/log/podtally/events.jsonl
  endpoints:
    - {netns: web, namespace: shop, name: web-0, workload: web, labels: {app: web}}
  networks: {office: 203.0.113.0/24}
  prices: {egress: {internet: 0.09, cross_zone: 0.01}}    # dollars for 10^9 bytes

Exit codes: 0 stopped by a signal, 2 wrong use or a host that cannot run it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_places(parser)
    parser.add_argument(
        "--listen", metavar="ADDR:PORT", help=f"for /metrics ({config.DEFAULT_LISTEN})"
    )
    parser.add_argument(
        "--web-config-file",
        metavar="FILE",
        help="TLS and users, as other exporters of Prometheus read it; read again on change",
    )
    parser.add_argument("--verbose", action="store_true", help="log more")
    _add_counting(parser)
    add_names(parser)
    _add_policy(parser)
    _add_logs(parser)


def _add_counting(parser: argparse.ArgumentParser) -> None:
    counting = parser.add_argument_group("what is counted")
    counting.add_argument(
        "--interfaces",
        metavar="PATTERN",
        help="globs, comma-separated, !GLOB excludes (default: all pod interfaces)",
    )
    counting.add_argument("--epoch", type=float, metavar="SECONDS", help="between readings (1)")
    counting.add_argument(
        "--max-flows", type=int, metavar="N", help="flows active within one epoch (65536)"
    )
    counting.add_argument(
        "--attach", choices=("auto", "tcx", "clsact"), help="how to attach (auto: tcx if there)"
    )
    counting.add_argument(
        "--series-limit", type=int, metavar="N", help="flow series; more go to `other` (10000)"
    )
    counting.add_argument(
        "--series-grace",
        type=float,
        metavar="SECONDS",
        help="how long a dead pod's series stay (300)",
    )
    counting.add_argument(
        "--flow-labels",
        choices=("workload", "pod"),
        help="what flow series name (workload); pod makes more, and they come and go with pods",
    )
    counting.add_argument(
        "--kubecost-alias",
        action="store_true",
        default=None,
        help="kubecost_pod_network_egress_bytes_total as well, for OpenCost and Kubecost",
    )


def _add_policy(parser: argparse.ArgumentParser) -> None:
    policy = parser.add_argument_group("what is declared (besides what the API tells)")
    policy.add_argument(
        "--policies",
        action="append",
        metavar="PATH",
        help="a file or folder of policies, read again when it changes; may be repeated",
    )
    policy.add_argument(
        "--candidate",
        action="append",
        dest="candidates",
        metavar="PATH",
        help="policies that are not applied yet, judged beside the others; may be repeated",
    )
    policy.add_argument(
        "--candidate-delete",
        action="append",
        metavar="KIND/NAMESPACE/NAME",
        help="a policy in force, judged beside the others as if it were deleted; may be repeated",
    )


def _add_logs(parser: argparse.ArgumentParser) -> None:
    logs = parser.add_argument_group("logs, a JSON line each")
    logs.add_argument(
        "--flow-log", metavar="PATH", help="every connection that is over; - is standard output"
    )
    logs.add_argument(
        "--flow-log-max-bytes", type=int, metavar="N", help="then it is rolled to PATH.1 (64 MiB)"
    )
    logs.add_argument(
        "--events",
        metavar="PATH",
        help="connections that policy denies, or that nobody declared; - is standard output",
    )
    logs.add_argument(
        "--events-max-bytes", type=int, metavar="N", help="then it is rolled to PATH.1 (64 MiB)"
    )
    logs.add_argument("--events-rate", type=int, metavar="N", help="lines a second at most (50)")
    logs.add_argument(
        "--events-interval",
        type=float,
        metavar="SECONDS",
        help="between two lines of the same event (60)",
    )
    logs.add_argument(
        "--events-verdicts",
        metavar="VERDICTS",
        help=f"which connections are told of ({','.join(config.EVENT_VERDICTS)})",
    )


def main(args: argparse.Namespace) -> int:
    from podtally import daemon, log  # what is only told --help needs none of it

    log.set_up(args.verbose)
    return daemon.run(config.from_arguments(args), lambda: config.from_arguments(args))
