# SPDX-License-Identifier: Apache-2.0
"""Follows the agent's event log: the last line of each event."""

from pathlib import Path

import msgspec

from podtally.export.event_log import EventRecord

_Key = tuple[object, ...]


class EventTail:
    """Reads what was appended since the last call; a missing file is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._latest: dict[_Key, EventRecord] = {}
        self._decoder = msgspec.json.Decoder(EventRecord)

    def latest(self) -> tuple[EventRecord, ...]:
        """Return the last record of each event, in the order of their first records.

        msgspec.DecodeError if a line is not an event.
        """
        for line in self._lines():
            event = self._decoder.decode(line)
            self._latest[_key(event)] = event
        return tuple(self._latest.values())

    def _lines(self) -> list[bytes]:
        """Return new, complete lines."""
        try:
            with self._path.open("rb") as file:
                if self._offset > file.seek(0, 2):
                    self._offset = 0  # it was rotated
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()


def _key(event: EventRecord) -> _Key:
    """Return what identifies an event."""
    endpoints = (event.endpoint.namespace, event.endpoint.pod, *msgspec.structs.astuple(event.peer))
    return (event.event, event.direction, *endpoints, event.protocol, event.port, event.reason)
