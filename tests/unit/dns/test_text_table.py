# SPDX-License-Identifier: Apache-2.0
"""Texts by number, against a list and a dictionary."""

import random

import msgspec
import pytest

from podtally.dns import text_table
from podtally.dns.text_table import TextTable, from_json


def test_against_a_list() -> None:
    random_, known, table = random.Random(23), [""], TextTable()
    for _ in range(60):
        more = [f"n{random_.randrange(400)}.example" for _ in range(random_.randrange(20))]
        table, numbers = table.with_texts(more)
        known += [each for each in dict.fromkeys(more) if each not in known]
        assert numbers == {each: known.index(each) for each in more}
        assert list(table) == known
        assert table == TextTable(known)
    assert table.numbers([*known, "other"]) == [*range(len(known)), -1]
    some = [0, *random_.sample(range(1, len(known)), 23)]
    assert list(table.take(some)) == [known[each] for each in some]


def test_an_earlier_table_stays_as_it_is() -> None:
    before, _ = TextTable().with_texts(["a.example"])
    after, numbers = before.with_texts(["b.example", "a.example"])
    assert (list(before), list(after)) == (["", "a.example"], ["", "a.example", "b.example"])
    assert numbers == {"b.example": 2, "a.example": 1}
    assert before.number("b.example") == -1
    assert after.with_texts(["a.example"])[0] is after


def test_json_gives_the_same_table_back() -> None:
    texts = ["", "a.example", 'b\\"c.example', "ä.example", "d\\.example"]
    table = TextTable().with_texts(texts)[0]
    assert list(table) == msgspec.json.decode(table.json()) == texts
    assert from_json(table.json()) == table
    assert [table.number(each) for each in texts] == [0, 1, 2, 3, 4]
    for damaged in (b"{}", b'["", 1]', b'["", "a", "a"]', b'["'):
        with pytest.raises(ValueError, match=r"xpected|trailing|truncated|twice"):
            from_json(msgspec.Raw(damaged))


def test_equal_hashes_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_table, "hash", len, raising=False)
    table, _ = TextTable().with_texts(["aa", "bb", "cc", "d"])
    assert table.numbers(["cc", "aa", "bb", "dd", "d"]) == [3, 1, 2, -1, 4]
