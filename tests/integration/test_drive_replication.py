"""A drive read elsewhere: followed live, fetched on demand, unplugged, damaged, made by enemies."""

from __future__ import annotations

import random
import stat
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
import trio.testing

import corestore
import hyperfs
from corestore.link import Link
from hyperfs import opening
from hyperfs.blocks import Patience
from hyperfs.drive import ROOT_ID, SHARED
from hyperfs.extents import Extent
from hyperfs.index import build_commit, header_block
from hyperfs.records import entry_key, pack, pack_entry, shared_key
from tests.support.builders import eventually, linked
from tests.support.drives import contents, snapshot
from tests.support.limits import HANG_SECONDS, PATIENT

LARGE = random.Random(7).randbytes(20_000_000)


@asynccontextmanager
async def a_pair(*, read_timeout=None, link=True):
    """(writer's drive, reader's drive, writer's store, reader's store), replicating if *link*."""
    async with corestore.open(None) as near, corestore.open(None) as far:
        key = await hyperfs.create(near, "d")
        async with (
            hyperfs.open(near, name="d") as writer,
            hyperfs.open(far, key=key, read_timeout=read_timeout) as reader,
        ):
            if not link:
                yield writer, reader, near, far
                return
            async with linked(near, far):
                with trio.fail_after(HANG_SECONDS):
                    await reader.ready()
                yield writer, reader, near, far


async def caught_up(writer, reader):
    """Wait until the reader shows what the writer has."""
    await writer.sync()
    with trio.fail_after(HANG_SECONDS):
        while reader.version < writer.version:
            await reader.update()


async def open_path(drive, path):
    """An open file; the caller releases it."""
    directory = ROOT_ID
    *parents, last = path.strip("/").encode().split(b"/")
    for name in parents:
        directory = (await drive.lookup(directory, name)).id
    return drive.open_file(*await drive.resolve(directory, last))


# -- following -------------------------------------------------------------------------------------


async def test_trees_are_equal():
    async with a_pair() as (writer, reader, _, _):
        async with writer.batch() as batch:
            for n in range(300):
                await batch.write(f"/{n % 7}/{n}", bytes([n % 256]) * (n * 50), mode=0o600 + n % 8)
            await batch.symlink("/link", b"\xff/target")
            await batch.mkdir("/empty")
            await batch.write(b"/not utf-8 \xff", b"x")
            await batch.write("/large", LARGE[:3_000_000])
        await caught_up(writer, reader)
        assert not reader.writable
        ours = [(each.path, each.entry) async for each in writer.walk()]
        theirs = [(each.path, each.entry) async for each in reader.walk()]
        assert theirs == ours
        for path, entry in ours:
            if entry.is_file:
                assert await reader.read(path) == await writer.read(path)


async def test_a_log_that_was_truncated_is_followed():
    """No program does that to a drive of ours; a peer may show it all the same."""
    async with a_pair(read_timeout=HANG_SECONDS) as (writer, reader, near, _):
        await writer.write("/a", b"1" * 70_000)
        await caught_up(writer, reader)
        version = writer.version
        await writer.write("/a", b"2" * 70_000)
        await writer.write("/b", b"2")
        await caught_up(writer, reader)
        past = await reader.checkout(reader.version)
        file = await open_path(reader, "/a")
        assert await contents(file) == b"2" * 70_000
        assert await past.read("/b") == b"2"
        assert (reader.version, reader.tree.fork) == (past.version, 0)
        with reader.watch_changes() as changes, reader.watch("/b") as watch:
            await writer.metadata.truncate(version)
            await near.sync()
            change = await anext(changes)
            assert (change.version, change.complete) == (version, False)
            assert (reader.version, reader.tree.fork) == (version, 1)
            assert await reader.read("/a") == await contents(file) == b"1" * 70_000
            with pytest.raises(FileNotFoundError):
                await reader.read("/b")
            assert (await anext(watch)).new.version == version
        # What of it was not cut off can be read; see the next test.
        assert await past.read("/a") == b"2" * 70_000
        file.release()


