"""What a disk has damaged is found, and comes from peers again; no version is built on it."""

from __future__ import annotations

import errno
import os
import random
import stat
from contextlib import asynccontextmanager

import pytest
import trio

import corestore
import hyperfs
from corestore import BlockNotAvailable, DiskStorage, InvalidChecksum
from corestore.checking import check_served
from corestore.storage.files import FileIO
from tests.support.builders import block, eventually, fill, linked, open_with
from tests.support.limits import HANG_SECONDS

DATA = random.Random(3).randbytes(3_000_000)


def flip(path, offsets):
    """Change one bit at each of these places."""
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))


def data_files(folder):
    return sorted(
        (p for p in (folder / "data").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


@asynccontextmanager
async def copied_and_damaged(folder):
    """A core of 100 blocks of 1000 bytes with its store, copied to a store in *folder*, of whose
    block 70 the disk has damaged the last byte since."""
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 100, size=1000)
        async with (
            corestore.open(folder) as copying,
            await copying.get(key=core.key) as copy,
            linked(store, copying),
        ):
            await copy.wait_length(100)
            await copy.download()
        flip(data_files(folder)[-1], [70_999])
        yield store, core


async def test_damaged_blocks_are_found_and_forgotten(tmp_path):
    async with corestore.open(tmp_path / "s") as store:
        core = await store.get(name="log")
        await fill(core, 100, size=1000)
        await store.sync()
        assert await core.check() == ([], [])
        key = core.key
    (file,) = data_files(tmp_path / "s")
    flip(file, [5_500, 70_999, 99_000])
    async with corestore.open(tmp_path / "s") as store:
        core = await store.get(key=key)
        with pytest.raises(InvalidChecksum):
            core.get_nowait(5, check=True)
        assert await core.check(6) == ([70, 99], [])
        assert await core.check() == ([5], [])
        assert await core.check() == ([], [])
        assert not core.has(70)
        with pytest.raises(BlockNotAvailable):
            core.get_nowait(5)
        assert await core.append(b"goes on") == 101


class FailingSector(FileIO):
    """A disk that fails to read one byte of a data file."""

    at = None

    def pread(self, fd, length, offset):
        if self.at is not None and offset <= self.at < offset + length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread(fd, length, offset)


async def test_a_check_goes_on_past_what_the_disk_fails_to_read(tmp_path):
    near, far = FailingSector(), FailingSector()
    async with (
        open_with(DiskStorage(tmp_path / "near", io=near)) as store,
        open_with(DiskStorage(tmp_path / "far", io=far)) as reading,
    ):
        core = await store.get(name="log")
        await fill(core, 100, size=1000)
        await store.sync()
        copy = await reading.get(key=core.key)
        async with linked(store, reading):
            with trio.fail_after(HANG_SECONDS):
                await copy.wait_length(100)
                await copy.download()
        await reading.sync()
        near.at = far.at = 70_500
        flip(data_files(tmp_path / "near")[-1], [80_500])
        # The only copy may be read again, in another place; a reader's block comes again.
        assert await core.check() == ([80], [70])
        assert core.has(70)
        assert await copy.check() == ([70], [])
        assert not copy.has(70)
        with pytest.raises(OSError, match="error"):
            await core.get(70)
        near.at = far.at = None
        assert await core.check() == ([], [])
        async with linked(store, reading):
            with trio.fail_after(HANG_SECONDS):
                assert await copy.get(70) == block(70, 1000)


async def test_blocks_that_cannot_be_read_do_not_keep_peers_from_the_others(tmp_path, caplog):
    async with corestore.open(tmp_path) as store, corestore.open(None) as reading:
        core = await store.get(name="log")
        await fill(core, 100, size=1000)
        await store.sync()
        (file,) = data_files(tmp_path)
        os.truncate(file, 90_500)
        copy = await reading.get(key=core.key)
        async with linked(store, reading):
            with trio.fail_after(HANG_SECONDS):
                copy.hint(range(100))
                await copy.download(0, 90)
            assert len(copy.peers) == len(core.peers) == 1
            assert not copy.has(90)
    assert sum("cannot be served" in message for message in caplog.messages) == 1


async def hold(path, near, key):
    """Have a store at *path* hold all of a drive of *near*, and close it."""
    async with (
        corestore.open(path) as far,
        linked(near, far),
        hyperfs.open(far, key=key) as reader,
    ):
        with trio.fail_after(HANG_SECONDS):
            await reader.ready()
            await reader.download("/")


async def test_a_reader_fetches_what_its_disk_has_damaged(tmp_path):
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        await writer.write("/f", DATA)
        await writer.sync()
        await hold(tmp_path / "s", near, writer.key)
        flip(data_files(tmp_path / "s")[-1], range(1000, 3_000_000, 500_000))
        async with (
            corestore.open(tmp_path / "s") as far,
            hyperfs.open(far, key=writer.key) as reader,
        ):
            found = await hyperfs.check_drive(reader)
            assert 0 < found.damaged <= 6
            assert found.byte_length > len(DATA)
            async with linked(near, far):
                with trio.fail_after(HANG_SECONDS):
                    assert await reader.read("/f") == DATA
            assert (await hyperfs.check_drive(reader)).damaged == 0


async def test_a_damaged_index_is_not_written_on(tmp_path):
    async with (
        corestore.open(tmp_path / "s") as store,
        hyperfs.open(store, name="d", create=True) as drive,
    ):
        await drive.mkdir("/folder")
        for number in range(40):
            await drive.write(f"/folder/file {number:3}", b"short")
        await drive.sync()
        assert stat.S_ISDIR((await drive.entry("/folder")).mode)
    index, *_ = data_files(tmp_path / "s")
    for file in data_files(tmp_path / "s"):
        if b"file  12" in file.read_bytes():
            index = file
    text = index.read_bytes()
    places = [at for at in range(len(text)) if text.startswith(b"file  12", at)]
    flip(index, [at + 7 for at in places])
    async with corestore.open(tmp_path / "s") as store:
        with pytest.raises(InvalidChecksum):
            async with hyperfs.open(store, name="d") as drive:
                await drive.write("/folder/file 999", b"new")


async def test_a_drive_that_has_lost_part_of_its_index_says_so_and_goes_on(tmp_path):
    async with corestore.open(tmp_path / "s") as store:
        async with hyperfs.open(store, name="d", create=True) as drive:
            for folder in range(3):
                async with drive.batch() as batch:
                    await batch.mkdir(f"/{folder}")
                    for number in range(1000):
                        await batch.write(f"/{folder}/{number}", b"short")
            await drive.sync()
            entry = await drive.entry("/")
            core = drive.metadata
            await core.clear(1, core.length - 1)

        async def change():
            async with hyperfs.open(store, name="d") as drive:
                drive.tree.put(entry.id, b"new", entry._replace(id=drive.tree.new_id()))
                with pytest.raises(BlockNotAvailable):
                    await drive.commit()

        # Once more as it is closed.
        with pytest.raises(BlockNotAvailable):
            await change()


async def test_a_reader_notices_damage_as_it_reads_and_fetches_it_anew(tmp_path, caplog):
    async with corestore.open(None) as near, hyperfs.open(near, name="d", create=True) as writer:
        async with writer.batch() as batch:
            for number in range(400):
                await batch.write(f"/folder/{number}", b"content of %d" % number)
        await writer.write("/f", DATA)
        await writer.sync()
        await hold(tmp_path / "s", near, writer.key)
        index, content = data_files(tmp_path / "s")
        flip(content, range(1000, 3_000_000, 500_000))
        text = index.read_bytes()
        flip(index, [text.index(b"content of 123")])
        async with (
            corestore.open(tmp_path / "s") as far,
            hyperfs.open(far, key=writer.key, read_timeout=0.01, verify_reads=True) as reader,
        ):
            # 1. Nobody is there to ask: wrong bytes are not given all the same.
            with pytest.raises(trio.TooSlowError):
                await reader.read("/f")
            with pytest.raises(trio.TooSlowError):
                [each async for each in reader.walk()]
        async with (
            corestore.open(tmp_path / "s") as far,
            hyperfs.open(far, key=writer.key, verify_reads=True) as reader,
            linked(near, far),
        ):
            # 2. A peer has what is damaged.
            with trio.fail_after(HANG_SECONDS):
                assert await reader.read("/f") == DATA
                assert len([each async for each in reader.walk()]) == 402
            assert (await hyperfs.check_drive(reader)).damaged == 0
        assert "the disk has damaged block" in caplog.text


async def test_a_reader_fetches_anew_what_its_disk_fails_to_read(tmp_path):
    disk = FailingSector()
    async with (
        corestore.open(None) as near,
        hyperfs.open(near, name="d", create=True) as writer,
        open_with(DiskStorage(tmp_path, io=disk)) as far,
        hyperfs.open(far, key=writer.key) as reader,
    ):
        await writer.write("/f", DATA)
        await writer.sync()
        async with linked(near, far):
            with trio.fail_after(HANG_SECONDS):
                await reader.ready()
                await reader.download("/")
            reader.tree.reader._cache.clear()
            disk.at = 1_500_000
            check = corestore.Hypercore.check

            async def replaced(core, start=0, end=None):
                found = await check(core, start, end)
                # The disk gives another sector for it.
                disk.at = None
                return found

            with pytest.MonkeyPatch.context() as patch, trio.fail_after(HANG_SECONDS):
                patch.setattr(corestore.Hypercore, "check", replaced)
                assert await reader.read("/f") == DATA
            assert disk.at is None


async def test_damage_in_a_drive_of_ours_is_an_error_of_the_read(tmp_path):
    async with (
        corestore.open(tmp_path / "s") as store,
        hyperfs.open(store, name="d", create=True) as drive,
    ):
        await drive.write("/f", DATA)
        await drive.sync()
    flip(data_files(tmp_path / "s")[-1], [1_500_000])
    async with (
        corestore.open(tmp_path / "s") as store,
        hyperfs.open(store, name="d", verify_reads=True) as drive,
    ):
        assert await drive.read("/f", 0, 1_000_000) == DATA[:1_000_000]
        for _ in range(2):
            with pytest.raises(InvalidChecksum, match="damaged block"):
                await drive.read("/f")
        assert await drive.read("/f", 2_000_000) == DATA[2_000_000:]


@pytest.mark.parametrize("verify_reads", [False, True])
async def test_content_is_compared_with_its_hashes_as_it_is_read_if_that_is_asked_for(
    tmp_path, monkeypatch, verify_reads
):
    checked, content = set(), None
    get = corestore.Hypercore.get_nowait

    def counted(core, index, *, check=False):
        if check and core.key == content:
            checked.add(index)
        return get(core, index, check=check)

    async with corestore.open(tmp_path) as store:
        async with hyperfs.open(store, name="d", create=True) as drive:
            await drive.write("/f", DATA)
            content = drive.content.key
        monkeypatch.setattr(corestore.Hypercore, "get_nowait", counted)
        async with hyperfs.open(store, name="d", verify_reads=verify_reads) as drive:
            checkout = await drive.checkout(drive.version)
            for each in (drive, checkout):
                checked.clear()
                assert await each.read("/f") == DATA
                assert checked == set(range(drive.content.length) if verify_reads else ())


async def test_a_reader_that_serves_what_its_disk_has_damaged_fetches_it_anew(tmp_path, caplog):
    async with (
        copied_and_damaged(tmp_path / "s") as (near, core),
        corestore.open(tmp_path / "s") as far,
        corestore.open(None) as third,
        await far.get(key=core.key) as copy,
        await third.get(key=core.key) as last,
    ):
        async with linked(far, third):
            with trio.fail_after(HANG_SECONDS):
                await last.wait_length(100)
                last.hint(range(60, 80))
                await copy.wait_until(lambda: not copy.has(70))
        assert [index for index in range(100) if not copy.has(index)] == [70]
        assert "has damaged 1 blocks" in caplog.text
        async with linked(near, far), linked(far, third):
            with trio.fail_after(HANG_SECONDS):
                assert await last.get(70) == await core.get(70)


async def test_a_core_that_has_left_the_cache_is_not_changed_by_who_still_checks_it(tmp_path):
    async with (
        copied_and_damaged(tmp_path / "s") as (_, core),
        corestore.open(tmp_path / "s", cache_size=0) as far,
    ):
        async with await far.get(key=core.key) as copy:
            before = copy._state
        assert before.discovery_key not in far._driver.states
        async with await far.get(key=core.key) as copy:
            await check_served(far._driver, before, [70])
            # What is held is what there is: no bytes of a block that the file has no more.
            assert copy.has(70)
            assert copy.get_nowait(70) == block(70, 1000)[:-1] + bytes([block(70, 1000)[-1] ^ 1])
            assert await copy.check() == ([70], [])


async def test_what_the_disk_has_damaged_of_our_own_is_told_and_left(tmp_path, caplog):
    async with corestore.open(tmp_path / "s") as store:
        core = await store.get(name="log")
        await fill(core, 100, size=1000)
        await store.sync()
    flip(data_files(tmp_path / "s")[-1], [70_999])
    async with corestore.open(tmp_path / "s") as store, corestore.open(None) as far:
        core = await store.get(name="log")
        copy = await far.get(key=core.key)
        async with linked(store, far):
            await copy.wait_length(100)
            copy.hint([70])
            await eventually(lambda: "has damaged 1 blocks" in caplog.text)
        assert core.has(70)


async def test_how_far_a_check_is_is_told(tmp_path):
    async with (
        corestore.open(tmp_path) as store,
        hyperfs.open(store, name="d", create=True) as drive,
    ):
        await drive.write("/f", DATA)
        told = []
        found = await hyperfs.check_drive(drive, progress=lambda *each: told.append(each))
        assert found.byte_length == told[-1][0] == told[-1][1] > len(DATA)
