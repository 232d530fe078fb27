"""What a large drive costs: in blocks fetched, in bytes appended, in memory; never in seconds."""

from __future__ import annotations

import os
import random
import sys
from contextlib import asynccontextmanager

import pytest
import trio

import corestore
import hyperfs
from hyperfs.drive import ROOT_ID
from hyperfs.index import BlocksMissing
from hyperfs.vfs.inodes import InodeTable
from tests.support.builders import linked
from tests.support.limits import HANG_SECONDS
from tools import large_drive
from tools.program import people, wait_until

FILES = 10_000
PAGE = 4096
COMPONENTS = 3


@asynccontextmanager
async def large_drive_of(files, *, renamed=1000):
    """(store, drive) of many files, with an overlay over the tree."""
    async with corestore.open(None) as store:
        key = await hyperfs.create(store, "large")
        async with hyperfs.open(store, key=key) as drive:
            await large_drive.fill(drive, files, renamed=renamed)
            for number in range(30):
                await drive.write(f"/changed/{number}", b"changed")
            await drive.sync()
            yield store, drive


@asynccontextmanager
async def fresh_reader(store, key):
    """(drive, metadata core) in a store that has nothing, connected to *store*."""
    async with corestore.open(None) as far, linked(store, far):
        metadata = await far.get(key=key)
        async with hyperfs.open(far, key=key) as drive:
            with trio.fail_after(HANG_SECONDS):
                await drive.ready()
            yield drive, metadata


# -- looking up ------------------------------------------------------------------------------------


async def look_up_cold(files, paths):
    """How many blocks the first look-up of each path takes, of a reader that has nothing."""
    counts = []
    async with large_drive_of(files) as (store, writer):
        for path in paths:
            async with fresh_reader(store, writer.key) as (drive, metadata):
                entry = await drive.entry(path)
                assert entry.inline == large_drive.content(path)
                counts.append(metadata.statistics().blocks_received)
    return counts


async def test_a_cold_look_up_fetches_a_block_a_name_and_four():
    source = random.Random(1)
    paths = [large_drive.tree_path(source.randrange(FILES)) for _ in range(10)]
    # The header, the root block, the overlay, and the one node above the leaves.
    assert max(await look_up_cold(FILES, paths)) <= 4 + COMPONENTS


@pytest.mark.slow
async def test_a_cold_look_up_among_very_many_fetches_two_blocks_a_name_and_three():
    source = random.Random(1)
    paths = [large_drive.tree_path(source.randrange(300_000)) for _ in range(20)]
    # The topmost node comes with the overlay; below it are a node and a leaf for each name.
    counts = await look_up_cold(300_000, paths)
    assert max(counts) <= 3 + 2 * COMPONENTS
    assert sorted(counts)[10] <= 8


async def test_with_the_inner_nodes_here_a_look_up_fetches_a_block_a_name(autojump_clock):
    source = random.Random(2)
    async with (
        large_drive_of(FILES) as (store, writer),
        fresh_reader(store, writer.key) as (drive, metadata),
    ):
        await trio.sleep(5)  # they are fetched without being asked for
        assert metadata.statistics().blocks_received < 10
        for _ in range(50):
            before = metadata.statistics().blocks_received
            await drive.entry(large_drive.tree_path(source.randrange(FILES)))
            assert metadata.statistics().blocks_received - before <= COMPONENTS


async def test_a_cold_listing_fetches_only_the_leaves_it_lists():
    async with (
        large_drive_of(FILES) as (store, writer),
        fresh_reader(store, writer.key) as (drive, metadata),
    ):
        assert writer.statistics().files > 20_000
        found = [each async for each in drive.scandir("/ten-thousand")]
        assert len(found) == large_drive.LISTED
        assert found[77].entry.inline == large_drive.content(large_drive.listed_path(77))
        # Some 25 of these records fill a leaf.
        assert metadata.statistics().blocks_received < large_drive.LISTED / 20