async def test_what_took_the_place_of_a_truncated_version_is_not_shown_as_that():
    async with a_pair(read_timeout=HANG_SECONDS) as (writer, reader, near, _):
        await writer.write("/a", b"1" * 70_000)
        version, content = writer.version, writer.content.length
        await writer.write("/a", b"2" * 70_000)
        await writer.write("/b", b"2" * 70_000)
        await caught_up(writer, reader)
        past = await reader.checkout(reader.version)
        file = await open_path(reader, "/a")
        assert await contents(file) == b"2" * 70_000
        # 1. Nothing is followed yet, and the logs have other blocks already.
        reader._follower.stop()
        for core, blocks in (
            (writer.content, [b"3" * 70_000] * 2),
            (writer.metadata, [writer.metadata.get_nowait(version - 1)] * 2),
        ):
            await core.truncate(content if core is writer.content else version)
            await core.append(*blocks)
        await near.sync()
        await eventually(lambda: reader.metadata.fork == reader.content.fork == 1)
        await eventually(lambda: reader.content.length == content + 2)
        # What is in memory is still right.
        reader.tree.reader._cache.clear()
        past.tree.reader._cache.clear()
        for each in (file.read(0, 70_000), past.read("/a"), reader.read("/b")):
            with pytest.raises(corestore.SnapshotNotAvailable):
                await each
        file.release()


async def test_a_fork_that_cuts_nothing_off_takes_nothing_away():
    """The logs of a drive have forks of their own; a reader that is new has missed nothing."""
    async with a_pair(read_timeout=HANG_SECONDS) as (writer, reader, near, _):
        await writer.write("/a", b"1" * 70_000)
        await writer.metadata.truncate(writer.metadata.length)
        for _ in range(2):
            await writer.content.truncate(writer.content.length)
        await near.sync()
        await eventually(lambda: reader.version == writer.version)
        assert await reader.read("/a") == b"1" * 70_000
        await writer.content.truncate(writer.content.length)
        await near.sync()
        await eventually(lambda: reader.content.fork == 3)
        assert (reader.metadata.fork, reader.content.cuts) == (1, 0)
        reader.tree.reader._cache.clear()
        assert await reader.read("/a") == b"1" * 70_000
        async with (
            corestore.open(None) as fresh,
            linked(near, fresh),
            hyperfs.open(fresh, key=writer.key, read_timeout=HANG_SECONDS) as drive,
        ):
            await drive.ready()
            assert await drive.read("/a") == b"1" * 70_000


async def test_content_that_is_truncated_after_its_metadata_is_followed():
    async with a_pair(read_timeout=HANG_SECONDS) as (writer, reader, near, _):
        await writer.write("/a", b"1" * 70_000)
        version, content = writer.version, writer.content.length
        await writer.write("/b", b"2" * 70_000)
        await caught_up(writer, reader)
        assert await reader.read("/b") == b"2" * 70_000
        before = reader.tree.reader
        await writer.metadata.truncate(version)
        await near.sync()
        await eventually(lambda: (reader.tree.fork, reader.version) == (1, version))
        await writer.content.truncate(content)
        await near.sync()
        await eventually(lambda: reader.content.fork == 1 and not reader.tree.reader.blocks.cut)
        assert reader.tree.reader is not before
        assert await reader.read("/a") == b"1" * 70_000


async def test_changes_are_told_after_they_can_be_seen():
    async with a_pair() as (writer, reader, _, _):
        await writer.write("/dir/f", b"1")
        await caught_up(writer, reader)
        with reader.watch_changes() as changes:
            await writer.write("/dir/f", b"22")
            await writer.sync()
            with trio.fail_after(HANG_SECONDS):
                change = await anext(changes)
            assert change.version == reader.version
            assert change.complete
            [told] = [each for each in change.changes if each.name == b"f"]
            assert (told.old.size, told.new.size, told.old.id) == (1, 2, told.new.id)
            assert await reader.read("/dir/f") == b"22"
            await writer.rename("/dir/f", "/g")
            await writer.sync()
            with trio.fail_after(HANG_SECONDS):
                change = await anext(changes)
            told = {(each.directory, each.name): each for each in change.changes}
            directory = (await reader.entry("/dir")).id
            assert told[(directory, b"f")].new is None
            assert told[(ROOT_ID, b"g")].old is None
            # The root directory, whose time changed, has no name.
            assert told[(None, None)].new.id == ROOT_ID
        with pytest.raises(StopAsyncIteration):
            await anext(changes)


