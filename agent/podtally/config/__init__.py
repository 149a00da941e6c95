# SPDX-License-Identifier: Apache-2.0
"""The one frozen Config, from declared settings, a YAML file and the command line."""

from podtally.config.kinds import STANDARD_OUTPUT
from podtally.config.loader import add_flags, from_arguments, load
from podtally.config.settings import (
    DEFAULT_FILE,
    DEFAULT_LISTEN,
    DEFAULT_PIN_DIR,
    DEFAULT_POD_LOGS,
    DEFAULT_STATE_DIR,
    EVENT_VERDICTS,
    Attach,
    Config,
    Kubernetes,
)
from podtally.config.structs import (
    PRICE_STEP,
    ClickHouse,
    ExpectedTraffic,
    History,
    NatGateway,
    Price,
    Prices,
    Scope,
    StaticEndpoint,
)

__all__ = [
    "DEFAULT_FILE",
    "DEFAULT_LISTEN",
    "DEFAULT_PIN_DIR",
    "DEFAULT_POD_LOGS",
    "DEFAULT_STATE_DIR",
    "EVENT_VERDICTS",
    "PRICE_STEP",
    "STANDARD_OUTPUT",
    "Attach",
    "ClickHouse",
    "Config",
    "ExpectedTraffic",
    "History",
    "Kubernetes",
    "NatGateway",
    "Price",
    "Prices",
    "Scope",
    "StaticEndpoint",
    "add_flags",
    "from_arguments",
    "load",
]
