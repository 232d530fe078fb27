"""Dirty ranges: merging, keeping large writes as they are, and handing out what never changes."""

from __future__ import annotations

import pytest

from hyperfs.dirty import KEEP_BYTES, SEGMENT_BYTES, SEGMENT_OVERHEAD, DirtyRanges


def contents(dirty):
    return [(offset, bytes(data)) for offset, data in dirty.ranges()]


def test_small_sequential_writes_are_one_segment():
    dirty = DirtyRanges()
    for at in range(0, 10_000, 10):
        dirty.write(at, b"0123456789")
    assert dirty.size_bytes == 10_000 + SEGMENT_OVERHEAD
    assert contents(dirty) == [(0, b"0123456789" * 1000)]


def test_a_segment_stops_growing_and_its_run_goes_on():
    dirty = DirtyRanges()
    piece = bytes(KEEP_BYTES - 1)
    count = 2 * SEGMENT_BYTES // len(piece)
    for at in range(count):
        dirty.write(at * len(piece), piece)
    assert dirty.size_bytes > count * len(piece) + SEGMENT_OVERHEAD
    assert [(offset, len(run)) for offset, run in dirty.runs()] == [(0, count * len(piece))]


def test_a_large_write_is_kept_without_a_copy():
    dirty = DirtyRanges()
    data = bytes(SEGMENT_BYTES)
    dirty.write(5, data)
    [(offset, view)] = dirty.ranges()
    assert offset == 5
    assert view.obj is data


def test_a_run_is_cut_without_copies_within_one_write():
    dirty = DirtyRanges()
    first, second = b"a" * KEEP_BYTES, b"b" * KEEP_BYTES
    dirty.write(0, first)
    dirty.write(KEEP_BYTES, second)
    [(_, run)] = dirty.runs()
    assert len(run) == 2 * KEEP_BYTES
    assert run[10:20].obj is first
    assert run[KEEP_BYTES : KEEP_BYTES + 5].obj is second
    assert run[KEEP_BYTES - 1 : KEEP_BYTES + 1] == b"ab"
    assert run[:] == first + second
    assert run[5:5] == b""
    assert run[-1:] == b"b"
    with pytest.raises(ValueError, match="whole"):
        run[::2]


def test_what_was_handed_out_never_changes():
    dirty = DirtyRanges()
    dirty.write(0, b"abcdef")
    held = dirty.ranges()
    dirty.write(2, b"XY")
    dirty.write(6, b"ghi")
    dirty.truncate(4)
    assert bytes(held[0][1]) == b"abcdef"
    assert contents(dirty) == [(0, b"abXY")]


def test_the_callers_buffer_may_change_afterwards():
    dirty = DirtyRanges()
    small, large = bytearray(b"abc"), bytearray(KEEP_BYTES)
    dirty.write(0, small)
    dirty.write(10, memoryview(large))
    small[0] = large[0] = 255
    assert dirty.overlapping(0, 11) == [(0, b"abc"), (10, b"\0")]


def test_a_write_inside_a_segment_stays_in_it():
    dirty = DirtyRanges()
    dirty.write(0, bytes(100))
    before = dirty.size_bytes
    dirty.write(40, b"x" * 10)
    assert dirty.size_bytes == before
    assert dirty.overlapping(38, 52) == [(38, b"\0\0xxxxxxxxxx\0\0")]


def test_a_write_joins_what_lies_on_both_sides():
    dirty = DirtyRanges()
    dirty.write(0, b"aa")
    dirty.write(4, b"cc")
    dirty.write(2, b"bb")
    assert contents(dirty) == [(0, b"aabbcc")]
    dirty.write(1, b"xxxx")
    assert contents(dirty) == [(0, b"axxxxc")]


def test_a_small_rest_does_not_keep_a_large_buffer():
    dirty = DirtyRanges()
    data = bytes(SEGMENT_BYTES)
    dirty.write(0, data)
    dirty.truncate(10)
    [(_, view)] = dirty.ranges()
    assert len(view.obj) == 10


def test_truncating_drops_what_lies_behind():
    dirty = DirtyRanges()
    dirty.write(0, b"abc")
    dirty.write(10, b"def")
    dirty.truncate(11)
    assert contents(dirty) == [(0, b"abc"), (10, b"d")]
    dirty.truncate(10)
    assert contents(dirty) == [(0, b"abc")]
    dirty.truncate(0)
    assert not dirty
    assert dirty.size_bytes == 0


def test_a_range_without_writes_has_nothing():
    dirty = DirtyRanges()
    dirty.write(2, b"XX")
    assert dirty.overlapping(0, 2) == []
    assert dirty.overlapping(4, 9) == []
    assert dirty.overlapping(3, 9) == [(3, b"X")]


def test_scattered_single_bytes_count_for_what_they_take():
    dirty = DirtyRanges()
    for at in range(0, 2000, 2):
        dirty.write(at, b"x")
    assert dirty.size_bytes == 1000 * (1 + SEGMENT_OVERHEAD)
    assert len(dirty.ranges()) == 1000


def test_writing_nothing_changes_nothing():
    dirty = DirtyRanges()
    dirty.write(7, b"")
    assert not dirty