async def test_what_is_opened_while_a_version_is_noted_shows_it(monkeypatch):
    noting, go_on = trio.Event(), trio.Event()
    set_user_data = corestore.Hypercore.set_user_data

    async def slowly(core, key, value):
        if not core.writable:
            noting.set()
            await go_on.wait()
        await set_user_data(core, key, value)

    async with a_pair() as (writer, reader, _, _):
        await writer.write("/a", b"1")
        await caught_up(writer, reader)
        monkeypatch.setattr(corestore.Hypercore, "set_user_data", slowly)
        await writer.write("/a", b"22")
        await writer.sync()
        with trio.fail_after(HANG_SECONDS):
            await noting.wait()
        file = await open_path(reader, "/a")
        with reader.watch_changes() as changes:
            go_on.set()
            await caught_up(writer, reader)
            assert await contents(file) == b"22"
            assert (await reader.entry("/a")).size == 2
            await writer.write("/a", b"333")
            await caught_up(writer, reader)
            assert (await anext(changes)).version == reader.version
            assert await contents(file) == b"333"
        file.release()


async def test_a_slow_subscriber_hears_that_everything_changed():
    async with a_pair() as (writer, reader, _, _):
        with reader.watch_changes() as changes:
            for n in range(100):
                await writer.write("/f", b"%d" % n)
                await caught_up(writer, reader)
            told = await anext(changes)
            while told.complete:
                told = await anext(changes)
            assert told.version <= reader.version


async def test_renames_are_atomic_for_readers():
    async with a_pair() as (writer, reader, _, _):
        await writer.write("/a", b"x")
        await caught_up(writer, reader)
        async with trio.open_nursery() as nursery:

            async def rename():
                names = ["/a", "/b"]
                for n in range(30):
                    await writer.rename(names[n % 2], names[(n + 1) % 2])
                    await writer.sync()
                nursery.cancel_scope.cancel()

            nursery.start_soon(rename)
            seen = set()
            while True:
                names = tuple(name for name, _ in await reader.list(ROOT_ID))
                assert names in [(b"a",), (b"b",)]
                seen.add(names)
                await trio.lowlevel.checkpoint()
        assert len(seen) == 2


async def test_open_files_follow_and_a_read_never_mixes_versions():
    async with a_pair() as (writer, reader, _, _):
        await writer.write("/f", bytes([0]) * 400_000)
        await caught_up(writer, reader)
        file = await open_path(reader, "/f")
        with reader.watch_changes() as changes:
            async with trio.open_nursery() as nursery:

                async def write():
                    for n in range(1, 15):
                        await writer.write("/f", bytes([n]) * 400_000)
                        await writer.sync()

                nursery.start_soon(write)
                last = 0
                while last < 14:
                    data = await file.read(0, 400_000)
                    assert len(data) == 400_000
                    assert data == bytes([data[0]]) * 400_000
                    assert data[0] >= last
                    last = data[0]
                    await trio.sleep(0.001)
            await writer.remove("/f")
            while await reader.lookup(ROOT_ID, b"f") is not None:
                await anext(changes)
        # Removed, it reads as it was.
        assert file.location is None
        assert await contents(file) == bytes([14]) * 400_000
        file.release()


async def test_open_files_follow_a_rename():
    async with a_pair() as (writer, reader, _, _):
        await writer.write("/f", b"1" * 1000)
        await caught_up(writer, reader)
        file = await open_path(reader, "/f")
        await writer.rename("/f", "/g")
        await caught_up(writer, reader)
        assert file.location == (ROOT_ID, b"g")
        await writer.write("/g", b"2" * 2000)
        await caught_up(writer, reader)
        assert await file.read(0, 3000) == b"2" * 2000
        file.release()


