# SPDX-License-Identifier: Apache-2.0
"""Translates the heads of checkpoints that earlier versions wrote into parts."""

import msgspec

OLDER_SCHEMAS = (4, 5, 6, 7, 8)
_ARRAYS = {
    "interfaces": "interfaces.pairs",
    "kernel.key": "counter_deltas.key",
    "kernel.read": "counter_deltas.sums",
}
_COLUMNS = (  # of connections
    *("fingerprint", "account", "event", "began", "seen", "first_ns", "last_ns"),
    *("bytes", "packets", "key"),
)


class _OlderHead(msgspec.Struct, frozen=True):
    labels: dict[str, msgspec.Raw]
    interfaces: msgspec.Raw
    extras: msgspec.Raw
    retired_gaps: msgspec.Raw
    began_unknown: int
    overflow_packets: int
    limited: int
    came_too_late: int
    tried: msgspec.Raw = msgspec.Raw(b'["",[]]')


def parts_of_older(head: bytes) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the values of each part, and the new names of arrays; msgspec.DecodeError."""
    older = msgspec.json.decode(head, type=_OlderHead)
    values = {name: bytes(labels) for name, labels in older.labels.items()}
    values |= {
        "interfaces": bytes(older.interfaces),
        "extras": bytes(older.extras),
        "candidate_rows": bytes(older.tried),
        "totals": msgspec.json.encode(
            {
                "retired_gaps": older.retired_gaps,
                "unknown_initiators": older.began_unknown,
                "overflow_packets": older.overflow_packets,
                "limited": older.limited,
                "name_timeouts": older.came_too_late,
            }
        ),
    }
    return values, {**_ARRAYS, **{f"held.{name}": f"pending.{name}" for name in _COLUMNS}}
