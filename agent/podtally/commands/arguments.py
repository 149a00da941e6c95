"""Arguments that several commands share."""

import argparse
from pathlib import Path

from podtally.config import DEFAULT_PIN_DIR, DEFAULT_POD_LOGS, DEFAULT_STATE_DIR


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="text (default) or json"
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: /etc/podtally/podtally.yaml if there"
    )
    parser.add_argument(
        "--pin-dir", metavar="DIR", help=f"where programs and maps are pinned ({DEFAULT_PIN_DIR})"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help=f"where the checkpoint is kept ({DEFAULT_STATE_DIR})"
    )


def add_names(parser: argparse.ArgumentParser) -> None:
    names = parser.add_argument_group("where names come from")
    names.add_argument(
        "--kubernetes",
        choices=("auto", "on", "off"),
        help="watch the API (auto: if there is a service account, or --kubeconfig)",
    )
    names.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API from outside")
    names.add_argument("--kube-context", metavar="NAME", help="its context (the current one)")
    names.add_argument("--node-name", metavar="NAME", help="this node ($NODE_NAME, or the host's)")
    names.add_argument(
        "--cri-socket", metavar="PATH", help="the container runtime's; auto (default) or off"
    )
    names.add_argument(
        "--pod-logs", metavar="DIR", help=f"the kubelet's pod logs ({DEFAULT_POD_LOGS})"
    )
    names.add_argument(
        "--name-wait", type=float, metavar="SECONDS", help="flows wait so long for a name (10)"
    )