async def test_hard_links_are_followed():
    async with a_pair() as (writer, reader, _, _):
        await writer.write("/one", b"1" * 1000)
        entry, location = await writer.resolve(ROOT_ID, b"one")
        file = writer.open_file(entry, location)
        writer.tree.put_shared(file.entry)
        writer.tree.put_link(ROOT_ID, b"one", file.id)
        writer.tree.put_link(ROOT_ID, b"two", file.id)
        file.update(nlink=2)
        await caught_up(writer, reader)
        assert (await reader.resolve(ROOT_ID, b"two"))[1] is SHARED
        with reader.watch_changes() as changes:
            await file.write(0, b"2")
            await writer.sync()
            with trio.fail_after(HANG_SECONDS):
                change = await anext(changes)
            assert [(each.directory, each.new.id) for each in change.changes] == [(None, file.id)]
        assert await reader.read("/one") == await reader.read("/two") == b"2" + b"1" * 999
        file.release()


async def test_past_versions_are_read_remotely():
    async with a_pair() as (writer, reader, _, _):
        versions = {}
        for n in range(40):
            await writer.write("/f", b"%d" % n * 100)
            versions[writer.version] = b"%d" % n * 100
        await caught_up(writer, reader)
        for version, data in random.Random(1).sample(sorted(versions.items()), 5):
            past = await reader.checkout(version)
            assert await past.read("/f") == data
        changes = [change.path async for change in reader.diff(past)]
        assert b"/f" in changes


# -- on demand -------------------------------------------------------------------------------------


async def test_listing_and_a_small_read_fetch_little():
    async with a_pair(link=False) as (writer, reader, near, far):
        await writer.write("/large", LARGE)
        async with writer.batch() as batch:
            for n in range(2000):
                await batch.write(f"/many/{n % 20}/{n}", b"%d" % n * 500)
        await writer.sync()
        async with linked(near, far):
            with trio.fail_after(HANG_SECONDS):
                await reader.ready()
            assert [each.name async for each in reader.scandir()] == [b"large", b"many"]
            assert reader.content.statistics().blocks_received == 0
            assert far.statistics().bytes_received < 64_000
            received = far.statistics().bytes_received
            data = await reader.read("/large", 10_000_000, 4096)
            assert data == LARGE[10_000_000:10_004_096]
            # One or two blocks of at most 256 KiB, with their proofs.
            assert reader.content.statistics().blocks_received <= 2
            assert far.statistics().bytes_received - received < 512 * 1024


async def test_random_reads_fetch_only_their_blocks():
    async with a_pair() as (writer, reader, _, _):
        await writer.write("/large", LARGE)
        await caught_up(writer, reader)
        file = await open_path(reader, "/large")
        source = random.Random(5)
        needed = set()
        for _ in range(20):
            offset = source.randrange(len(LARGE) - 4096)
            assert await file.read(offset, 4096) == LARGE[offset : offset + 4096]
            pieces = file.content.pieces(offset, offset + 4096)
            needed |= {piece.block for piece in pieces}
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert reader.content.statistics().blocks_received == len(needed)
        file.release()


async def test_what_one_read_lacks_overtakes_what_is_fetched_ahead(monkeypatch):
    overtaking = []
    serve = Link.serve

    def noting(link, channel, request):
        if request.priority:
            overtaking.append((channel.state.key, request.request.block.index))
        serve(link, channel, request)

    monkeypatch.setattr(Link, "serve", noting)
    async with a_pair() as (writer, reader, _, _):
        await writer.write("/large", LARGE)
        await caught_up(writer, reader)
        core = reader.content
        core.hint(range(20, core.length))
        await reader.tree.content_blocks.fetch(range(20))
        assert [index for key, index in overtaking if key == core.key] == [*range(20)]


