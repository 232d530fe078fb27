"""The chunk table that is kept from one opening to the next."""

from __future__ import annotations

import hashlib

import trio

import corestore
from hyperfs import dedup
from hyperfs.dedup import StoredChunkTable


def entry(number):
    fingerprint = hashlib.blake2b(b"%d" % number, digest_size=8).digest()
    return fingerprint, number, number % 7, 5000 + number


async def opened(store, core, nursery):
    """A table as a drive opens it, everything kept loaded."""
    table = StoredChunkTable(store, core)
    table.want()
    nursery.start_soon(table.run)
    await trio.testing.wait_all_tasks_blocked()
    return table


async def test_what_was_added_is_found_by_the_next_opening(nursery):
    async with corestore.open(None) as store, await store.get(name="content") as core:
        added = []
        for round in range(4):
            table = await opened(store, core, nursery)
            for fingerprint, *place in added:
                assert table.find(fingerprint) == tuple(place)
            for number in range(100):
                added.append(entry(1000 * round + number))
                table.add(*added[-1])
            await table.save()
            await table.save()


async def test_full_segments_are_saved_by_themselves(nursery, monkeypatch):
    monkeypatch.setattr(dedup, "SEGMENT_CHUNKS", 10)
    async with corestore.open(None) as store, await store.get(name="content") as core:
        table = await opened(store, core, nursery)
        for number in range(25):
            table.add(*entry(number))
        await trio.testing.wait_all_tasks_blocked()
        again = await opened(store, core, nursery)
        assert all(again.find(entry(number)[0]) for number in range(25))


async def test_the_oldest_segment_is_overwritten(nursery, monkeypatch):
    monkeypatch.setattr(dedup, "SEGMENT_CHUNKS", 10)
    monkeypatch.setattr(dedup, "SEGMENTS", 4)
    async with corestore.open(None) as store, await store.get(name="content") as core:
        table = await opened(store, core, nursery)
        for number in range(95):
            table.add(*entry(number))
            if number % 7 == 0:
                await table.save()
        await table.save()
        again = await opened(store, core, nursery)
        found = [number for number in range(95) if again.find(entry(number)[0])]
        assert found == list(range(found[0], 95))
        assert 30 <= len(found) <= 40


async def test_the_newest_place_of_a_chunk_is_kept(nursery):
    async with corestore.open(None) as store, await store.get(name="content") as core:
        for block in (1, 2, 3):
            table = await opened(store, core, nursery)
            table.add(b"12345678", block, 0, 100)
            await table.save()
        again = await opened(store, core, nursery)
        assert again.find(b"12345678") == (3, 0, 100)
        # What is added before the load is done is newer than all that is loaded.
        early = StoredChunkTable(store, core)
        early.want()
        early.add(b"12345678", 4, 0, 100)
        nursery.start_soon(early.run)
        await trio.testing.wait_all_tasks_blocked()
        assert early.find(b"12345678") == (4, 0, 100)


async def test_fingerprints_differ_between_stores_and_cores():
    seen = set()
    for _ in range(2):
        async with corestore.open(None) as store:
            for name in ("one", "two"):
                async with await store.get(name=name) as core:
                    seen.add(StoredChunkTable(store, core).fingerprint(b"data"))
    assert len(seen) == 4
