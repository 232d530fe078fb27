"""Compacting: scattered files in one piece, a dense tree, everything as it was."""

from __future__ import annotations

import itertools
import random

import pytest
import trio
import trio.lowlevel

import corestore
import hyperfs
from hyperfs import committer
from hyperfs.compact import scattered
from hyperfs.content import ContentMap
from hyperfs.extents import Extent, Hole
from hyperfs.index import Index
from hyperfs.index.build import dense_steps
from tests.support.drives import snapshot

DATA = random.Random(31).randbytes(4_000_000)


async def extents_of(drive, path):
    entry = await drive.entry(path)
    content = ContentMap.of_entry(entry, drive._tree.view)
    return [p for p in content.pieces(0, entry.size) if isinstance(p, Extent)]


async def scatter(drive, path, rng, changes):
    """Change pages of a file in place, many commits; its bytes then."""
    data = bytearray(await drive.read(path))
    file = drive.open_file(*await drive.resolve(1, path[1:].encode()))
    try:
        for _ in range(changes // 10):
            for _ in range(10):
                at = rng.randrange(len(data) // 4096) * 4096
                page = rng.randbytes(4096)
                data[at : at + 4096] = page
                await file.write(at, page)
            await drive.commit()
    finally:
        file.release()
    return bytes(data)


async def test_compacting_leaves_half_of_the_room_for_unflushed_bytes_to_programs(monkeypatch):
    monkeypatch.setattr(committer, "FLUSH_DIRTY_BYTES", 1_500_000)
    monkeypatch.setattr(committer, "MAX_DIRTY_BYTES", 4_000_000)
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        await drive.write("/f", DATA)
        await drive.write("/g", DATA[::-1])
        for path in ("/f", "/g"):
            await scatter(drive, path, random.Random(2), 1500)
        most = 0
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def look():
                nonlocal most
                while True:
                    most = max(most, drive.statistics().dirty_bytes)
                    await trio.lowlevel.checkpoint()

            await drive.compact(keep_last=1)
            nursery.cancel_scope.cancel()
        assert 1_500_000 < most < 2_500_000


async def test_a_file_changed_in_place_is_in_one_piece_again():
    rng = random.Random(1)
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        await drive.write("/f", DATA, mtime_ns=7)
        await drive.write("/other", DATA[:500_000])
        data = await scatter(drive, "/f", rng, 1500)
        before = await drive.entry("/f")
        fragments = await extents_of(drive, "/f")
        assert len(fragments) > 500
        found = await drive.compact(keep_last=1)
        assert found.byte_length > 1_000_000
        assert await drive.read("/f") == data
        after = await drive.entry("/f")
        assert (after.mtime_ns, after.ctime_ns, after.size) == (
            before.mtime_ns,
            before.ctime_ns,
            before.size,
        )
        extents = await extents_of(drive, "/f")
        assert len(extents) < 150
        blocks = [extent.block for extent in extents]
        # One after the other, but where a chunk was in the store already.
        follows = sum(b - a in (0, 1) for a, b in itertools.pairwise(blocks))
        assert follows > 0.8 * len(blocks)
        assert await drive.read("/other") == DATA[:500_000]
        core = drive.content
        assert core.held_byte_length(0, core.length) < len(DATA) + 1_000_000


async def test_everything_is_as_it_was_also_for_kept_versions():
    rng = random.Random(2)
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        async with drive.batch() as batch:
            for n in range(400):
                await batch.write(f"/{n % 9}/{'n' * 60}{n}", rng.randbytes(rng.randrange(3000)))
            await batch.symlink("/link", "target")
            await batch.write("/f", DATA)
        await scatter(drive, "/f", rng, 300)
        for n in range(0, 400, 3):
            await drive.remove(f"/{n % 9}/{'n' * 60}{n}")
        old, told = drive.version, await snapshot(drive)
        numbers = drive.statistics()
        await drive.compact(keep_last=4)
        async with hyperfs.open(store, key=drive.key, read_timeout=0) as again:
            assert again.version > old
            assert await snapshot(again) == told
            assert await snapshot(await again.checkout(old)) == told
            after = again.statistics()
            assert (after.files, after.byte_length) == (numbers.files, numbers.byte_length)
            assert [change async for change in again.diff(await again.checkout(old), "/1")] == []
        root = drive._tree.view.index.root
        assert (root.overlay, root.number > 100) == (None, True)
        # Writing goes on from there.
        await drive.write("/new", b"new")
        assert await drive.read("/new") == b"new"
        assert await drive.compact(keep_last=1)
        assert await snapshot(drive) == {**told, b"/new": b"new"}


async def test_programs_may_write_meanwhile():
    rng = random.Random(3)
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        await drive.write("/f", DATA[:2_000_000])
        data = bytearray(await scatter(drive, "/f", rng, 600))
        file = drive.open_file(*await drive.resolve(1, b"f"))

        async def write():
            for _ in range(200):
                at = rng.randrange(len(data) - 100)
                piece = rng.randbytes(100)
                data[at : at + 100] = piece
                await file.write(at, piece)
                await trio.lowlevel.checkpoint()
                if rng.random() < 0.1:
                    await drive.commit()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(lambda: drive.compact(keep_last=1))
        assert await file.read(0, len(data)) == bytes(data)
        file.release()
        await drive.commit()
        async with hyperfs.open(store, key=drive.key, read_timeout=0) as again:
            assert await again.read("/f") == bytes(data)


@pytest.mark.parametrize("count", [0, 1, 60, 255, 256, 257, 5_000])
async def test_a_copied_tree_holds_the_same_records(count):
    rng = random.Random(count)
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        async with drive.batch() as batch:
            for _ in range(count):
                await batch.mkdir(f"/{rng.randbytes(rng.randrange(1, 40)).hex()}", exist_ok=True)
        view = drive._tree.view
        before = view.index.scan(b"", None, 100_000)
        await drive.compact(keep_last=1)
        index = Index(drive.version - 1, drive._tree.metadata_blocks, view.index.cache)
        assert index.scan(b"", None, 100_000) == before
        assert index.root.tree is not None
        # It takes no more blocks than what it holds: nothing else is left.
        size = sum(len(key) + len(value) for key, value in before)
        held = sum(end - start for start, end in drive.metadata.held(0, drive.version))
        assert held <= size / 2_000 + 25
        with pytest.raises(ValueError, match="log ends"):
            list(dense_steps(index, first_block=1, time_ns=0, content_length=0, next_id=9))


def test_stretches_between_holes_are_judged_alone():
    pages = [Extent(n * 4096, 100 - n, 0, 4096) for n in range(20)]
    dense = [Extent(500_000 + n * 65536, n, 0, 65536) for n in range(5)]
    hole = Hole(20 * 4096, 500_000 - 20 * 4096)
    assert scattered([*pages, hole, *dense]) == [(0, 20 * 4096)]
    assert scattered([*dense, Hole(0, 1)]) == []
    assert scattered([]) == []
