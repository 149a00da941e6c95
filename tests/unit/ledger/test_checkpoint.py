# SPDX-License-Identifier: Apache-2.0
"""The checkpoint: all of the ledger is restored, and corruption is detected."""

import struct
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podtally.identity.interface_endpoints import AddressSpan, InterfaceEndpoint
from podtally.ledger.checkpoint.checkpoint import (
    MAGIC,
    SCHEMA,
    Checkpoint,
    CheckpointError,
    Position,
)
from podtally.ledger.checkpoint.saved import SavedError
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics import families
from podtally.ledger.metrics.families import FLOWS
from podtally.ledger.metrics.view import View
from podtally.runtime.extras import Extras, extras_of
from podtally.runtimes.cgroups import CgroupOwner
from tests.unit.rows import (
    SECOND,
    SYN,
    UDP,
    Flow,
    accounts_of,
    book,
    from_here,
    gaps,
    make_ledger,
    names,
)

HERE = Position("boot", "generation", 23)
RESIDENTS = [
    InterfaceEndpoint(
        7,
        "veth7",
        netns="web",
        addresses=(AddressSpan("10.99.0.7", 3), AddressSpan("2001:db8::7", 3, 5)),
    ),
    InterfaceEndpoint(
        9, "veth9", owner=CgroupOwner("pod", "1f6c9b1e-0000-4000-8000-000000000023"), gone_ns=5
    ),
]
EXTRAS = Extras(RESIDENTS, {"loader_runs": [23.0], "swap_seconds": [1.0, 2.0, 0.5]})


def filled() -> Ledger:
    """A ledger that has a bit of everything."""
    ledger = make_ledger()
    for ifindex in (7, 9, 11):
        ledger.interfaces.appeared(ifindex, f"veth{ifindex}", (100, 0))
        ledger.interfaces.attached(ifindex, True, (123, 0))
    flows = [
        Flow(local_port=1000 + i, seen=from_here(SYN), bytes=(i, 2**53 + i)) for i in range(23)
    ]
    book(ledger, names(), [*flows, Flow(ifindex=11, protocol=UDP), Flow(remote_port=99)])
    ledger.book_kernel_accounts(accounts_of({(7, 0): (23, 101, 1, 2), (9, 1): (5, 0, 1, 0)}))
    ledger.settle(EpochContext(names(), SECOND), [])
    ledger.close_books(np.array([7, 11]), np.array([[100, 0], [5000, 0]]), SECOND)
    ledger.close_books(np.array([7, 11]), np.array([[100, 0], [5000, 0]]), SECOND)
    ledger.let_go(11)
    return ledger


def written(state_dir: Path) -> bytes:
    Checkpoint(state_dir).write(HERE, filled().save() | EXTRAS.save())
    return (state_dir / "checkpoint").read_bytes()


def sealed(content: bytes) -> bytes:
    """With a checksum that is right, whatever the content."""
    return content + struct.pack("<I", zlib.crc32(content))


def restored(state_dir: Path) -> tuple[Position, Ledger, Extras]:
    read = Checkpoint(state_dir).read()
    assert read is not None
    ledger = make_ledger()
    ledger.load(read[1], 2 * SECOND)
    return read[0], ledger, extras_of(read[1])


def plain(view: View) -> list[object]:
    return [
        {
            family.name: (list(view[family].labels), view[family].values.tolist())
            for family in families.KEPT
        },
        {labels: gap for labels, gap in gaps(view) if gap},
        (view.connections, view.unknown_initiators),
        view.overflow_packets,
    ]


def test_everything_comes_back(tmp_path: Path) -> None:
    before = filled()
    size = Checkpoint(tmp_path).write(HERE, before.save() | EXTRAS.save())
    assert size == (tmp_path / "checkpoint").stat().st_size
    position, after, extras = restored(tmp_path)
    assert position == HERE
    assert extras == EXTRAS
    retired = {labels: gap for labels, gap in gaps(before.view()) if labels.interface == "veth11"}
    assert retired
    assert before.retired_gaps == after.retired_gaps
    assert plain(after.view())[0] == plain(before.view())[0]
    assert plain(after.view())[2:] == plain(before.view())[2:]
    for name, column in before.connections.columns._asdict().items():
        assert getattr(after.connections.columns, name).tobytes() == column.tobytes(), name