async def test_sequential_reads_fetch_ahead():
    async with a_pair() as (writer, reader, _, _):
        await writer.write("/large", LARGE)
        await caught_up(writer, reader)
        file = await open_path(reader, "/large")
        for offset in range(0, 1_048_576, 131_072):
            await file.read(offset, 131_072)
        await trio.testing.wait_all_tasks_blocked(0.01)
        read = 1_048_576 // 65_536
        assert read * 1.5 < reader.content.statistics().blocks_received < len(LARGE) / 65_536 / 2
        file.release()


async def test_download_fetches_everything_below_a_path():
    async with a_pair() as (writer, reader, _near, _far):
        await writer.write("/here/large", LARGE[:5_000_000])
        await writer.write("/here/deep/small", b"s" * 1000)
        await writer.write("/there", LARGE[5_000_000:9_000_000])
        await caught_up(writer, reader)
        with trio.fail_after(HANG_SECONDS):
            await reader.download("/here")
        file = await open_path(reader, "/there")
        pieces = file.content.pieces(0, file.size)
        assert not any(reader.content.has(piece.block) for piece in pieces[1:])
        file.release()
        received = reader.content.statistics().blocks_received
        await reader.read("/here/large")
        await reader.read("/here/deep/small")
        assert reader.content.statistics().blocks_received == received


# -- unplugged -------------------------------------------------------------------------------------


async def test_what_was_read_still_reads_without_peers(tmp_path, autojump_clock):
    async with corestore.open(None) as near:
        key = await hyperfs.create(near, "d")
        async with hyperfs.open(near, name="d") as writer:
            await writer.write("/f", LARGE[:1_000_000])
            await writer.write("/unread", LARGE[1_000_000:2_000_000])
            await writer.sync()
            async with (
                corestore.open(tmp_path) as far,
                hyperfs.open(far, key=key) as reader,
                linked(near, far),
            ):
                with trio.fail_after(HANG_SECONDS):
                    await reader.ready()
                await reader.read("/f")
                version = reader.version
    async with (
        corestore.open(tmp_path) as far,
        hyperfs.open(far, key=key, read_timeout=3) as reader,
    ):
        await reader.ready()
        assert reader.version == version
        assert await reader.read("/f") == LARGE[:1_000_000]
        with pytest.raises(trio.TooSlowError):
            await reader.read("/unread")


async def test_without_anything_ready_waits_for_the_caller_to_give_up():
    async with corestore.open(None) as store:
        key = corestore.KeyPair.generate().public_key
        async with hyperfs.open(store, key=key) as drive:
            assert drive.version == 0
            assert drive.content is None
            with pytest.raises(trio.TooSlowError), trio.fail_after(0.02):
                await drive.ready()


async def test_after_one_silence_further_reads_fail_at_once(autojump_clock):
    async with a_pair(read_timeout=10, link=False) as (writer, reader, near, far):
        await writer.write("/f", LARGE[:600_000])
        await writer.sync()
        async with linked(near, far):
            with trio.fail_after(5):
                await reader.ready()
            file = await open_path(reader, "/f")
        started = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await file.read(0, 10)
        assert trio.current_time() - started == pytest.approx(10, abs=0.5)
        started = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await file.read(500_000, 10)
        assert trio.current_time() - started < 0.1
        # A peer that comes back ends the impatience; what was asked for meanwhile arrives.
        async with linked(near, far):
            assert await file.read(500_000, 10) == LARGE[500_000:500_010]
        file.release()


async def test_reads_fail_at_once_when_no_peer_has_been_there_for_the_timeout(autojump_clock):
    async with a_pair(read_timeout=10, link=False) as (writer, reader, near, far):
        await writer.write("/f", LARGE[:600_000])
        await writer.sync()

        async def seconds():
            started = trio.current_time()
            with pytest.raises(trio.TooSlowError):
                await reader.read("/f")
            return trio.current_time() - started

        # 1. None since the drive was opened.
        await trio.sleep(10)
        async with linked(near, far):
            with trio.fail_after(5):
                await reader.ready()
            # 2. There is one: however long it was before, it is waited for.
            await trio.sleep(20)
            assert len(await reader.read("/f", 0, 100_000)) == 100_000
        await eventually(lambda: not reader.content.peers)
        # 3. It has just gone.
        await trio.sleep(5)
        assert await seconds() == pytest.approx(10, abs=0.5)
        async with linked(near, far):
            await eventually(lambda: reader.content.peers)
        await eventually(lambda: not reader.content.peers)
        # 4. It has been gone for long.
        await trio.sleep(10.5)
        assert await seconds() < 0.1


