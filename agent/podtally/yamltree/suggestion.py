# SPDX-License-Identifier: Apache-2.0
"""Suggests the known word that was probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches

_SIMILARITY = 0.75
_MAX_LENGTH = 64  # of a word that is compared


def similar(given: str, known: Iterable[str]) -> str:
    """Return the known word that was probably meant; "" if none is similar."""
    words = list(known)
    folded = given[:_MAX_LENGTH].casefold()
    for word in words:
        if word.casefold() == folded:
            return word
    by_folded = {word.casefold(): word for word in words}
    close = get_close_matches(folded, by_folded, 1, _SIMILARITY)
    return by_folded[close[0]] if close else ""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``did you mean "epoch"?``, or the known words if none is similar."""
    words = list(known)
    close = similar(given, words)
    return f'did you mean "{close}"?' if close else f"known: {', '.join(words)}"
