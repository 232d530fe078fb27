"""Hyperdrives of the Node stack, made by hand and read over a link: lies, absences, restarts.

Drives made by Node itself are in tests/interop.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

import corestore
import hyperfs
from corestore import DecodeError, derive_manifest
from hyperfs.opening import BLOBS
from hyperfs.vfs.attributes import Attributes, Presentation
from tests.support.builders import linked
from tests.support.drives import contents, snapshot
from tests.support.hyperdrives import Hyperdrive, blob, record
from tests.support.limits import HANG_SECONDS

CONTENT = [
    bytes([number]) * size for number, size in enumerate([5, 65536, 4464, 1, 700, 3, 90_000])
]
STARTS = [sum(map(len, CONTENT[:number])) for number in range(len(CONTENT))]


@asynccontextmanager
async def made(files, *, content=CONTENT, read_timeout=None):
    """(reader's drive, the metadata core of the writer, its drive in blocks, both stores)."""
    made = Hyperdrive()
    for path, value in files.items():
        made.put(path, value)
    async with corestore.open(None) as near, corestore.open(None) as far:
        pair = near.key_pair("drive")
        metadata = await near.get(key_pair=pair)
        manifest = derive_manifest(metadata.manifest, BLOBS, metadata.key)
        blobs = await near.get(manifest=manifest, key_pair=pair)
        await metadata.append(*made.metadata.blocks)
        if content:
            await blobs.append(*content)
        await near.sync()
        async with (
            linked(near, far),
            hyperfs.open(far, key=metadata.key, read_timeout=read_timeout) as drive,
        ):
            with trio.fail_after(HANG_SECONDS):
                await drive.ready()
            yield drive, metadata, made, near, far


def part(first, count=1, **changes):
    """The record of a file that is *count* blocks of CONTENT."""
    size = sum(map(len, CONTENT[first : first + count]))
    return record(blob={**blob(first, STARTS[first], size, count), **changes})


async def test_blobs_of_all_layouts_are_read():
    files = {
        "/one": part(0),
        "/even": part(1, 2),
        "/uneven": part(2, 5),
        "/none": record(),
        "/empty": record(blob=blob(99, 99, 0, 0)),
    }
    async with made(files) as (drive, *_):
        found = await snapshot(drive)
        assert found == {
            b"/": None,
            b"/one": CONTENT[0],
            b"/even": CONTENT[1] + CONTENT[2],
            b"/uneven": b"".join(CONTENT[2:7]),
            b"/none": b"",
            b"/empty": b"",
        }
        assert drive.previous() == drive.version - 1
        assert (drive.time_ns, drive.statistics().files) == (0, 0)
        entry, location = await drive.resolve(1, b"uneven")
        shown = Presentation().show(Attributes, entry, None, None)
        assert shown.blocks * 512 == -(-entry.size // 4096) * 4096
        file = drive.open_file(entry, location)
        assert file.used_bytes == entry.size
        assert await contents(file) == found[b"/uneven"]
        file.release()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(part(1, 2, byteOffset=2**50), id="bytes beyond the core"),
        pytest.param(part(1, 2, byteOffset=STARTS[6]), id="bytes of other blocks"),
        pytest.param(part(1, 2, byteLength=80_000, blockLength=2), id="more bytes than its blocks"),
        pytest.param(part(3, 2, byteLength=2**50), id="more bytes than there are"),
        pytest.param(part(3, 1, byteOffset=0), id="bytes in front of its blocks"),
    ],
)
async def test_blobs_that_lie_are_errors_of_that_read(value):
    async with made({"/good": part(0), "/lie": value}) as (drive, *_):
        with trio.fail_after(HANG_SECONDS):
            size = (await drive.entry("/lie")).size
            with pytest.raises(DecodeError):
                await drive.read("/lie", max(0, min(size, 80_000) - 10), 10)
            assert await drive.read("/good") == CONTENT[0]


async def test_blobs_that_are_not_there_take_the_patience_of_the_drive(autojump_clock):
    async with made({"/later": part(7 - 1, byteLength=5)}, content=CONTENT[:3], read_timeout=3) as (
        drive,
        *_,
    ):
        before = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await drive.read("/later")
        assert trio.current_time() - before == pytest.approx(3, abs=0.5)


