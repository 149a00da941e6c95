# SPDX-License-Identifier: Apache-2.0
"""Writes the values of columns as the labels of the metrics."""

from podtally.history.conditions import PORT_WORDS
from podtally.history.sqlite_schema import INITIATORS
from podtally.ledger.series.label_sets import protocol_name

_PORTS = {number: word for word, number in PORT_WORDS.items()}


def label_text(name: str, value: object) -> str:
    if name == "protocol" and isinstance(value, int):
        return protocol_name(value)
    if name == "initiator" and isinstance(value, int):
        return INITIATORS[value]
    if name == "port" and isinstance(value, int):
        return _PORTS.get(value, str(value))
    return str(value)
