"""Extents: laying over, cutting, punching, windows, and the stored form."""

from __future__ import annotations

import pytest

from corestore import DecodeError
from hyperfs import extents as ex
from hyperfs.extents import MAX_BLOCK_BYTES, MAX_FILE_BYTES, WINDOW_BYTES, Extent, Hole

OLD = (Extent(0, 1, 0, 10), Extent(10, 2, 0, 10), Extent(30, 3, 5, 10))

OVERLAYS = [
    ((), (Extent(5, 9, 0, 5),), (Extent(5, 9, 0, 5),)),
    (OLD, (), OLD),
    (OLD, (Extent(50, 9, 0, 1),), (*OLD, Extent(50, 9, 0, 1))),
    (OLD, (Extent(20, 9, 0, 10),), (*OLD[:2], Extent(20, 9, 0, 10), OLD[2])),
    (OLD, (Extent(0, 9, 0, 40),), (Extent(0, 9, 0, 40),)),
    (
        OLD,
        (Extent(3, 9, 0, 4),),
        (Extent(0, 1, 0, 3), Extent(3, 9, 0, 4), Extent(7, 1, 7, 3), *OLD[1:]),
    ),
    (
        OLD,
        (Extent(5, 9, 0, 28),),
        (Extent(0, 1, 0, 5), Extent(5, 9, 0, 28), Extent(33, 3, 8, 7)),
    ),
    (
        OLD,
        (Extent(2, 8, 0, 1), Extent(4, 9, 0, 1)),
        (
            Extent(0, 1, 0, 2),
            Extent(2, 8, 0, 1),
            Extent(3, 1, 3, 1),
            Extent(4, 9, 0, 1),
            Extent(5, 1, 5, 5),
            *OLD[1:],
        ),
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), OVERLAYS)
def test_an_overlay_has_the_new_extents_where_both_have_one(old, new, expected):
    assert ex.overlay(old, new) == expected


def test_an_extent_written_again_in_its_place_is_one_again():
    parts = ex.overlay((Extent(0, 1, 0, 10),), (Extent(3, 1, 3, 4),))
    assert parts == (Extent(0, 1, 0, 10),)


def test_only_neighbours_in_file_and_block_are_joined():
    apart = (Extent(0, 1, 0, 5), Extent(5, 1, 6, 5), Extent(11, 1, 11, 5), Extent(16, 2, 16, 1))
    assert ex.coalesce(apart) == apart


def test_punch_splits_and_drops():
    assert ex.punch(OLD, 5, 35) == (Extent(0, 1, 0, 5), Extent(35, 3, 10, 5))
    assert ex.punch(OLD, 2, 4) == (Extent(0, 1, 0, 2), Extent(4, 1, 4, 6), *OLD[1:])
    assert ex.punch(OLD, 4, 4) == OLD
    assert ex.punch(OLD, 20, 30) == OLD


def test_truncate_cuts_the_last_extent():
    assert ex.truncate(OLD, 15) == (OLD[0], Extent(10, 2, 0, 5))
    assert ex.truncate(OLD, 0) == ()
    assert ex.truncate(OLD, 40) == OLD


def test_pieces_fill_the_range_with_holes():
    assert ex.pieces(OLD, 5, 50) == [
        Extent(5, 1, 5, 5),
        Extent(10, 2, 0, 10),
        Hole(20, 10),
        Extent(30, 3, 5, 10),
        Hole(40, 10),
    ]
    assert ex.pieces(OLD, 22, 25) == [Hole(22, 3)]
    assert ex.pieces(OLD, 31, 33) == [Extent(31, 3, 6, 2)]
    assert ex.pieces((), 3, 3) == []


def test_an_extent_that_crosses_windows_is_cut_at_their_borders():
    crossing = Extent(WINDOW_BYTES - 10, 1, 0, WINDOW_BYTES + 20)
    assert ex.split_windows((crossing,)) == {
        0: (Extent(WINDOW_BYTES - 10, 1, 0, 10),),
        1: (Extent(WINDOW_BYTES, 1, 10, WINDOW_BYTES),),
        2: (Extent(2 * WINDOW_BYTES, 1, 10 + WINDOW_BYTES, 10),),
    }
    assert list(ex.windows(WINDOW_BYTES - 1, WINDOW_BYTES + 1)) == [0, 1]
    assert list(ex.windows(WINDOW_BYTES, 2 * WINDOW_BYTES)) == [1]
    assert list(ex.windows(5, 5)) == []


def test_a_file_written_in_order_is_stored_as_zeros_and_lengths():
    extents = tuple(Extent(i * 100, 7 + i, 0, 100) for i in range(3))
    assert ex.to_numbers(extents) == [0, 7, 0, 100, 0, 0, 0, 100, 0, 0, 0, 100]
    assert ex.from_numbers_untrusted(ex.to_numbers(extents), limit=3) == extents
    assert ex.to_numbers(OLD) == [0, 1, 0, 10, 0, 0, 0, 10, 10, 0, 5, 10]


LAST = MAX_FILE_BYTES
BAD = [
    None,
    {},
    "text",
    [1],
    [0, 0, 0, 1] * 5,
    [0, 0, 0, True],
    [0, 0, 0, 1.0],
    [0, 0, 0, 0],
    [0, 0, 0, -1],
    [-1, 0, 0, 1],
    [0, -1, 0, 1],
    [0, 0, -1, 2],
    [0, 0, 1, MAX_BLOCK_BYTES],
    [LAST, 0, 0, 1],
    [0, 1 << 53, 0, 1],
    [5, 0, 0, 5, -1, 0, 0, 1],
]


@pytest.mark.parametrize("numbers", BAD)
def test_extents_that_cannot_be_are_refused(numbers):
    with pytest.raises(DecodeError):
        ex.from_numbers_untrusted(numbers, limit=4)


def test_the_last_byte_a_file_can_have_is_accepted():
    numbers = [LAST - 1, 0, 0, 1]
    assert ex.from_numbers_untrusted(numbers, limit=4) == (Extent(LAST - 1, 0, 0, 1),)
