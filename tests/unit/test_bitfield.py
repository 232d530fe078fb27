"""The bitfield against a set of numbers, and its costs at sizes no set could hold."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corestore.bitfield import MAX_WIRE_BLOCKS, PAGE_BLOCKS, PAGE_BYTES, Bitfield, first_gap
from corestore.errors import DecodeError, LimitExceeded

SPAN = 5 * PAGE_BLOCKS


def bits_of(data: bytes, start: int) -> set[int]:
    return {start + i for i in range(8 * len(data)) if data[i >> 3] >> (i & 7) & 1}


def bytes_of(held: set[int], start: int, end: int) -> bytes:
    data = bytearray((end - start + 7) // 8)
    for index in held:
        if start <= index < end:
            data[index - start >> 3] |= 1 << (index - start & 7)
    return bytes(data)


def check(bitfield: Bitfield, held: set[int], rng: random.Random) -> None:
    """Ask everything about a random part."""
    assert bitfield.contiguous_length == next(i for i in range(SPAN + 1) if i not in held)
    assert bitfield.end == max(held, default=-1) + 1
    start = rng.randrange(SPAN)
    end = start + rng.randrange(2 * PAGE_BLOCKS)
    inside = [i for i in range(start, end) if i in held]
    missing = next((i for i in range(start, end) if i not in held), None)
    assert bitfield.count(start, end) == len(inside)
    assert bitfield.first(True, start, end) == (inside[0] if inside else None)
    assert bitfield.first(False, start, end) == missing
    assert bitfield.has_all(start, end) == (missing is None)
    assert bitfield.get(start) == (start in held)
    runs = list(bitfield.runs(start, end))
    assert [i for low, high in runs for i in range(low, high)] == inside
    assert all(a[1] < b[0] for a, b in itertools.pairwise(runs))
    page = rng.randrange(6)
    assert bitfield.page(page) == bytes_of(held, page * PAGE_BLOCKS, (page + 1) * PAGE_BLOCKS)
    low, high = start & ~31, (end + 31) & ~31
    assert bitfield.wire(start, end) == bytes_of(held, low, high)


@pytest.mark.parametrize("seed", range(40))
def test_random_changes_agree_with_a_set(seed):
    rng = random.Random(seed)
    bitfield, held = Bitfield(), set()
    for _ in range(25):
        operation = rng.random()
        edges = [rng.randrange(SPAN), rng.randrange(6) * PAGE_BLOCKS]
        start = rng.choice(edges)
        end = rng.choice([start + rng.randrange(60), *edges, rng.randrange(6) * PAGE_BLOCKS])
        start, end = min(start, end, SPAN), min(max(start, end), SPAN)
        if operation < 0.7:
            value = rng.random() < 0.6
            after = held | set(range(start, end)) if value else held - set(range(start, end))
            assert bitfield.set(start, end, value) == (after != held)
            held = after
        elif operation < 0.85:
            start &= ~31
            words = rng.randrange(min(600, (SPAN - start) // 32 + 1))
            data = rng.choice([rng.randbytes(4), b"\xff" * 4, bytes(4)]) * words
            bitfield.write_wire(start, data)
            held = held - set(range(start, start + 8 * len(data))) | bits_of(data, start)
        else:
            page = rng.randrange(5)
            data = rng.choice([rng.randbytes(PAGE_BYTES), b"\xff" * PAGE_BYTES, bytes(PAGE_BYTES)])
            bitfield.load_page(page, data)
            start = page * PAGE_BLOCKS
            held = held - set(range(start, start + PAGE_BLOCKS)) | bits_of(data, start)
        check(bitfield, held, rng)
    other = Bitfield()
    for page in rng.sample(range(6), 6):
        other.load_page(page, bitfield.page(page))
    assert other == bitfield
    assert other.contiguous_length == bitfield.contiguous_length


@given(st.lists(st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), st.booleans())))
def test_huge_ranges_cost_nothing(changes):
    bitfield = Bitfield(max_pages=1000)
    for a, b, held in changes:
        start, end = min(a, b), max(a, b)
        bitfield.set(start, end, held)
        if start < end:
            assert bitfield.count(start, end) == (end - start if held else 0)
            assert bitfield.first(not held, start, end) is None
            assert list(bitfield.runs(start, end)) == ([(start, end)] if held else [])
    assert len(list(bitfield.runs(0, 2**53))) <= len(changes) + 1


def test_ten_million_contiguous_blocks_are_one_run():
    bitfield = Bitfield()
    assert bitfield.set(0, 10_000_000)
    assert bitfield.contiguous_length == 10_000_000
    assert not bitfield.set(5_000_000, 9_000_000)
    assert bitfield.set(5_000_000, 5_000_001, False)
    assert bitfield.contiguous_length == 5_000_000
    assert bitfield.set(5_000_000, 5_000_001)
    assert bitfield.contiguous_length == 10_000_000
    assert bitfield.has_all(0, 10_000_000)
    assert not bitfield.has_all(0, 10_000_001)
    assert bitfield.wire(0, MAX_WIRE_BLOCKS) == b"\xff" * (MAX_WIRE_BLOCKS // 8)


def test_nothing_is_held_at_first():
    bitfield = Bitfield()
    assert not bitfield.get(0)
    assert not bitfield.get(2**53)
    assert bitfield.first(True, 0) is None
    assert bitfield.first(False, 7) == 7
    assert bitfield.has_all(5, 5)
    assert list(bitfield.runs(0, 2**53)) == []
    assert bitfield.end == 0
    assert bitfield != object()


def test_no_block_has_a_negative_index():
    bitfield = Bitfield()
    bitfield.set(0, 10)
    assert not bitfield.get(-1)


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (5, 4), (0, 2**53)])
def test_ranges_that_are_none_are_refused(start, end):
    with pytest.raises(ValueError, match="not a range"):
        Bitfield().set(start, end)


def test_words_are_as_on_the_wire():
    bitfield = Bitfield()
    bitfield.set(32, 33)
    bitfield.set(63, 65)
    assert bitfield.wire(33, 64) == bytes.fromhex("01000080")
    assert bitfield.wire(0, 65) == bytes.fromhex("00000000 01000080 01000000".replace(" ", ""))


@pytest.mark.parametrize(
    ("start", "data"),
    [
        (1, bytes(4)),
        (0, bytes(3)),
        (0, bytes(MAX_WIRE_BLOCKS // 8 + 4)),
        (2**53 - 32, bytes(8)),
        (2**60, bytes(4)),
        (-32, bytes(4)),
    ],
)
def test_bitfields_that_are_none_are_refused(start, data):
    with pytest.raises(DecodeError):
        Bitfield().write_wire(start, data)


def test_a_part_too_long_for_a_message_is_refused():
    with pytest.raises(ValueError, match="one message"):
        Bitfield().wire(0, MAX_WIRE_BLOCKS + 1)
    with pytest.raises(ValueError, match="one message"):
        Bitfield().wire(64, 0)


def test_a_page_of_another_size_is_refused():
    with pytest.raises(ValueError, match="512 bytes"):
        Bitfield().load_page(0, bytes(511))


@pytest.mark.parametrize("width", [1, PAGE_BLOCKS, PAGE_BLOCKS + 1])
def test_what_ranges_can_make_us_keep_is_bounded(width):
    bitfield = Bitfield(max_pages=8)
    for page in range(8):
        assert bitfield.set(page * 2**30, page * 2**30 + width)
    with pytest.raises(LimitExceeded):
        bitfield.set(9 * 2**30, 9 * 2**30 + width)


def test_what_messages_can_make_us_keep_is_bounded():
    bitfield = Bitfield(max_pages=8)
    with pytest.raises(LimitExceeded):
        bitfield.write_wire(0, b"\x01\x00" * (MAX_WIRE_BLOCKS // 16))


def test_what_is_refused_beyond_the_bound_is_not_kept_either():
    bitfield = Bitfield(max_pages=8)
    refused = 0
    for page in range(0, 200, 2):
        try:
            bitfield.set(page * PAGE_BLOCKS, (page + 1) * PAGE_BLOCKS)
        except LimitExceeded:
            refused += 1
    assert refused == 92
    assert len(list(bitfield.runs(0, 2**53))) == 8


def test_a_run_that_cannot_be_split_any_more_loses_its_end():
    bitfield = Bitfield(max_pages=1)
    assert bitfield.set(0, 9 * PAGE_BLOCKS)
    assert bitfield.set(4 * PAGE_BLOCKS, 5 * PAGE_BLOCKS, False)
    assert list(bitfield.runs(0, 2**53)) == [(0, 4 * PAGE_BLOCKS)]
    assert bitfield.contiguous_length == 4 * PAGE_BLOCKS


@pytest.mark.parametrize(
    "change",
    [
        lambda bitfield: bitfield.set(PAGE_BLOCKS + 5, PAGE_BLOCKS + 6, False),
        lambda bitfield: bitfield.write_wire(PAGE_BLOCKS + 32, bytes(4)),
    ],
    ids=["range", "bitfield"],
)
def test_a_page_that_cannot_be_kept_any_more_counts_as_missing(change):
    bitfield = Bitfield(max_pages=2)
    bitfield.set(0, 9 * PAGE_BLOCKS)
    bitfield.set(20 * PAGE_BLOCKS, 20 * PAGE_BLOCKS + 1)
    bitfield.set(30 * PAGE_BLOCKS, 30 * PAGE_BLOCKS + 1)
    with pytest.raises(LimitExceeded):
        change(bitfield)
    assert bitfield.contiguous_length == PAGE_BLOCKS
    assert not bitfield.get(PAGE_BLOCKS + 5)
    assert bitfield.get(2 * PAGE_BLOCKS)


PLACES = st.integers(0, 8 * PAGE_BLOCKS) | st.sampled_from(range(0, 9 * PAGE_BLOCKS, PAGE_BLOCKS))


@given(st.lists(st.tuples(PLACES, PLACES, st.booleans()), max_size=12), st.integers(1, 3))
@example(
    changes=[(0, 100, True), (5 * PAGE_BLOCKS, 6 * PAGE_BLOCKS, True), (0, PAGE_BLOCKS, True)],
    bound=1,
)
def test_the_contiguous_length_of_a_bounded_bitfield_is_what_its_pages_hold(changes, bound):
    bitfield = Bitfield(max_pages=bound)
    for a, b, held in changes:
        with contextlib.suppress(LimitExceeded):
            bitfield.set(min(a, b), max(a, b), held)
        pages = int.from_bytes(b"".join(map(bitfield.page, range(9))), "little")
        prefix = (1 << bitfield.contiguous_length) - 1
        assert pages & prefix == prefix


EDGES = st.integers(0, SPAN) | st.integers(0, 2**53 - 1)
SPANS = st.tuples(EDGES, EDGES)


@given(
    st.lists(st.lists(SPANS, max_size=6), max_size=3),
    st.none() | st.lists(SPANS, max_size=6),
    EDGES,
    EDGES,
)
def test_the_first_gap_is_the_first_block_that_none_holds(spans, inner, a, b):
    start, end = min(a, b), max(a, b)
    fields = [made_of(each) for each in spans]
    within = None if inner is None else made_of(inner)
    found = first_gap(fields, start, end, within=within)

    def is_gap(index):
        return not any(f.get(index) for f in fields) and (within is None or within.get(index))

    edges = {start, *(x for each in (*spans, inner or ()) for pair in each for x in pair)}
    gaps = [index for index in edges if start <= index < end and is_gap(index)]
    assert found == min(gaps, default=None)


def made_of(spans):
    bitfield = Bitfield()
    for a, b in spans:
        bitfield.set(min(a, b), max(a, b))
    return bitfield
