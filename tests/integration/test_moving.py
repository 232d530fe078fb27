"""Drives that are written elsewhere from now on, and drives that were restored from a copy."""

from __future__ import annotations

import shutil
import stat
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing

import corestore
import hyperfs
from corestore import ForkConflict, MustRecover, NotWritable, Reason, SnapshotNotAvailable
from hyperfs.cli.session import cautions
from tests.support.builders import linked
from tests.support.limits import HANG_SECONDS


async def make(store, name="photos", *, encrypted=False, content=True):
    """A drive with a file; returns its key."""
    key = await hyperfs.create(store, name, encrypted=encrypted)
    if content:
        async with hyperfs.open(store, name=name) as drive:
            await drive.write("/file", bytes(range(256)) * 1000)
            await drive.sync()
    return key


@asynccontextmanager
async def held_by(store, key):
    """A peer's store that has everything of a drive."""
    async with corestore.open(None) as peer:
        link = next(info.link for info in hyperfs.drives(store) if info.key == key)
        async with linked(store, peer), hyperfs.open(peer, key=str(link)) as drive:
            with trio.fail_after(HANG_SECONDS):
                await drive.update()
                await drive.ready()
                await drive.metadata.download()
                await drive.content.download()
        await peer.sync()
        yield peer, link


@asynccontextmanager
async def seeding(peer, link):
    """The peer has the drive open."""
    async with hyperfs.open(peer, key=str(link)) as drive:
        yield drive


# -- the secret ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encryption_key", [None, bytes(range(32))])
def test_a_secret_is_what_its_text_says(encryption_key):
    secret = hyperfs.DriveSecret(bytes(range(1, 33)), 7, 1 << 40, encryption_key)
    text = str(secret)
    assert text.startswith("hyperfs-secret-")
    assert hyperfs.DriveSecret.parse(text + "\n") == secret
    assert bytes(range(1, 33)).hex() not in repr(secret)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text.removeprefix("hyperfs-"),
        lambda text: text[:-1],
        lambda text: text + "a",
        lambda text: text[:30] + "!" + text[31:],
        lambda text: text[:30] + ("a" if text[30] != "a" else "b") + text[31:],
        lambda text: "hyperfs-secret-" + text,
        lambda text: "hyperfs-secret-aaaa",
    ],
)
def test_a_mistyped_secret_is_refused(change):
    text = str(hyperfs.DriveSecret(bytes(range(32)), 1, 2))
    with pytest.raises(hyperfs.SecretError):
        hyperfs.DriveSecret.parse(change(text))


# -- moving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("content", [False, True])
async def test_a_drive_goes_on_in_another_store(tmp_path, encrypted, content):
    async with corestore.open(tmp_path / "old") as old, corestore.open(tmp_path / "new") as new:
        key = await make(old, encrypted=encrypted, content=content)
        secret = await hyperfs.export_secret(old, "photos")
        # 1. It is not written here any more, and can be read and served.
        async with hyperfs.open(old, name="photos") as drive:
            with pytest.raises(NotWritable):
                await drive.write("/file", b"old store")
            assert [entry.name async for entry in drive.scandir("/")] == [b"file"][:content]
        # 2. The new store has the key and writes nothing before it has the log.
        info = await hyperfs.import_secret(new, "pictures", hyperfs.DriveSecret.parse(str(secret)))
        assert (info.name, info.key, info.writable) == ("pictures", key, True)
        core = await new.get(key=key)
        with pytest.raises(MustRecover) as caught:
            await core.append(b"no history at all")
        assert caught.value.reason == "imported"
        # 3. It fetches it, from the old store here, and goes on.
        async with linked(old, new), hyperfs.open(old, name="photos"):
            with trio.fail_after(HANG_SECONDS):
                assert await hyperfs.recover_drive(new, key) == core.length
        async with hyperfs.open(new, name="pictures") as drive:
            await drive.write("/second", b"new store")
            if content:
                assert await drive.read("/file") == bytes(range(256)) * 1000
            await drive.sync()
            # 4. The old store is a reader like others, and sees it.
            async with linked(old, new), hyperfs.open(old, key=key) as shown:
                with trio.fail_after(HANG_SECONDS):
                    await shown.metadata.wait_length(drive.metadata.length)


async def test_a_drive_that_was_moved_still_says_which_versions_were_given_back():
    async with corestore.open(None) as old, corestore.open(None) as new:
        key = await make(old)
        async with hyperfs.open(old, name="photos") as drive:
            for n in range(3):
                await drive.write("/file", b"%d" % n * 1000)
            kept = (await drive.collect(keep_last=1)).version
            assert drive.tree.view.index.root.oldest == kept
        secret = await hyperfs.export_secret(old, "photos")
        await hyperfs.import_secret(new, "pictures", secret)
        async with linked(old, new), hyperfs.open(old, name="photos"):
            with trio.fail_after(HANG_SECONDS):
                await hyperfs.recover_drive(new, key)
        async with hyperfs.open(new, name="pictures") as drive:
            await drive.write("/second", b"new store")
            assert drive.tree.view.index.root.oldest == kept


