# SPDX-License-Identifier: Apache-2.0
"""Translates the heads of checkpoints that earlier versions wrote into parts."""

from typing import Any

import msgspec

OLDER_SCHEMAS = (4, 5, 6, 7, 8)
_ARRAYS = {
    "interfaces": "interfaces.pairs",
    "kernel.key": "counter_deltas.key",
    "kernel.read": "counter_deltas.sums",
}
_COLUMNS = {  # of connections
    "began": "initiator",
    **{name: name for name in ("fingerprint", "account", "event", "seen", "first_ns", "last_ns")},
    **{name: name for name in ("bytes", "packets", "key")},
}
_FAMILIES = {"unjudged": "unknown_verdicts", "missed": "undecided", "scanning": "scan_connections"}
_ENDPOINT_FIELDS = {"found": "owner", "named": "pod_name"}


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
    values = {_FAMILIES.get(name, name): bytes(labels) for name, labels in older.labels.items()}
    values |= {
        "interfaces": bytes(older.interfaces),
        "extras": _extras(older.extras),
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
    return values, {
        **_ARRAYS,
        **{f"held.{old}": f"pending.{new}" for old, new in _COLUMNS.items()},
        "connections.began": "connections.initiator",
        "events.told": "events.reported",
        "events.told_ns": "events.reported_ns",
        **{
            f"{old}.{array}": f"{new}.{array}"
            for old, new in _FAMILIES.items()
            for array in ("sums", "moved_ns")
        },
    }


def _extras(older: msgspec.Raw) -> bytes:
    """Return the agent's part, with the fields of interfaces' endpoints as they are named now."""
    extras = msgspec.json.decode(older, type=dict[str, Any])
    extras["residents"] = [
        {_ENDPOINT_FIELDS.get(name, name): value for name, value in endpoint.items()}
        for endpoint in extras.get("residents", ())
    ]
    return msgspec.json.encode(extras)
