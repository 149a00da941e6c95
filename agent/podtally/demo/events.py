# SPDX-License-Identifier: Apache-2.0
"""Follows the agent's event log: the last line of each event."""

from pathlib import Path

import msgspec

from podtally.export.event_log import EventRecord

_Key = tuple[object, ...]


class EventTail:
    """Reads what has been appended since the last time; a file that is not there is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._latest: dict[_Key, EventRecord] = {}
        self._decoder = msgspec.json.Decoder(EventRecord)

    def latest(self) -> tuple[EventRecord, ...]:
        """What was told last of each event, in the order in which they were first told.

        Raises msgspec.DecodeError where a line is none of the event log's.
        """
        for line in self._lines():
            event = self._decoder.decode(line)
            self._latest[_key(event)] = event
        return tuple(self._latest.values())

    def _lines(self) -> list[bytes]:
        """Whole lines that are new; the rest of one is for the next time."""
        try:
            with self._path.open("rb") as file:
                if self._offset > file.seek(0, 2):
                    self._offset = 0  # it has been rolled
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()


def _key(event: EventRecord) -> _Key:
    """What an event is summed by."""
    who = (event.local.namespace, event.local.pod, *msgspec.structs.astuple(event.peer))
    return (event.event, event.direction, *who, event.protocol, event.port, event.reason)
