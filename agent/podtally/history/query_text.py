# SPDX-License-Identifier: Apache-2.0
"""Reads a query from words: the parameters of a URL, which the command line sends as well."""

import datetime
from collections.abc import Mapping, Sequence

from podtally.errors import PodtallyError
from podtally.history.flow_query import COLUMNS, CONVERSATION, ORDERS, FlowQuery, columns_by
from podtally.yamltree.suggestion import did_you_mean

Words = Mapping[str, Sequence[str]]
Prices = tuple[Mapping[str, float], Mapping[str, float]]

MAX_GROUPS = 100_000
_OWN = ("since", "until", "from", "to", "with", "by", "top", "order", "new", "account")


def parse_query(words: Words, prices: Prices = ({}, {})) -> FlowQuery:
    """Return the query; PodtallyError if a word is unknown or invalid."""
    filters = {name: list(values) for name, values in words.items() if name not in _OWN}
    for name in filters:
        if name not in COLUMNS:
            known = [*_OWN, *COLUMNS]
            hint = did_you_mean(name, known) or f"use {', '.join(known)}"
            raise PodtallyError(f"unknown parameter {name!r}", hint)
    by = [word for given in words.get("by", ()) for word in given.split(",") if word]
    since, until = (_seconds(words, name) for name in ("since", "until"))
    if until and since >= until:
        raise PodtallyError("since is not before until", "exchange them, or leave one out")
    order = _last(words, "order") or "bytes"
    if order not in ORDERS:
        raise PodtallyError(f"unknown order {order!r}", f"use {', '.join(ORDERS)}")
    accounts = [word for given in words.get("account", ()) for word in given.split(",")]
    return FlowQuery(
        since=since,
        until=until,
        filters=filters,
        source=_last(words, "from"),
        destination=_last(words, "to"),
        either=_last(words, "with"),
        by=columns_by(by) if "by" in words else CONVERSATION,
        top=_top(words),
        order=order,
        accounts=() if "all" in accounts else tuple(accounts or ("flows",)),
        only_new=_last(words, "new") in ("1", "true"),
        prices=prices,
    )


def _last(words: Words, name: str) -> str:
    given = words.get(name, ())
    return given[-1] if given else ""


def _seconds(words: Words, name: str) -> float:
    text = _last(words, name)
    if not text:
        return 0.0
    try:
        if text.replace(".", "", 1).isdigit() and text.isascii():
            return float(text)
        at = datetime.datetime.fromisoformat(text)
        return at.astimezone().timestamp()
    except (ValueError, OverflowError):
        raise PodtallyError(
            f"{name}: invalid time {text!r}", "use RFC 3339, or seconds since 1970"
        ) from None


def _top(words: Words) -> int:
    text = _last(words, "top")
    if not text:
        return MAX_GROUPS
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise PodtallyError(f"top: {text!r} is not a positive number", "use for example top=20")
    return min(int(text), MAX_GROUPS)