class Slow:
    """A core whose peers are noticed late."""

    peers = ()

    async def wait_until(self, condition):
        if not condition():
            await trio.sleep_forever()


async def test_a_peer_is_waited_for_from_the_moment_it_comes(nursery, autojump_clock):
    core, patience = Slow(), Patience(10)
    patience.watch(core)
    nursery.start_soon(patience.notice_absence, core)
    await trio.sleep(9.5)
    assert not patience.exhausted(offered=False)
    await trio.sleep(1)
    assert patience.exhausted(offered=False)
    core.peers = (1,)
    assert not patience.exhausted(offered=False)
    nursery.cancel_scope.cancel()


@asynccontextmanager
async def slow_streams(rate):
    """A pair of streams between which *rate* bytes a second pass."""
    (near, left), (right, far) = (trio.testing.memory_stream_pair() for _ in range(2))

    async def pump(source, target):
        while data := await source.receive_some(max(1, rate // 10)):
            await trio.sleep(len(data) / rate)
            await target.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump, left, right)
        nursery.start_soon(pump, right, left)
        yield near, far
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rate", [40_000, 8_000])
async def test_on_a_slow_link_a_read_waits_for_as_long_as_bytes_come(autojump_clock, rate):
    """A whole read takes longer than the timeout, at the lower rate every single block does."""
    size = 600_000 if rate > 10_000 else 100_000
    async with a_pair(read_timeout=3, link=False) as (writer, reader, near, far):
        await writer.write("/f", LARGE[:size])
        await writer.sync()
        async with slow_streams(rate) as streams, linked(near, far, streams=streams):
            await reader.ready()
            started = trio.current_time()
            assert await reader.read("/f") == LARGE[:size]
            assert trio.current_time() - started > size / rate - 3 > 6


async def test_a_block_that_nobody_offers_is_not_waited_for_because_others_come(autojump_clock):
    async with a_pair(read_timeout=3, link=False) as (writer, reader, near, far):
        await writer.write("/lost", LARGE[:100_000])
        end = writer.content.length
        await writer.write("/f", LARGE[100_000:2_000_000])
        await writer.sync()
        await writer.content.clear(0, end)
        async with slow_streams(20_000) as streams, linked(near, far, streams=streams):
            await reader.ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.content.download, end)
                await trio.sleep(1)
                started = trio.current_time()
                with pytest.raises(trio.TooSlowError):
                    await reader.read("/lost")
                assert trio.current_time() - started < 7
                nursery.cancel_scope.cancel()


async def test_a_cancelled_read_leaves_the_file_usable():
    async with a_pair(link=False) as (writer, reader, near, far):
        await writer.write("/f", LARGE[:600_000])
        await writer.sync()
        async with linked(near, far):
            with trio.fail_after(HANG_SECONDS):
                await reader.ready()
            file = await open_path(reader, "/f")
        with trio.move_on_after(0.01) as scope:
            await file.read(0, 600_000)
        assert scope.cancelled_caught
        async with linked(near, far):
            assert await file.read(0, 600_000) == LARGE[:600_000]
        file.release()


# -- enemies ---------------------------------------------------------------------------------------


