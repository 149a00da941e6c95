# SPDX-License-Identifier: Apache-2.0
"""Points in time as people write them."""

import datetime
import os
import time
from collections.abc import Iterator

import pytest

from podtally.commands.shared import times
from podtally.errors import PodtallyError

ZONE = datetime.timezone(datetime.timedelta(hours=-5))
NOW = datetime.datetime(2026, 1, 31, 12, 0, 7, 230000, ZONE)


@pytest.fixture(autouse=True)
def zone() -> Iterator[None]:
    """Five hours behind UTC, all the year."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "EST5"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-01-31T16:59:59Z", "2026-01-31T16:59:59+00:00"),
        ("2026-01-31t16:59:59.5z", "2026-01-31T16:59:59.500000+00:00"),
        ("2026-01-31T09:00:00+02:00", "2026-01-31T07:00:00+00:00"),
        ("2026-01-31 09:00", "2026-01-31T14:00:00+00:00"),
        ("11:59", "2026-01-31T16:59:00+00:00"),
        ("9:05:30", "2026-01-31T14:05:30+00:00"),
        ("00:00", "2026-01-31T05:00:00+00:00"),
        ("90s", "2026-01-31T16:58:37.230000+00:00"),
        ("-90s", "2026-01-31T16:58:37.230000+00:00"),
        ("5m ago", "2026-01-31T16:55:07.230000+00:00"),
        ("1h30m", "2026-01-31T15:30:07.230000+00:00"),
        ("0.5d ago", "2026-01-31T05:00:07.230000+00:00"),
        (" 0s ", "2026-01-31T17:00:07.230000+00:00"),
        ("now", "2026-01-31T17:00:07.230000+00:00"),
        ("1w", "2026-01-24T17:00:07.230000+00:00"),
        ("2026-01-31", "2026-01-31T05:00:00+00:00"),
        ("today", "2026-01-31T05:00:00+00:00"),
        ("yesterday", "2026-01-30T05:00:00+00:00"),
        ("yesterday 14:05", "2026-01-30T19:05:00+00:00"),
        ("Monday", "2026-01-26T05:00:00+00:00"),
        ("saturday at 6:30:01", "2026-01-31T11:30:01+00:00"),
        ("2026-01-30 14:05", "2026-01-30T19:05:00+00:00"),
        ("this week", "2026-01-26T05:00:00+00:00"),
        ("last week", "2026-01-19T05:00:00+00:00"),
        ("this month", "2026-01-01T05:00:00+00:00"),
        ("last month", "2025-12-01T05:00:00+00:00"),
    ],
)
def test_what_is_meant(text: str, meant: str) -> None:
    assert times.parse(text, NOW).astimezone(datetime.UTC).isoformat() == meant


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "noon", "5", "5 ago", "5m later", "1.2.3s", "99999999999d"),
        *("25:00", "12:60", "1:2", "\u0661\u0662:\u0660\u0660"),
        *("2026-13-01", "now 14:00", "yesterday noon", "someday", "next week"),
        *("2026-13-01T00:00:00Z", "20260131T000000Z", "2026-W05-6T00:00"),
    ],
)
def test_an_invalid_time(text: str) -> None:
    with pytest.raises(PodtallyError, match=r"invalid time .*; use "):
        times.parse(text, NOW)


@pytest.mark.parametrize("text", ["12:01", "2026-01-31T12:00:08-05:00", "2026-02-01T00:00:00Z"])
def test_what_is_yet_to_come(text: str) -> None:
    with pytest.raises(
        PodtallyError, match="is in the future; give the day, for example 2026-01-3"
    ):
        times.parse(text, NOW)
