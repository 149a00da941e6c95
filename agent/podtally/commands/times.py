# SPDX-License-Identifier: Apache-2.0
"""Parses a point in time as people write it: a date, a time of today, or an age."""

import datetime
import re

from podtally.api.schema import parse_time
from podtally.errors import PodtallyError

_FIX = "use 2026-01-31T23:59:59Z, 14:05, 14:05:30, 90s, or '5m ago'"
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)
_AGO = re.compile(r"-?((?:\d+(?:\.\d+)?[smhd])+)(?: ago)?", re.ASCII)
_PART = re.compile(r"([\d.]+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse(text: str, now: datetime.datetime) -> datetime.datetime:
    """Return the time, with its offset; ``now`` has the local offset.

    PodtallyError if it is invalid or in the future.
    """
    at = _read(text.strip(), now)
    if at is None:
        raise PodtallyError(f"--at: invalid time {text!r}", _FIX)
    if at > now:
        raise PodtallyError(
            f"--at: {text!r} is in the future", "give the day, for example " + _day(at)
        )
    return at


def parse_age(text: str, flag: str) -> float:
    """Return the seconds of an age such as 7d or 1h30m; PodtallyError."""
    if (ago := _AGO.fullmatch(text.strip())) is None:
        raise PodtallyError(f"{flag}: invalid age {text!r}", "use 7d, 12h, 90m, or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(ago[1]))


def _read(text: str, now: datetime.datetime) -> datetime.datetime | None:
    try:
        if (ago := _AGO.fullmatch(text)) is not None:
            parts = _PART.findall(ago[1])
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
            return now - datetime.timedelta(seconds=seconds)
        if (clock := _CLOCK.fullmatch(text)) is not None:
            hour, minute, second = (int(part or 0) for part in clock.groups())
            today = now.replace(tzinfo=None, microsecond=0, fold=0)
            at = today.replace(hour=hour, minute=minute, second=second)
            return at.astimezone()
        return parse_time(text)
    except (ValueError, OverflowError):
        return None


def _day(at: datetime.datetime) -> str:
    """Return the same time on the day before."""
    return (at - datetime.timedelta(days=1)).isoformat(timespec="seconds")