@asynccontextmanager
async def a_hostile_drive(records, *, content=(), content_length=None):
    """The reader's view of a drive whose index holds whatever *records* say."""
    async with corestore.open(None) as near, corestore.open(None) as far:
        metadata = await near.get(name="db")
        core = await opening.open_content(near, metadata, near.key_pair("db"))
        root = hyperfs.Entry(ROOT_ID, stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0)
        changes = {shared_key(ROOT_ID): pack_entry(root), **records}
        blocks = build_commit(
            None,
            changes,
            first_block=1,
            time_ns=0,
            content_length=len(content) if content_length is None else content_length,
            next_id=100,
            files=1,
            bytes=0,
        )
        await metadata.append(header_block(), *blocks)
        if content:
            await core.append(*content)
        await near.sync()
        async with (
            hyperfs.open(far, key=metadata.key, read_timeout=PATIENT) as drive,
            linked(near, far),
        ):
            with trio.fail_after(HANG_SECONDS):
                await drive.ready()
            yield drive


def a_file(id, size, *extents, mode=0o644):
    return pack_entry(hyperfs.Entry(id, stat.S_IFREG | mode, 0, 0, 0, 0, size, extents=extents))


async def test_bad_names_and_records_are_left_out_and_their_neighbours_stay():
    good = a_file(5, 3, Extent(0, 0, 0, 3))
    records = {
        entry_key(ROOT_ID, b"good"): good,
        entry_key(ROOT_ID, b".."): good,
        entry_key(ROOT_ID, b"a/b"): good,
        entry_key(ROOT_ID, b"nul\0"): good,
        entry_key(ROOT_ID, b"bad"): b"\xc1 nonsense",
        entry_key(ROOT_ID, b"dangling"): pack([77]),
        entry_key(ROOT_ID, b"zzz"): good,
    }
    async with a_hostile_drive(records, content=[b"abc"]) as drive:
        assert [name for name, _ in await drive.list(ROOT_ID)] == [b"good", b"zzz"]
        assert [name for name, _ in await drive.list(ROOT_ID, b"", 1)] == [b"good"]
        assert await drive.read("/good") == b"abc"
        with pytest.raises(corestore.DecodeError):
            await drive.read("/bad")
        with pytest.raises(FileNotFoundError):
            await drive.read("/dangling")


async def test_extents_that_lie_fail_and_do_not_hang():
    records = {
        entry_key(ROOT_ID, b"beyond"): a_file(5, 10, Extent(0, 0, 1, 10)),
        entry_key(ROOT_ID, b"nowhere"): a_file(6, 10, Extent(0, 1 << 50, 0, 10)),
        entry_key(ROOT_ID, b"next"): a_file(7, 10, Extent(0, 3, 0, 10)),
    }
    async with a_hostile_drive(records, content=[b"abc", b"def"]) as drive:
        for name in ("/beyond", "/nowhere", "/next"):
            with trio.fail_after(HANG_SECONDS), pytest.raises(corestore.DecodeError):
                await drive.read(name)


async def test_a_directory_in_itself_is_walked_once():
    loop = pack_entry(hyperfs.Entry(9, stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0))
    records = {
        entry_key(ROOT_ID, b"a"): loop,
        entry_key(9, b"a"): loop,
        entry_key(9, b"b"): loop,
    }
    async with a_hostile_drive(records) as drive:
        found = [each.path async for each in drive.walk()]
        assert found == [b"/a", b"/a/a", b"/a/b"]


async def test_huge_sizes_cost_nothing():
    records = {entry_key(ROOT_ID, b"huge"): a_file(5, (1 << 63) - 1)}
    async with a_hostile_drive(records) as drive:
        entry = await drive.entry("/huge")
        assert entry.size == (1 << 63) - 1
        assert await drive.read("/huge", 1 << 62, 10) == bytes(10)
        assert await snapshot_names(drive) == [b"/huge"]


async def snapshot_names(drive):
    return [each.path async for each in drive.walk()]


async def test_a_writer_of_nonsense_leaves_the_last_good_version_shown():
    async with a_pair() as (writer, reader, near, _far):
        await writer.write("/f", b"good")
        await caught_up(writer, reader)
        version = reader.version
        core = await near.get(key=writer.key)
        await core.append(b"no block of the format")
        await near.sync()
        with trio.fail_after(HANG_SECONDS):
            await reader.update()
        assert reader.version == version
        assert await snapshot(reader) == {b"/": None, b"/f": b"good"}