def test_both_go_on_alike(tmp_path: Path) -> None:
    before = filled()
    Checkpoint(tmp_path).write(HERE, before.save() | EXTRAS.save())
    _, after, _ = restored(tmp_path)
    for ledger in (before, after):
        flows = [Flow(local_port=1000 + i, bytes=(29, 0)) for i in range(29)]
        book(ledger, names(), flows, 3 * SECOND)
        ledger.book_kernel_accounts(accounts_of({(7, 0): (64, 101, 2, 2), (9, 1): (6, 0, 2, 0)}))
        ledger.settle(EpochContext(names(), 3 * SECOND), [9])
        ledger.close_books(np.array([7]), np.array([[5000, 2**60]]), SECOND)
        ledger.let_go(9)
    assert plain(after.view()) == plain(before.view())


def test_an_empty_ledger_comes_back(tmp_path: Path) -> None:
    Checkpoint(tmp_path).write(HERE, make_ledger().save() | Extras().save())
    _, ledger, extras = restored(tmp_path)
    assert extras == Extras()
    assert len(ledger.view()[FLOWS].labels) == 0
    book(ledger, names(), [Flow()])
    ledger.settle(EpochContext(names(), SECOND), [])
    assert ledger.view()[FLOWS].values[:, 0].tolist() == [23, 0]


def test_nothing_there_is_not_broken(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path).read() is None