async def test_content_may_come_after_the_names():
    async with made({"/later": part(5, 2)}, content=CONTENT[:3]) as (drive, _, _, near, _):
        got = []
        async with trio.open_nursery() as nursery:

            async def read():
                got.append(await drive.read("/later"))

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.01)
            async with await near.get(key=drive.content.key) as blobs:
                await blobs.append(*CONTENT[3:])
                await near.sync()
        assert got == [CONTENT[5] + CONTENT[6]]


async def test_mapped_blobs_are_read_and_lies_in_them_are_errors():
    good = bytes((0, 3, 0, 5, 3, 1, 0, 5))
    content = [*CONTENT, good, bytes((0, 1, 0, 6)), b"\1"]
    at = STARTS[-1] + len(CONTENT[-1])
    files = {
        "/good": record(blob={**blob(7, at, len(good)), "blockMap": True}),
        "/lie": record(blob={**blob(8, at + 8, 4), "blockMap": True}),
        "/other": record(blob={**blob(9, at + 12, 1), "blockMap": True}),
    }
    async with made(files, content=content) as (drive, *_):
        shown = [each.path async for each in drive.walk()]
        assert shown == [b"/good", b"/lie"]
        assert (await drive.entry("/good")).size == 11
        assert await drive.read("/good") == CONTENT[0] + CONTENT[3] + CONTENT[0]
        assert await drive.read("/good", 4, 3) == b"\0\3\0"
        with pytest.raises(DecodeError):
            await drive.read("/lie")
        with pytest.raises(DecodeError):
            await drive.entry("/other")


async def test_who_has_the_secret_key_reads_all_the_same():
    async with (
        made({"/a": part(0)}) as (drive, _, _, near, _),
        hyperfs.open(near, key=drive.key) as own,
    ):
        assert own.metadata.writable
        assert not own.writable
        assert await own.read("/a") == CONTENT[0]
        with pytest.raises(corestore.NotWritable):
            await own.write("/b", b"")


async def test_a_hyperbee_that_is_no_drive_is_refused():
    async with corestore.open(None) as store:
        core = await store.get(name="bee")
        await core.append(b"\x0a\x08hyperbee", b"\x0a\x05\x0a\x03\x0a\x01\x01\x12\x01a")
        with pytest.raises(hyperfs.NotADrive):
            async with hyperfs.open(store, key=core.key):
                pass


async def test_a_damaged_version_leaves_the_one_before():
    async with made({"/a": part(0), "/b": part(3)}) as (drive, metadata, made_drive, near, _):
        version = drive.version
        await metadata.append(b"no block of a Hyperbee")
        await near.sync()
        with trio.fail_after(HANG_SECONDS):
            await drive.update()
        assert drive.version == version
        assert await drive.read("/a") == CONTENT[0]
        made_drive.metadata.blocks.append(b"")
        made_drive.put("/c", part(5))
        await metadata.append(made_drive.metadata.blocks[-1])
        await near.sync()
        with trio.fail_after(HANG_SECONDS):
            while drive.version == version:
                await drive.update()
        assert (await snapshot(drive)).keys() == {b"/", b"/a", b"/b", b"/c"}


async def test_a_drive_is_shown_without_peers_as_far_as_it_was_read(tmp_path):
    async with made({"/a": part(0), "/d/b": part(3)}) as (drive, _, _, near, _far):
        key = drive.key
        async with (
            corestore.open(tmp_path) as store,
            linked(near, store),
            hyperfs.open(store, key=key) as copy,
        ):
            await copy.ready()
            assert await copy.read("/a") == CONTENT[0]
            async for _ in copy.walk():
                pass
        async with (
            corestore.open(tmp_path) as store,
            hyperfs.open(store, key=key, read_timeout=0) as copy,
        ):
            assert [each.path async for each in copy.walk()] == [b"/a", b"/d", b"/d/b"]
            assert await copy.read("/a") == CONTENT[0]
            with pytest.raises(trio.TooSlowError):
                await copy.read("/d/b")
