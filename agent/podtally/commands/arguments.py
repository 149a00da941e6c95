"""Arguments that several commands share."""

import argparse
from pathlib import Path

from podtally.config import DEFAULT_PIN_DIR, DEFAULT_STATE_DIR


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