# -- changing --------------------------------------------------------------------------------------


async def test_renaming_a_large_directory_appends_no_more_than_renaming_a_file():
    async with large_drive_of(0, renamed=30_000) as (store, drive):
        metadata = await store.get(key=drive.key)
        await drive.write("/file", b"small")
        grown = {}
        for name in ("file", "hundred-thousand"):
            before, size = metadata.length, metadata.byte_length
            await drive.rename(f"/{name}", "/renamed")
            await drive.commit()
            assert metadata.length - before <= 2
            grown[name] = metadata.byte_length - size
            await drive.rename("/renamed", f"/{name}")
            await drive.commit()
        # Each is one block, or two when the root's changes move into the overlay.
        assert max(grown.values()) < 16 * 1024
        assert len([each async for each in drive.scandir("/hundred-thousand")]) == 30_000


async def test_a_rename_of_a_large_directory_is_followed_by_a_few_blocks():
    async with (
        large_drive_of(0, renamed=30_000) as (store, writer),
        fresh_reader(store, writer.key) as (reader, metadata),
    ):
        with reader.watch_changes() as changes:
            await reader.entry("/hundred-thousand/000123")
            before = metadata.statistics().blocks_received
            await writer.rename("/hundred-thousand", "/renamed")
            await writer.sync()
            with trio.fail_after(HANG_SECONDS):
                async for change in changes:
                    if change.version == writer.version:
                        break
            names = {(each.directory, each.name) for each in change.changes}
            assert {(ROOT_ID, b"hundred-thousand"), (ROOT_ID, b"renamed")} <= names
            assert len(names) <= 3  # and the root directory's times
            assert metadata.statistics().blocks_received - before <= 8
        assert (await reader.entry("/renamed/000123")).size == 0


async def test_a_sync_of_a_page_appends_its_window_and_not_all_extents():
    pages = 32 * 1024 * 1024 // PAGE
    source = random.Random(4)
    async with corestore.open(None) as store:
        key = await hyperfs.create(store, "pages")
        metadata = await store.get(key=key)
        async with hyperfs.open(store, key=key) as drive:
            await drive.write("/file", source.randbytes(pages * PAGE))
            await drive.commit()
            file = drive.open_file(await drive.entry("/file"), (ROOT_ID, b"file"))
            expected = {}

            async def change(count):
                for _ in range(count):
                    at = source.randrange(pages) * PAGE
                    expected[at] = source.randbytes(PAGE)
                    await file.write(at, expected[at])
                await drive.commit()

            async def average(commits):
                before = metadata.byte_length
                for _ in range(commits):
                    await change(1)
                return (metadata.byte_length - before) / commits

            early = await average(50)
            for _ in range(40):
                await change(100)
            late = await average(50)
            extents = 0
            for window in range(128):
                extents += len(file.content.window(window))
            file.release()
            assert extents > 4000
            # All extents would be some 8 bytes each, with every commit.
            assert late < extents * 8 / 5
            assert late < 5 * early
            for at, data in expected.items():
                assert await drive.read("/file", at, PAGE) == data