async def test_an_exported_drive_can_be_taken_back():
    async with corestore.open(None) as store:
        key = await make(store)
        await hyperfs.export_secret(store, "photos")
        with pytest.raises(MustRecover):
            await hyperfs.export_secret(store, "photos")
        await hyperfs.recover_drive(store, key, alone=True)
        async with hyperfs.open(store, name="photos") as drive:
            await drive.write("/file", b"again")


async def test_an_exported_drive_is_no_drive_of_ours_to_write_until_it_is_taken_back():
    async with corestore.open(None) as store:
        key = await make(store)
        (info,) = hyperfs.drives(store)
        assert (info.writable, info.held_for) == (True, None)
        secret = await hyperfs.export_secret(store, "photos")
        (info,) = hyperfs.drives(store)
        assert (info.writable, info.held_for) == (False, Reason.MOVED)
        async with hyperfs.open(store, name="photos") as drive:
            (caution,) = cautions(drive)
            assert "read-only here" in caution
        await hyperfs.import_secret(store, "photos", secret)
        (info,) = hyperfs.drives(store)
        assert (info.writable, info.held_for) == (True, Reason.IMPORTED)
        await hyperfs.recover_drive(store, key, alone=True)
        async with hyperfs.open(store, name="photos") as drive:
            assert cautions(drive) == []
            await drive.write("/more", b"")


async def test_a_backup_of_the_key_changes_nothing():
    async with corestore.open(None) as store:
        await make(store)
        first = await hyperfs.export_secret(store, "photos", keep=True)
        async with hyperfs.open(store, name="photos") as drive:
            await drive.write("/file", b"again")
        again = await hyperfs.export_secret(store, "photos", keep=True)
        assert again.seed == first.seed
        assert again.metadata_length > first.metadata_length


async def test_an_imported_drive_can_be_exported_again():
    async with corestore.open(None) as one, corestore.open(None) as two:
        await make(one)
        secret = await hyperfs.export_secret(one, "photos")
        info = await hyperfs.import_secret(two, "photos", secret)
        async with linked(one, two), hyperfs.open(one, key=info.key):
            with trio.fail_after(HANG_SECONDS):
                await hyperfs.recover_drive(two, info.key)
        again = await hyperfs.export_secret(two, "photos")
        assert again == secret


async def test_a_peer_that_lacks_the_end_does_not_let_an_import_begin(autojump_clock):
    async with corestore.open(None) as one, corestore.open(None) as two:
        key = await make(one)
        async with held_by(one, key) as (behind, link):
            async with hyperfs.open(one, name="photos") as drive:
                await drive.write("/last", b"nobody has seen this")
            secret = await hyperfs.export_secret(one, "photos")
            info = await hyperfs.import_secret(two, "photos", secret)
            async with linked(behind, two), seeding(behind, link):
                with pytest.raises(trio.TooSlowError), trio.fail_after(60):
                    await hyperfs.recover_drive(two, info.key)
            core = await two.get(key=key)
            assert core.held_for is Reason.IMPORTED
            assert 0 < core.length < secret.metadata_length


async def test_what_was_given_back_is_not_fetched_again():
    async with (
        corestore.open(None) as one,
        corestore.open(None) as two,
        corestore.open(None) as peer,
    ):
        key = await make(one)
        async with hyperfs.open(one, name="photos") as drive:
            await drive.write("/kept", b"from the beginning" * 1000)
            for number in range(5):
                await drive.write("/file", bytes([number]) * 300_000)
                await drive.sync()
            await copied(drive, one, peer)
            await drive.collect(keep_last=2)
            await drive.write("/last", b"1" * 1000)
            await drive.sync()
            held = [[*core.held(0, core.length)] for core in (drive.metadata, drive.content)]
            assert await copied(drive, one, peer) == drive.content.length
            secret = await hyperfs.export_secret(one, "photos", keep=True)
        await hyperfs.import_secret(two, "photos", secret)
        async with linked(peer, two), hyperfs.open(peer, key=key):
            with trio.fail_after(HANG_SECONDS):
                await hyperfs.recover_drive(two, key)
        async with hyperfs.open(two, name="photos") as moved:
            assert await moved.read("/kept") == b"from the beginning" * 1000
            assert await moved.read("/file") == bytes([4]) * 300_000
            cores = moved.metadata, moved.content
            assert [[*core.held(0, core.length)] for core in cores] == held
            await moved.write("/more", b"goes on")


