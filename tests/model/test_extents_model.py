"""Extents and dirty ranges against a bytearray: random writes, truncations, holes and reads."""

from __future__ import annotations

import itertools
import random

import pytest

from hyperfs import extents as ex
from hyperfs.dirty import DirtyRanges
from hyperfs.extents import WINDOW_BYTES, Extent

SPAN = 5000


def read(extents, blocks, start, end):
    out = bytearray()
    for piece in ex.pieces(extents, start, end):
        assert piece.offset == start + len(out)
        if isinstance(piece, Extent):
            block = blocks[piece.block]
            out += block[piece.block_offset : piece.block_offset + piece.length]
        else:
            out += bytes(piece.length)
    return bytes(out)


def check(extents):
    """Sorted, without overlaps, neighbours joined, and the same after storing."""
    for left, right in itertools.pairwise(extents):
        assert left.end <= right.offset
    assert ex.coalesce(extents) == extents
    assert all(extent.length > 0 for extent in extents)
    numbers = ex.to_numbers(extents)
    assert ex.from_numbers_untrusted(numbers, limit=len(extents)) == extents


@pytest.mark.parametrize("seed", range(40))
def test_extents_read_like_a_bytearray(seed):
    rng = random.Random(seed)
    file, blocks, extents = bytearray(), [], ()
    for _ in range(120):
        start = rng.randrange(SPAN)
        length = rng.choice([1, 3, 50, 700])
        match rng.randrange(8):
            case 0:
                size = rng.randrange(SPAN)
                extents = ex.truncate(extents, size)
                del file[size:]
                file.extend(bytes(size - len(file)))
            case 1:
                extents = ex.punch(extents, start, start + length)
                end = min(start + length, len(file))
                if start < end:
                    file[start:end] = bytes(end - start)
            case _:
                # One commit: several ranges, cut into blocks that hold several pieces each.
                new, at = [], start
                for _ in range(rng.randint(1, 4)):
                    lead = bytes(rng.choice([0, 0, 9]))
                    data = rng.randbytes(length)
                    if blocks and rng.random() < 0.5:
                        new.append(Extent(at, len(blocks) - 1, len(blocks[-1]), length))
                        blocks[-1] += data
                    else:
                        new.append(Extent(at, len(blocks), len(lead), length))
                        blocks.append(lead + data)
                    file.extend(bytes(max(0, at + length - len(file))))
                    file[at : at + length] = data
                    at += length + rng.choice([0, 0, 13])
                extents = ex.overlay(extents, new)
        check(extents)
        assert not extents or extents[-1].end <= len(file)
        assert read(extents, blocks, 0, len(file)) == file
        low = rng.randrange(SPAN)
        high = min(low + rng.randrange(800), len(file))
        if low < high:
            assert read(extents, blocks, low, high) == file[low:high]


@pytest.mark.parametrize("seed", range(10))
def test_windows_hold_the_same_bytes(seed):
    rng = random.Random(seed)
    extents = ()
    for number in range(30):
        start = rng.randrange(5 * WINDOW_BYTES)
        extents = ex.overlay(extents, [Extent(start, 2 * number, 5, rng.randrange(1, 2 << 20))])
    split = ex.split_windows(extents)
    assert list(split) == sorted(split)
    for window, parts in split.items():
        low, high = window * WINDOW_BYTES, (window + 1) * WINDOW_BYTES
        assert all(low <= part.offset and part.end <= high for part in parts)
        assert ex.pieces(parts, low, high) == ex.pieces(extents, low, high)
        assert window in ex.windows(extents[0].offset, extents[-1].end)
    assert ex.coalesce(part for parts in split.values() for part in parts) == extents


@pytest.mark.parametrize("seed", range(40))
def test_dirty_ranges_read_like_a_bytearray(seed, monkeypatch):
    # Small bounds, so that both kinds of segments and full ones occur.
    monkeypatch.setattr("hyperfs.dirty.KEEP_BYTES", 64)
    monkeypatch.setattr("hyperfs.dirty.SEGMENT_BYTES", 300)
    rng = random.Random(seed)
    dirty, file, known = DirtyRanges(), bytearray(SPAN), bytearray(SPAN)
    last = 0
    held = []
    for _ in range(300):
        match rng.randrange(12):
            case 0:
                size = rng.randrange(SPAN)
                dirty.truncate(size)
                file[size:] = bytes(SPAN - size)
                known[size:] = bytes(SPAN - size)
            case 1:
                held.append([(offset, view, bytes(view)) for offset, view in dirty.ranges()])
            case _:
                start = rng.choice([last, last, rng.randrange(SPAN)])
                data = rng.randbytes(min(rng.choice([1, 5, 63, 64, 200, 900]), SPAN - start))
                dirty.write(start, data)
                last = start + len(data)
                file[start:last] = data
                known[start:last] = b"\1" * len(data)
        start = rng.randrange(SPAN)
        end = min(SPAN, start + rng.randrange(1000))
        pieces = dirty.overlapping(start, end)
        covered = bytearray(end - start)
        for offset, piece in pieces:
            assert piece == file[offset : offset + len(piece)]
            covered[offset - start : offset - start + len(piece)] = b"\1" * len(piece)
        assert covered == known[start:end]
        count = sum(known)
        assert count <= dirty.size_bytes
        assert bool(dirty) == bool(count)
    runs = dirty.ranges()
    assert sum(len(view) for _, view in runs) == sum(known)
    assert all(left + len(view) < right for (left, view), (right, _) in itertools.pairwise(runs))
    assert all(view == copy for ranges in held for _, view, copy in ranges)
    for offset, run in dirty.runs():
        low = rng.randrange(len(run))
        high = rng.randrange(low, len(run) + 1)
        assert run[low:high] == file[offset + low : offset + high]