def test_labels_that_change_are_written_again(tmp_path: Path) -> None:
    checkpoint, ledger = Checkpoint(tmp_path), filled()
    for count in range(3):
        book(ledger, names(), [Flow(remote_port=2000 + count, seen=from_here(SYN))])
        ledger.settle(EpochContext(names(), SECOND), [])
        checkpoint.write(HERE, ledger.save() | Extras().save())
        assert plain(restored(tmp_path)[1].view())[0] == plain(ledger.view())[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corrupt")


def refuses(state_dir: Path, content: bytes) -> str:
    checkpoint = Checkpoint(state_dir)
    checkpoint.path.write_bytes(content)
    with pytest.raises((CheckpointError, SavedError)) as caught:
        restored(state_dir)
    return str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_bit_that_is_wrong_is_found(whole: bytes, state_dir: Path, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    spoilt = bytearray(whole)
    spoilt[place] ^= 1 << bit
    refuses(state_dir, bytes(spoilt))


@pytest.mark.parametrize("place", [*range(24), 100, 1009, -1009, -65, -5, -4, -3, -2, -1])
def test_a_byte_that_is_wrong_is_found_in_every_region(
    whole: bytes, state_dir: Path, place: int
) -> None:
    spoilt = bytearray(whole)
    spoilt[place] ^= 0xFF
    refuses(state_dir, bytes(spoilt))


def test_cut_short_is_found_wherever_it_is_cut(whole: bytes, state_dir: Path) -> None:
    for length in [*range(64), *range(64, len(whole), 23), len(whole) - 1]:
        refuses(state_dir, whole[:length])


def test_more_than_was_written_is_found(whole: bytes, state_dir: Path) -> None:
    refuses(state_dir, whole + b"\0")
    refuses(state_dir, whole + whole)


@pytest.mark.parametrize(
    ("what", "change", "why"),
    [
        ("a later schema", (MAGIC + bytes([SCHEMA]), b"podtally\x63"), "schema 99"),
        ("a part of another type", (b'"retired_gaps":[', b'"retired_gaps":7,"x":['), "array"),
        ("no JSON", (b'{"position"', b'["position"'), "head"),
        ("a wrong type", (b'"epoch":23', b'"epoch":"a'), "head"),
        ("no dtype", (b"'<u8'", b"'<zz'"), "arrays"),
        ("no literal", (b"'<i8'", b"f('i)"), "arrays"),
        ("another place", (b'"offset":', b'"offset":99'), "arrays"),
        ("an array that is missing", (b'"pods.sums"', b'"gods.sums"'), "pods: the array sums"),
    ],
)
def test_written_by_another_podtally(
    whole: bytes, state_dir: Path, what: str, change: tuple[bytes, bytes], why: str
) -> None:
    """The checksum is right, and yet nothing can be made of it."""
    content = whole[:-4]
    assert change[0] in content, what
    changed = content.replace(*change)
    grown = len(changed) - len(content)
    length = struct.unpack_from("<I", changed, 12)[0] + grown
    changed = changed[:12] + struct.pack("<I", length) + changed[16:]
    assert why in refuses(state_dir, sealed(changed)), what


@pytest.mark.parametrize("content", [b"", b"podtally", b"\0" * 4096, b"{}\n", MAGIC + b"\xff" * 99])
def test_an_invalid_checkpoint(state_dir: Path, content: bytes) -> None:
    refuses(state_dir, content)


def test_put_aside_keeps_the_file(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    for content in (b"podtally, or what is left of it", b"and again"):
        checkpoint.path.write_bytes(content)
        aside = checkpoint.put_aside()
        assert aside.read_bytes() == content
        assert aside.parent == tmp_path
        assert checkpoint.read() is None
    assert len(list(tmp_path.iterdir())) == 2  # the first one is still there, too


def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoint, ledger = Checkpoint(tmp_path), filled()
    checkpoint.write(HERE, ledger.save() | Extras().save())
    (tmp_path / "checkpoint.new").mkdir()  # root may write anywhere else
    with pytest.raises(IsADirectoryError):
        checkpoint.write(HERE, make_ledger().save() | Extras().save())
    assert plain(restored(tmp_path)[1].view())[0] == plain(ledger.view())[0]


def test_a_checkpoint_of_schema_8_is_read(tmp_path: Path) -> None:
    ledger = filled()
    parts = ledger.save() | EXTRAS.save()
    old_names = {"interfaces.pairs": "interfaces", "counter_deltas.key": "kernel.key"}
    old_names["counter_deltas.sums"] = "kernel.read"
    old_names["connections.initiator"] = "connections.began"
    old_names["held.initiator"] = "held.began"
    old_names["events.reported"], old_names["events.reported_ns"] = "events.told", "events.told_ns"
    families = {"unknown_verdicts": "unjudged", "undecided": "missed"}
    families["scan_connections"] = "scanning"
    for array in ("sums", "moved_ns"):
        old_names |= {f"{new}.{array}": f"{old}.{array}" for new, old in families.items()}
    own = ("interfaces", "extras", "candidate_rows", "totals", "scans", "counter_deltas")
    labels = {
        families.get(name, name): msgspec.Raw(saved.values)
        for name, saved in parts.items()
        if name not in (*own, "connections", "pending")
    }
    Checkpoint(tmp_path).write(HERE, parts)
    path = tmp_path / "checkpoint"
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    head = msgspec.json.decode(data[16 : 16 + length])
    for place in head["arrays"]:
        name = place["name"].replace("pending.", "held.")
        place["name"] = old_names.get(name, name)
    totals = msgspec.json.decode(parts["totals"].values)
    totals["began_unknown"] = totals.pop("unknown_initiators")
    totals["came_too_late"] = totals.pop("name_timeouts")
    older = {
        **{"position": head["position"], "arrays": head["arrays"], "labels": labels, **totals},
        "interfaces": msgspec.Raw(parts["interfaces"].values),
        "extras": msgspec.Raw(
            parts["extras"]
            .values.replace(b'"owner"', b'"found"')
            .replace(b'"pod_name"', b'"named"')
        ),
        "tried": msgspec.Raw(parts["candidate_rows"].values),
    }
    text = msgspec.json.encode(older)
    text += b" " * (-(len(text) + 16) % 64)
    prefix = struct.pack("<8sII", MAGIC, 8, len(text))
    path.write_bytes(sealed(prefix + text + data[16 + length : -4]))
    position, again, extras = restored(tmp_path)
    assert (position, extras) == (HERE, EXTRAS)
    assert plain(again.view()) == plain(restored_from(ledger, tmp_path).view())


def restored_from(ledger: Ledger, state_dir: Path) -> Ledger:
    """As written today, and read again."""
    Checkpoint(state_dir).write(HERE, ledger.save() | EXTRAS.save())
    return restored(state_dir)[1]
