# SPDX-License-Identifier: Apache-2.0
"""Packed bit fields: values are restored, and those that do not fit are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podtally.arrays.packed_fields import PackedFields

FIELDS = PackedFields(endpoint=23, port=17, protocol=8, late=1)
ROWS = st.lists(
    st.tuples(
        st.integers(0, (1 << 23) - 1),
        st.integers(0, (1 << 17) - 1),
        st.integers(0, 255),
        st.booleans(),
    ),
    min_size=1,
)


@given(ROWS)
def test_arrays_are_packed_like_single_values_and_unpack(
    rows: list[tuple[int, int, int, bool]],
) -> None:
    endpoint, port, protocol, late = zip(*rows, strict=True)
    packed = FIELDS.pack(
        endpoint=np.array(endpoint, np.int32),
        port=np.array(port, np.int64),
        protocol=np.array(protocol, np.uint8),
        late=np.array(late, np.bool_),
    )
    names = ("endpoint", "port", "protocol", "late")
    dicts = [dict(zip(names, row, strict=True)) for row in rows]
    assert packed.tolist() == [FIELDS.pack_one(**each) for each in dicts]
    assert [FIELDS.unpack(each) for each in packed.tolist()] == dicts
    for name in names:
        assert FIELDS.get(name, packed).tolist() == [each[name] for each in dicts]
    together = [(e, p) for e, p, _, _ in rows]
    prefix = FIELDS.prefix("port", packed).tolist()
    assert [a == b for a in prefix for b in prefix] == [a == b for a in together for b in together]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(np.int32, -1), (np.int32, 1 << 8), (np.int64, -1), (np.int64, 1 << 8), (np.int64, 1 << 40)],
)
def test_a_value_that_does_not_fit_is_refused(dtype: type, value: int) -> None:
    with pytest.raises(OverflowError, match="field 'protocol' of 8 bits"):
        FIELDS.pack(protocol=np.array([6, value, 17], dtype))
    with pytest.raises(OverflowError, match="field 'protocol' of 8 bits"):
        FIELDS.pack_one(protocol=value)


def test_a_wide_unsigned_array_is_checked() -> None:
    with pytest.raises(OverflowError, match="field 'late'"):
        FIELDS.pack(late=np.array([0, 2], np.uint8))
    with pytest.raises(OverflowError, match="field 'endpoint'"):
        FIELDS.pack(endpoint=np.array([1 << 63], np.uint64))


def test_a_field_holds_exactly_its_capacity() -> None:
    assert FIELDS.capacity("port") == 1 << 17
    assert FIELDS.pack_one(port=(1 << 17) - 1) > 0
    with pytest.raises(OverflowError):
        FIELDS.pack_one(port=1 << 17)


def test_fields_that_are_too_wide_together_are_refused() -> None:
    PackedFields(first=31, second=32)
    with pytest.raises(ValueError, match="64 bits do not fit into 63"):
        PackedFields(first=32, second=32)


def test_no_rows_and_unknown_fields() -> None:
    assert FIELDS.pack(port=np.zeros(0, np.int64)).tolist() == []
    with pytest.raises(KeyError):
        FIELDS.pack_one(prot=6)
