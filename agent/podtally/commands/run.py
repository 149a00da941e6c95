# SPDX-License-Identifier: Apache-2.0
"""``podtally run``: the agent."""

import argparse
import os

# One thread is all the arithmetic needs, and each of OpenBLAS' costs memory. Read by
# numpy on import, so it must be set before.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from podtally import config
from podtally.commands.shared.arguments import add_config
from podtally.config.settings import SETTINGS

_EPILOG = """\
examples:
  podtally run --interfaces 'cali*,!cali-test*' --listen 0.0.0.0:9775 --epoch 1
  podtally run --policies /etc/podtally/policies --candidate next.yaml --events -

Every flag is also a key of the configuration file, with underscores; flags override the file:
  listen: 0.0.0.0:9775
  epoch: 500ms
  flow_log: /var/log/podtally/flows.jsonl
  flow_log_max_bytes: 256MiB
  policies: [/etc/podtally/policies]
  candidates: [/etc/podtally/next.yaml]
  events: /var/log/podtally/events.jsonl
  endpoints:
    - {netns: web, namespace: shop, name: web-0, workload: web, labels: {app: web}}
  networks: {office: 203.0.113.0/24}
  prices: {egress: {internet: 0.09, cross_zone: 0.01}}    # dollars per 10^9 bytes

Exit codes: 0 stopped by a signal, 2 usage error, unreadable input, or a fixable problem.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_config(parser)
    parser.add_argument("--verbose", action="store_true", help="log more")
    config.add_flags(parser, (name for name, each in SETTINGS.items() if each.flag))


def main(args: argparse.Namespace) -> int:
    from podtally import log  # not needed for --help

    log.set_up(args.verbose)
    settings = config.from_arguments(args)

    from podtally.runtime.generations import preloaded

    preload = preloaded(settings)

    from podtally.runtime import daemon  # while the programs are being loaded

    return daemon.run(settings, lambda: config.from_arguments(args), preload)