async def test_a_sparse_file_of_twenty_gibibytes_is_as_large_as_what_is_in_it():
    size = 20 << 30
    spots = {at: bytes([at % 251]) * PAGE for at in range(0, size, size // 50 + PAGE)}
    async with corestore.open(None) as store:
        key = await hyperfs.create(store, "sparse")
        async with hyperfs.open(store, key=key) as writer:
            await writer.write("/file", b"")
            file = writer.open_file(await writer.entry("/file"), (ROOT_ID, b"file"))
            file.truncate(size)
            for at, data in spots.items():
                await file.write(at, data)
            file.release()
            await writer.sync()
            metadata = await store.get(key=key)
            assert metadata.byte_length < 16 * 1024
            assert writer.statistics().content_byte_length <= len(spots) * PAGE
            async with fresh_reader(store, key) as (reader, _):
                assert (await reader.entry("/file")).size == size
                for at, data in spots.items():
                    assert await reader.read("/file", at, PAGE) == data
                assert await reader.read("/file", size // 2 + PAGE, 3 * PAGE) == bytes(3 * PAGE)
                assert await reader.read("/file", size - 1, 10) == b"\0"


# -- reading in order ------------------------------------------------------------------------------


async def test_reading_in_order_waits_only_at_the_beginning(autojump_clock):
    # So many extents that where they lie takes some twenty leaves.
    size, step, piece = 64 * 1024 * 1024, 128 * 1024, 3000
    async with corestore.open(None) as store:
        key = await hyperfs.create(store, "long")
        async with hyperfs.open(store, key=key) as writer:
            await writer.write("/file", b"")
            file = writer.open_file(await writer.entry("/file"), (ROOT_ID, b"file"))
            for at in range(0, size, 16 * 1024):
                await file.write(at, (at.to_bytes(4, "big") * piece)[:piece])
            file.truncate(size)
            file.release()
            await writer.sync()
            async with fresh_reader(store, key) as (reader, _):
                file = reader.open_file(await reader.entry("/file"), (ROOT_ID, b"file"))
                core = reader.content
                waits = 0
                for at in range(0, size, step):
                    try:
                        found = file.content.pieces(at, at + step)
                        waits += not all(core.has(each.block) for each in found[::2])
                    except BlocksMissing:
                        # Not even known where the content lies.
                        waits += 1
                    data = await file.read(at, step)
                    assert data[:piece] == (at.to_bytes(4, "big") * piece)[:piece]
                    await trio.sleep(1)
                file.release()
                assert waits <= 4


async def test_random_reads_fetch_only_what_they_read():
    size = 8 * 1024 * 1024
    source = random.Random(6)
    async with corestore.open(None) as store:
        key = await hyperfs.create(store, "long")
        async with hyperfs.open(store, key=key) as writer:
            await writer.write("/file", source.randbytes(size))
            await writer.sync()
            async with fresh_reader(store, key) as (reader, _):
                for number in range(1, 20):
                    await reader.read("/file", source.randrange(size - PAGE), PAGE)
                    assert reader.content.statistics().blocks_received <= 2 * number


# -- memory ----------------------------------------------------------------------------------------


def test_known_inodes_take_forty_bytes_each():
    table = InodeTable(hot=1000)
    count = 100_000
    for number in range(count):
        table.known(number + 2, (number // 100 + 1, b"file %07d.txt" % number)).lookups += 1
    packed = table._cold
    assert len(packed) > 0.9 * count
    size = sum(map(sys.getsizeof, packed._pages.values())) + sys.getsizeof(packed._pages)
    assert size / len(packed) < 40


@pytest.mark.fuse
@pytest.mark.slow
def test_a_mount_remembers_100_000_files_in_a_few_megabytes(tmp_path):
    trio.run(large_drive.make, tmp_path / "alice", "large", FILES, lambda names: None)
    with people(tmp_path, "alice", "bob") as (alice, bob):
        local = alice.mount("large", tmp_path / "local", "--listen", "127.0.0.1:0")
        key = local.ready["key"]
        remote = bob.mount(key, tmp_path / "remote", "--peer", local.address)
        listed = large_drive.listed_path(77)
        assert (remote.folder / listed).read_bytes() == large_drive.content(listed)
        for mount in (local, remote):
            before = mount.peak_memory()
            names = 0
            for _, folders, files in os.walk(mount.folder):
                names += len(folders) + len(files)
            assert names > FILES + large_drive.LISTED + large_drive.RENAMED
            # The caches of nodes and of attributes are bounded, whatever the number of files.
            assert mount.peak_memory() - before < 80_000_000
        os.rename(local.folder / "hundred-thousand", local.folder / "renamed")
        remembered = remote.folder / "renamed" / f"{large_drive.RENAMED - 1:06}"
        wait_until(remembered.exists)
        remote.interrupt()
        local.interrupt()
