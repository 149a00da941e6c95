# SPDX-License-Identifier: Apache-2.0
"""The layout that Python reads out of flow.h, and what it refuses to read."""

import numpy as np
import pytest

from podtally.kernel import abi
from podtally.kernel.header_text import LayoutError, read_constants
from podtally.kernel.table import Arrays, Table
from podtally.ledger.connections.connections import KEY

TEXT = abi.HEADER.read_text()


@pytest.mark.parametrize(
    ("struct", "size"), [("control", 128), ("hot", 32), ("cold", 64), ("book_key", 8), ("book", 40)]
)
def test_sizes_are_the_cache_lines_they_were_made_for(struct: str, size: int) -> None:
    assert getattr(abi.current(), struct).itemsize == size


def test_the_word_every_packet_reads_has_a_cache_line_of_its_own() -> None:
    fields = abi.current().control.fields
    assert fields is not None
    assert (fields["epoch"][1], fields["used"][1]) == (0, 64)


def test_the_connections_key_is_the_flows() -> None:
    cold = abi.current().cold.fields
    assert cold is not None
    assert KEY.fields is not None
    for name, described in KEY.fields.items():
        assert cold[name][:2] == described[:2], name


def test_limits_fit_the_words_they_cut_up() -> None:
    layout = abi.current()
    assert layout.byte_carry_bit == layout.packet_shift - 1
    assert layout.packet_carry_bit == 63
    facts = [layout.seen_syn_only, layout.seen_syn_ack, layout.seen_socket]
    facts += [layout.seen_group, layout.seen_unparsed]
    facts += [layout.seen_icmp_error, layout.seen_icmp_relayed]
    assert facts == [256 << bit for bit in range(len(facts))]
    assert facts[-1] < 1 << layout.seen_shift
    assert layout.text == TEXT


def test_a_lane_remembers_as_many_fragments_as_the_programs_think() -> None:
    layout = abi.current()
    fragments = read_constants(TEXT)["FRAGMENTS"]
    assert layout.lane is not None
    assert layout.lane["fragments"].shape == (fragments,)
    assert fragments & fragments - 1 == 0
    assert layout.lanes == 3


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ("int port;", "cannot read"),
        ("__u8 a:4;", "cannot read"),
        ("__u128 a;", "cannot read"),
        ("struct in6_addr address;", "cannot read"),
        ("__u8 a; __u32 b;", "hole"),
        ("__u64 a; __u8 b;", "hole"),  # at the end, too
    ],
)
def test_refuses_what_it_might_misread(field: str, why: str) -> None:
    with pytest.raises(LayoutError, match=why):
        abi.parse_structs(f"struct s {{ {field} }};")


def test_reads_fields_in_order() -> None:
    dtype = abi.parse_structs("struct s { __u32 a; /* why; not */ __u8 b[4]; };")["s"]
    assert dtype == np.dtype([("a", "u4"), ("b", "u1", (4,))])


def test_reads_constants_and_nothing_else() -> None:
    text = "#define A 23 /* why */\n#define B (A + 1)\n/* #define C 5 */\n#define D\t29\n"
    assert read_constants(text) == {"A": 23, "D": 29}


@pytest.mark.parametrize("missing", ["struct hot", "#define SEEN_SHIFT"])
def test_says_what_is_missing(missing: str) -> None:
    with pytest.raises(LayoutError, match=missing.split()[1]):
        abi.parse(TEXT.replace(missing, missing + "_of_old"))


OLDER = (  # what stood in the header before sockets were looked for
    TEXT.replace("#define SEEN_SOCKET", "#define SEEN_NOTHING")
    .replace("\t__u16 cgroup_high;", "\t__u8 pad[6];")
    .replace("\t__u32 cgroup_low;", "")
)


def test_an_older_layout_has_no_facts_that_it_did_not_know() -> None:
    older = abi.parse(
        TEXT.replace("#define SEEN_GROUP", "#define A").replace("#define SEEN_UN", "#define B")
    )
    assert (older.seen_group, older.seen_unparsed) == (0, 0)


def test_rows_of_an_older_layout_have_nothing_where_it_had_nothing() -> None:
    older = abi.parse(OLDER)
    assert older.seen_socket == 0
    assert "cgroup_low" not in (older.cold.names or ())
    cold = np.zeros(4, older.cold)
    cold["local_address"][2], cold["local_port"][2], cold["first_seen_ns"][2] = (5, 7), 443, 22
    cold["pad"][2] = 255
    arrays = Arrays(np.zeros(1, older.control), np.zeros(4, older.hot), cold, np.zeros(4, "u4"))

    (row,) = Table(older, arrays, lambda: None).cold(np.array([2]))

    assert row.dtype == abi.current().cold
    assert row["local_address"].tolist() == [5, 7]
    assert (row["local_port"], row["first_seen_ns"]) == (443, 22)
    assert (row["cgroup_high"], row["cgroup_low"]) == (0, 0)