async def copied(drive, store, peer):
    """Copy both logs of *drive* to *peer*; how many blocks of content there are then."""
    async with linked(store, peer), hyperfs.open(peer, key=drive.key) as copy:
        with trio.fail_after(HANG_SECONDS):
            await copy.ready()
            for ours, theirs in (drive.metadata, copy.metadata), (drive.content, copy.content):
                await theirs.wait_length(ours.length)
                await theirs.download(obtainable=True)
        return copy.content.statistics().blocks_held


async def test_a_taken_name_is_refused():
    async with corestore.open(None) as one, corestore.open(None) as two:
        await make(one)
        other = await make(two)
        secret = await hyperfs.export_secret(one, "photos")
        with pytest.raises(hyperfs.DriveExists) as caught:
            await hyperfs.import_secret(two, "photos", secret)
        assert caught.value.key == other


async def test_secrets_lie_in_private_files(tmp_path):
    async with corestore.open(tmp_path / "store") as store:
        await hyperfs.import_secret(store, "x", hyperfs.DriveSecret(bytes(range(32)), 5, 5))
        for path in (tmp_path / "store").rglob("*"):
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


# -- a store that was restored ---------------------------------------------------------------------


async def test_a_restored_store_recovers_its_drive(tmp_path):
    async with corestore.open(tmp_path / "store") as store:
        key = await make(store)
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    async with corestore.open(tmp_path / "store") as store:
        async with hyperfs.open(store, name="photos") as drive:
            await drive.write("/later", b"after the backup")
            await drive.sync()
        async with (
            held_by(store, key) as (peer, link),
            corestore.open(tmp_path / "backup") as old,
        ):
            async with hyperfs.open(old, name="photos") as drive:
                with pytest.raises(MustRecover):
                    await drive.write("/other", b"a second history")
            async with linked(old, peer), seeding(peer, link):
                with trio.fail_after(HANG_SECONDS):
                    await hyperfs.recover_drive(old, key)
                async with hyperfs.open(old, name="photos") as drive:
                    assert await drive.read("/later") == b"after the backup"
                    await drive.write("/other", b"the same history")
                    await drive.sync()
                    async with hyperfs.open(peer, key=str(link)) as reader:
                        with trio.fail_after(HANG_SECONDS):
                            await reader.metadata.wait_length(drive.metadata.length)
                            await reader.update()
                            assert await reader.read("/other") == b"the same history"


@asynccontextmanager
async def forked(tmp_path):
    """(key, store, reader's store) of a drive of which two copies were written: the owner has found
    it out, and the reader follows the other copy."""
    async with corestore.open(tmp_path / "one") as store:
        key = await make(store)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for folder in ("one", "two"):
        async with corestore.open(tmp_path / folder) as store:
            if folder == "two":
                await hyperfs.recover_drive(store, key, alone=True)
            async with hyperfs.open(store, name="photos") as drive:
                await drive.write(f"/{folder}", folder.encode() * 1000)
                if folder == "two":
                    await drive.write("/longer", b"")
                await drive.sync()
    async with (
        corestore.open(tmp_path / "one") as one,
        corestore.open(tmp_path / "reader") as reading,
    ):
        async with corestore.open(tmp_path / "two") as two:
            async with linked(two, reading), hyperfs.open(reading, key=key) as drive:
                with trio.fail_after(HANG_SECONDS):
                    await drive.ready()
                    await drive.download()
                assert await drive.read("/two") == b"two" * 1000
            async with await one.get(key=key) as core:
                core.lock()
                async with linked(one, two):
                    with trio.fail_after(HANG_SECONDS):
                        await core.wait_until(lambda: core.conflict is not None)
        yield key, one, reading


async def caught_up(copy, drive):
    """*copy* shows what *drive* does, after a fork."""
    with trio.fail_after(HANG_SECONDS):
        while (copy.tree.fork, copy.version) != (1, drive.version):
            await copy.update()


async def test_a_forked_drive_goes_on_with_one_of_its_histories(tmp_path):
    async with forked(tmp_path) as (key, one, reading):
        # 1. The owner says that this history is the one to go on with.
        async with hyperfs.open(one, name="photos") as drive:
            with pytest.raises(ForkConflict):
                await drive.claim()
        await hyperfs.settle_drive(one, key)
        # 2. It is written again, and the reader of the other one goes over to it.
        async with (
            hyperfs.open(one, name="photos") as drive,
            hyperfs.open(reading, key=key) as copy,
            linked(one, reading),
        ):
            await drive.write("/more", b"1")
            await drive.sync()
            await caught_up(copy, drive)
            assert [each.path async for each in copy.walk()] == [b"/file", b"/more", b"/one"]
            assert await copy.read("/one") == b"one" * 1000
            assert await hyperfs.settle_drive(reading, key) == drive.version


