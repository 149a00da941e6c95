# SPDX-License-Identifier: Apache-2.0
"""Parses a point in time as people write it: a date, a time of today, or an age."""

import datetime
import re

from podtally.api.schema import parse_time
from podtally.errors import PodtallyError

_FIX = "use 2026-01-31T23:59:59Z, 2026-01-31, 14:05, yesterday, 'monday 14:05', 90s, or '5m ago'"
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)
_AGO = re.compile(r"-?((?:\d+(?:\.\d+)?[smhdw])+)(?: ago)?", re.ASCII)
_PART = re.compile(r"([\d.]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DAY = re.compile(
    rf"(\d{{4}}-\d\d-\d\d|[a-z]+(?: (?:week|month))?)(?: (?:at )?({_CLOCK.pattern}))?", re.ASCII
)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def parse(text: str, now: datetime.datetime, flag: str = "--at") -> datetime.datetime:
    """Return the time, with its offset; ``now`` has the local offset.

    PodtallyError if it is invalid or in the future.
    """
    at = _read(text.strip(), now)
    if at is None:
        raise PodtallyError(f"{flag}: invalid time {text!r}", _FIX)
    if at > now:
        raise PodtallyError(
            f"{flag}: {text!r} is in the future", "give the day, for example " + _day(at)
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
        if (day := _DAY.fullmatch(text.lower())) is not None:
            return _on_day(day[1], day[2], now)
        return parse_time(text)
    except (ValueError, OverflowError):
        return None


def _on_day(word: str, clock: str | None, now: datetime.datetime) -> datetime.datetime:
    """Return a time of a day, its beginning by default; ValueError if it is invalid."""
    today = now.date()
    if word in _WEEKDAYS:  # the last one; today if it is one
        day = today - datetime.timedelta(days=(today.weekday() - _WEEKDAYS.index(word)) % 7)
    elif word in ("today", "yesterday"):
        day = today - datetime.timedelta(days=int(word == "yesterday"))
    elif word in ("this week", "last week"):
        weeks = 7 if word.startswith("last") else 0
        day = today - datetime.timedelta(days=today.weekday() + weeks)
    elif word == "this month":
        day = today.replace(day=1)
    elif word == "last month":
        day = (today.replace(day=1) - datetime.timedelta(days=1)).replace(day=1)
    elif word == "now" and clock is None:
        return now
    else:
        day = datetime.date.fromisoformat(word)
    at = datetime.time()
    if clock is not None:
        hour, minute, second = (int(part) for part in f"{clock}:00".split(":")[:3])
        at = datetime.time(hour, minute, second)
    return datetime.datetime.combine(day, at).astimezone()


def _day(at: datetime.datetime) -> str:
    """Return the same time on the day before."""
    return (at - datetime.timedelta(days=1)).isoformat(timespec="seconds")
