"""Chunks: where cuts fall, that they stay after an insertion, and the table of known ones."""

from __future__ import annotations

import random

import pytest

from hyperfs.chunks import (
    AVERAGE_BYTES,
    LEAST_BYTES,
    MOST_BYTES,
    MemoryChunkTable,
    split,
)

DATA = random.Random(5).randbytes(4 << 20)


def test_chunks_are_views_that_make_up_the_data():
    chunks = split(DATA)
    assert b"".join(chunks) == DATA
    assert all(chunk.obj is DATA for chunk in chunks)


def test_chunk_sizes_keep_their_bounds_and_their_average():
    chunks = split(DATA)
    assert all(LEAST_BYTES <= len(chunk) <= MOST_BYTES for chunk in chunks[:-1])
    assert AVERAGE_BYTES * 0.7 < len(DATA) / len(chunks) < AVERAGE_BYTES * 1.4


def test_the_cuts_are_those_of_every_version_so_far():
    # Changing them would be allowed, but would store once more what is written again.
    assert [len(chunk) for chunk in split(DATA)[:5]] == [50831, 73891, 51328, 70123, 64689]


@pytest.mark.parametrize("lead", [1, 1000, 100_000])
def test_most_chunks_survive_an_insertion_in_front(lead):
    before = set(map(bytes, split(DATA)))
    after = set(map(bytes, split(bytes(lead) + DATA)))
    assert len(before & after) >= 0.9 * len(before)


def test_all_cuts_but_the_last_stay_when_more_data_follows():
    for size in (100_000, 1 << 20, 3_000_000):
        short, whole = split(DATA[:size]), split(DATA)
        assert list(map(len, short[:-1])) == list(map(len, whole[: len(short) - 1]))


@pytest.mark.parametrize("size", [0, 1, LEAST_BYTES])
def test_little_data_is_one_chunk_or_none(size):
    assert [len(chunk) for chunk in split(bytes(size))] == ([size] if size else [])


def test_zeros_are_cut_at_the_most():
    assert {len(chunk) for chunk in split(bytes(4 * MOST_BYTES))} == {MOST_BYTES}


def test_a_view_into_larger_data_is_cut_by_its_own_bytes():
    view = memoryview(DATA)[100 : 1 << 20]
    assert list(map(bytes, split(view))) == list(map(bytes, split(bytes(view))))


def test_a_table_finds_what_was_added():
    table = MemoryChunkTable(b"secret", chunks=4096)
    chunks = [b"%d" % i for i in range(1000)]
    for block, chunk in enumerate(chunks):
        assert table.find(table.fingerprint(chunk)) is None
        table.add(table.fingerprint(chunk), block, 7, len(chunk))
    found = [table.find(table.fingerprint(chunk)) for chunk in chunks]
    assert found.count(None) < 20
    assert all(
        place is None or place == (block, 7, len(chunks[block]))
        for block, place in enumerate(found)
    )


def test_a_chunk_added_again_is_found_at_its_newest_place():
    table = MemoryChunkTable(b"secret")
    for block in range(10):
        table.add(b"12345678", block, 0, 5)
    assert table.find(b"12345678") == (9, 0, 5)


def test_a_full_table_forgets_chunks_and_never_grows():
    table = MemoryChunkTable(b"secret", chunks=8)
    fingerprints = [table.fingerprint(b"%d" % number) for number in range(100)]
    for number, fingerprint in enumerate(fingerprints):
        table.add(fingerprint, number, 0, 1)
        assert table.find(fingerprint) == (number, 0, 1)
    assert sum(table.find(fingerprint) is not None for fingerprint in fingerprints) == 8


def test_fingerprints_depend_on_the_key():
    assert MemoryChunkTable(b"a").fingerprint(b"x") != MemoryChunkTable(b"b").fingerprint(b"x")