async def test_a_settlement_that_was_killed_in_the_end_is_finished_by_who_opens_the_drive(
    tmp_path, monkeypatch
):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    async with forked(tmp_path) as (key, one, reading):
        monkeypatch.setattr("hyperfs.opening.open", killed)
        with pytest.raises(KeyboardInterrupt):
            await hyperfs.settle_drive(one, key)
        monkeypatch.undo()
        # Nobody writes it.
        async with hyperfs.open(one, name="photos") as drive:
            assert drive.tree.view.index.root.content_fork == drive.content.fork == 1
            version = drive.version
            async with hyperfs.open(reading, key=key) as copy, linked(one, reading):
                await caught_up(copy, drive)
                assert await copy.read("/one") == b"one" * 1000
        async with hyperfs.open(one, name="photos") as drive:
            assert drive.version == version


async def test_a_new_history_is_not_read_from_the_content_of_the_one_that_was_left(tmp_path):
    async with forked(tmp_path) as (key, one, reading):
        await hyperfs.settle_drive(one, key)
        async with hyperfs.open(one, name="photos") as drive:
            near, far = trio.testing.memory_stream_pair()
            async with hyperfs.open(reading, key=key) as copy, trio.open_nursery() as nursery:
                # 1. A peer that has the metadata alone.
                nursery.start_soon(partial(drive.metadata.replicate, near, initiator=True))
                nursery.start_soon(partial(reading.replicate, far, initiator=False))
                with trio.fail_after(HANG_SECONDS):
                    await copy.metadata.wait_until(lambda: copy.metadata.fork == 1)
                    await copy.metadata.download()
                with trio.move_on_after(1):
                    while True:
                        with suppress(FileNotFoundError, SnapshotNotAvailable):
                            assert await copy.read("/one") == b"one" * 1000
                        await trio.sleep(0.05)
                assert copy.content.fork == 0
                nursery.cancel_scope.cancel()
            # 2. So it is in a later run.
            async with hyperfs.open(reading, key=key) as copy:
                with pytest.raises(trio.TooSlowError), trio.fail_after(0.2):
                    await copy.ready()
                # 3. A peer that has both.
                async with linked(one, reading):
                    await caught_up(copy, drive)
                    assert await copy.read("/one") == b"one" * 1000
        # 4. From now on it is shown without peers.
        async with hyperfs.open(reading, key=key) as copy:
            assert (copy.tree.fork, copy.version) == (1, drive.version)
            assert await copy.read("/one") == b"one" * 1000


async def test_a_peer_that_is_behind_with_the_content_alone_makes_nobody_mix_histories(tmp_path):
    async with forked(tmp_path) as (key, one, reading):
        await hyperfs.settle_drive(one, key)
        async with (
            hyperfs.open(one, name="photos") as drive,
            corestore.open(None) as behind,
            hyperfs.open(reading, key=key) as copy,
        ):
            await copied(copy, reading, behind)
            before = copy.version
            # 1. Of the new history the peer has the metadata, of the content the one that was left.
            near, far = trio.testing.memory_stream_pair()
            async with trio.open_nursery() as nursery, await behind.get(key=key) as metadata:
                nursery.start_soon(partial(drive.metadata.replicate, near, initiator=True))
                nursery.start_soon(partial(behind.replicate, far, initiator=False))
                with trio.fail_after(HANG_SECONDS):
                    await metadata.wait_until(lambda: metadata.fork == 1)
                    await metadata.wait_length(drive.metadata.length)
                    await metadata.download()
                nursery.cancel_scope.cancel()
            async with hyperfs.open(behind, key=key) as peer, linked(behind, reading):
                with trio.fail_after(HANG_SECONDS):
                    await copy.metadata.wait_until(lambda: copy.metadata.fork == 1)
                    await copy.metadata.wait_length(drive.metadata.length)
                    await copy.metadata.download()
                    await copy.content.wait_peers()
                with trio.move_on_after(1):
                    await copy.update()
                assert (peer.content.fork, copy.content.fork) == (0, 0)
                assert (copy.tree.fork, copy.version) == (0, before)
                with pytest.raises(FileNotFoundError):
                    await copy.read("/one")
                # 2. The peer hears of the content as well.
                async with linked(one, behind):
                    for each in (peer, copy):
                        await caught_up(each, drive)
                        with trio.fail_after(HANG_SECONDS):
                            assert await each.read("/one") == b"one" * 1000
