"""Drives made by Node's Hyperdrive, of both generations: read through `hyperfs.open` like ours."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import corestore
import hyperfs
from tests.support.drives import contents
from tests.support.interop import connected, peers
from tests.support.limits import HANG_SECONDS
from tests.support.mounts import mounted
from tests.support.node import node_peer

pytestmark = pytest.mark.interop

GENERATIONS = pytest.mark.parametrize("generation", [10, 11])
SIZES = [0, 1, 11, 4096, 65535, 65536, 65537, 200_000, 1_000_000]
WORDS = ["a", "a-b", "a.txt", "b c", "ü", "日本語", "node_modules", "x" * 60, ".hidden", "Z"]


def made(path, size):
    """What `peer.js` puts under *path*."""
    pieces = [
        (hashlib.sha256(f"{path}-{i}".encode()).digest() * 32)[: size - i * 1024]
        for i in range((size + 1023) // 1024)
    ]
    return b"".join(pieces)


def parents(path):
    """The directories that a path lies in."""
    return [path[:at] for at, letter in enumerate(path) if letter == "/" and at]


class Script:
    """Random changes of a drive, and what they lead to: path -> content or a link's target."""

    def __init__(self, seed, *, dedup) -> None:
        self.rng = random.Random(seed)
        self.dedup = dedup
        self.files: dict[str, tuple[int, bool] | str] = {}
        self.folders: set[str] = set()

    def changes(self, count, *, batch=False):
        return [self.change(batch) for _ in range(count)]

    def change(self, batch):
        rng = self.rng
        if self.files and rng.random() < 0.2:
            path = rng.choice(list(self.files))
            del self.files[path]
            return ["del", path]
        path = self.path()
        if rng.random() < 0.1:
            self.files[path] = target = rng.choice(["/a", "../b", "nowhere/ü"])
            return ["symlink", path, target]
        executable = rng.random() < 0.3
        options = {"executable": executable}
        if not batch and rng.random() < 0.1:
            sizes = [rng.choice([1, 500, 3000, 100_000]) for _ in range(rng.randint(1, 9))]
            self.files[path] = (sum(sizes), executable)
            return ["stream", path, sizes, {**options, "dedup": self.dedup and rng.random() < 0.4}]
        size = rng.choice(SIZES) if rng.random() < 0.05 else rng.randrange(300)
        self.files[path] = (size, executable)
        return ["put", path, size, options]

    def path(self):
        while True:
            names = self.rng.choices(WORDS, k=self.rng.choice([1, 2, 2, 3, 4]))
            path = "/" + "/".join([*names[:-1], f"{names[-1]}{self.rng.randrange(200)}"])
            above = parents(path)
            if path in self.folders or any(parent in self.files for parent in above):
                continue
            self.folders.update(above)
            return path

    def tree(self):
        """As `peer.js` tells it."""
        return [
            [path, None, False, value]
            if isinstance(value, str)
            else [path, hashlib.sha256(made(path, value[0])).hexdigest(), value[1], None]
            for path, value in sorted(self.files.items())
        ]

    def directories(self):
        return {
            path[:at]
            for path in self.files
            for at, letter in enumerate(path)
            if letter == "/" and at
        }


async def our_tree(drive):
    """A walk, in the form of `peer.js`; and the directories."""
    found, directories = [], set()
    async for each in drive.walk():
        path, entry = each.path.decode(), each.entry
        if entry.is_dir:
            directories.add(path)
        elif entry.is_symlink:
            found.append([path, None, False, entry.target.decode()])
        else:
            data = await drive.read(each.path)
            assert len(data) == entry.size
            digest = hashlib.sha256(data).hexdigest()
            found.append([path, digest, entry.mode == 0o100755, None])
    return sorted(found), directories


@asynccontextmanager
async def opened(folder, generation, *, seed=1, count=600):
    """(our drive, the Node peer, the script it was made by): Node's drive, open and connected."""
    async with peers(folder, generation=generation) as (store, node, connect):
        script = Script(seed, dedup=generation == 11)
        key = (await node("drive", name="theirs"))["key"]
        version = await node("change", drive=0, operations=script.changes(count))
        async with hyperfs.open(store, key=key, read_timeout=HANG_SECONDS) as drive:
            await connect()
            if count:
                await caught_up(drive, version)
            yield drive, node, script


async def caught_up(drive, version):
    await drive.ready()
    with drive.watch_changes() as changes:
        while drive.version < version:
            await anext(changes)


@GENERATIONS
async def test_a_drive_of_node_is_read_whole_and_followed(tmp_path, generation):
    async with opened(tmp_path, generation) as (drive, node, script):
        # 1. Everything is as Node says, and as it was made.
        assert not drive.writable
        with pytest.raises(corestore.NotWritable):
            await drive.write("/x", b"")
        tree, directories = await our_tree(drive)
        assert tree == script.tree() == sorted(await node("tree", drive=0))
        assert directories == script.directories()
        # 2. Changes arrive, single ones and batches, and what is told of them is right.
        for batch in (False, True, False):
            operations = script.changes(150, batch=batch)
            version = await node("change", drive=0, operations=operations, batch=batch)
            await caught_up(drive, version)
            tree, directories = await our_tree(drive)
            assert tree == script.tree()
            assert directories == script.directories()


@GENERATIONS
async def test_thousands_of_files_in_one_folder_and_in_many(tmp_path, generation):
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        key = (await node("drive", name="theirs"))["key"]
        paths = [f"/flat/{n:05}.txt" for n in range(3000)]
        paths += [f"/deep/{n % 50}/{n % 7}/{n}" for n in range(3000)]
        random.Random(1).shuffle(paths)
        operations = [["put", path, 10] for path in paths]
        await node("change", drive=0, operations=operations, batch=True)
        async with hyperfs.open(store, key=key) as drive:
            await connect()
            await drive.ready()
            # 1. A cold look-up takes a few small blocks.
            before = drive.metadata.statistics().blocks_received
            assert await drive.read("/flat/01234.txt") == made("/flat/01234.txt", 10)
            assert drive.metadata.statistics().blocks_received - before < 1500
            # 2. Both listings are whole and in order.
            listed = [each.path.decode() async for each in drive.scandir("/flat")]
            assert listed == [f"/flat/{n:05}.txt" for n in range(3000)]
            walked = {each.path.decode() async for each in drive.walk() if each.entry.is_file}
            assert walked == set(paths)
            # 3. Nobody needs content for that.
            assert drive.content.statistics().blocks_received == 1
            # 4. A thousand go, a thousand are written again, as links and as executables, too.
            operations = [["del", path] for path in paths[:1000]]
            operations += [["put", path, 20, {"executable": True}] for path in paths[1000:1500]]
            operations += [["symlink", path, "../x"] for path in paths[1500:2000]]
            await node("change", drive=0, operations=operations[:1000])
            version = await node("change", drive=0, operations=operations[1000:], batch=True)
            await caught_up(drive, version)
            walked = {each.path.decode(): each.entry async for each in drive.walk()}
            files = {path for path, entry in walked.items() if not entry.is_dir}
            assert files == set(paths[1000:])
            sizes = [20] * 500 + [4] * 500 + [10] * 4000
            assert [walked[path].size for path in paths[1000:]] == sizes
            assert {path for path in files if walked[path].is_symlink} == set(paths[1500:2000])
            executable = {path for path in files if walked[path].mode & 0o777 == 0o755}
            assert executable == set(paths[1000:1500])


@GENERATIONS
async def test_what_changed_is_told(tmp_path, generation):
    async with opened(tmp_path, generation, count=100) as (drive, node, _):
        version = drive.version
        old = await drive.checkout(version)
        async with trio.open_nursery() as nursery:
            told = []

            async def watch(task_status):
                with drive.watch_changes() as changes:
                    task_status.started()
                    async for change in changes:
                        told.extend(change.changes)
                        if change.version == version + 4:
                            return

            await nursery.start(watch)
            operations = [
                ["put", "/new/deep/file", 100],
                ["put", "/new/file", 100_000, {"executable": True}],
                ["symlink", "/link", "new/file"],
                ["del", "/new/deep/file"],
            ]
            await node("change", drive=0, operations=operations)
        names = [change.name for change in told]
        assert set(names) >= {b"new", b"file", b"link"}
        # By paths, between the two versions.
        found = {change.path: change.kind async for change in drive.diff(old)}
        assert found == {b"/new": "added", b"/new/file": "added", b"/link": "added"}
        back = {change.path: change.kind async for change in old.diff(drive)}
        assert back == dict.fromkeys(found, "removed")
        assert "/new" not in {each.path.decode() async for each in old.walk()}


@GENERATIONS
async def test_a_watch_tells_what_node_changes_below_a_path(tmp_path, generation):
    async with opened(tmp_path, generation, count=100) as (drive, node, _):
        with drive.watch("/new") as watch:
            operations = [["put", "/other", 10], ["put", "/new/a", 100], ["put", "/new/b", 100]]
            version = await node("change", drive=0, operations=operations)
            seen = {}
            async for change in watch:
                seen.update({each.path: each.kind async for each in change.changes()})
                with contextlib.suppress(FileNotFoundError):
                    assert await change.new.read("/new/a") == made("/new/a", 100)
                if change.new.version == version:
                    break
            assert set(seen) == {b"/new", b"/new/a", b"/new/b"}
            # Another version that is nothing to who watches, and one that is.
            await node("remove", drive=0, path="/other")
            await node("remove", drive=0, path="/new/b")
            change = await anext(watch)
            assert [each.path async for each in change.changes()] == [b"/new/b"]
            assert await change.old.read("/new/b") == made("/new/b", 100)


@GENERATIONS
async def test_a_drive_that_node_truncates_is_followed(tmp_path, generation):
    async with opened(tmp_path, generation, count=0) as (drive, node, _):
        operations = [["put", "/a", 10], ["put", "/b", 70_000], ["put", "/d/c", 10]]
        await caught_up(drive, await node("change", drive=0, operations=operations))
        assert drive.version == 4
        past = await drive.checkout(4)
        entry, location = await drive.resolve(1, b"b")
        file = drive.open_file(entry, location)
        assert await contents(file) == made("/b", 70_000)
        with drive.watch("/d") as watch:
            # 1. Shorter than it was; and what comes then is where other blocks were.
            await node("truncateDrive", drive=0, version=2)
            await forked(drive, 1, 2)
            assert [each.path async for each in drive.walk()] == [b"/a"]
            assert (await anext(watch)).new.version == 2
            await node("change", drive=0, operations=[["put", "/b", 50_000], ["put", "/e", 1]])
            await forked(drive, 1, 4)
            assert [each.path async for each in drive.walk()] == [b"/a", b"/b", b"/e"]
            assert await drive.read("/b") == made("/b", 50_000)
        # 2. What it was cannot be read any more, and is not mixed with what it is.
        with pytest.raises(corestore.SnapshotNotAvailable):
            await past.read("/d/c")
        file.release()
        # 3. And again, to another history of the same length.
        await node("truncateDrive", drive=0, version=2)
        await node("change", drive=0, operations=[["put", "/x", 1], ["put", "/y", 1]])
        await forked(drive, 2, 4)
        assert [each.path async for each in drive.walk()] == [b"/a", b"/x", b"/y"]


async def forked(drive, fork, version):
    with drive.watch_changes() as changes:
        while (drive.tree.fork, drive.version) != (fork, version):
            await anext(changes)


@GENERATIONS
async def test_a_drive_that_node_has_not_written_yet_is_an_empty_one(tmp_path, generation):
    async with peers(tmp_path, generation=generation) as (store, node, connect):
        key = (await node("drive", name="theirs"))["key"]
        async with hyperfs.open(store, key=key, read_timeout=HANG_SECONDS) as drive:
            await connect()
            if generation == 10:
                # It does not say that it knows more of the core than we: that may be a stranger.
                with trio.move_on_after(0.2) as waiting:
                    await drive.ready()
                assert waiting.cancelled_caught
                operations = [["put", "/a", 10]]
                await caught_up(drive, await node("change", drive=0, operations=operations))
                assert await drive.read("/a") == made("/a", 10)
                return
            await drive.ready()
            assert drive.version == 0
            assert [each.path async for each in drive.walk()] == []
            with pytest.raises(FileNotFoundError):
                await drive.read("/a")
            with drive.watch() as watch:
                await node("change", drive=0, operations=[["put", "/a", 10]])
                change = await anext(watch)
                assert [each.path async for each in change.changes()] == [b"/a"]
                assert await drive.read("/a") == made("/a", 10)


@GENERATIONS
async def test_random_reads_are_right_and_fetch_little(tmp_path, generation):
    async with opened(tmp_path, generation, count=0) as (drive, node, script):
        rng = random.Random(3)
        uneven = [rng.choice([1, 700, 5000, 90_000]) for _ in range(120)]
        operations = [
            ["put", "/before", 1234],
            ["put", "/even", 3_000_000],
            ["stream", "/uneven", uneven, {}],
            ["put", "/small", 100],
        ]
        if script.dedup:
            operations.append(["stream", "/mapped", uneven, {"dedup": True}])
        await caught_up(drive, await node("change", drive=0, operations=operations))
        sizes = {"/even": 3_000_000, "/uneven": sum(uneven), "/mapped": sum(uneven)}
        for _, path, *_ in operations:
            size = sizes.get(path)
            if size is None:
                continue
            whole = made(path, size)
            entry, location = await drive.resolve(1, path[1:].encode())
            assert entry.size == size
            # 1. One byte takes a block, or two where the cut is not known.
            if path == "/even":
                before = drive.content.statistics().blocks_received
                assert await drive.read(path, 2_000_000, 1) == whole[2_000_000:2_000_001]
                assert drive.content.statistics().blocks_received == before + 1
            # 2. Anywhere, any length.
            for _ in range(60):
                offset = rng.randrange(size + 10)
                length = rng.choice([0, 1, 100, 4096, 65536, 200_000])
                assert await drive.read(path, offset, length) == whole[offset : offset + length]
            # 3. From front to end.
            file = drive.open_file(entry, location)
            assert await contents(file) == whole
            file.release()


@GENERATIONS
async def test_a_downloaded_drive_is_read_without_node(tmp_path, generation):
    path = tmp_path / "ours"
    async with corestore.open(path) as store, node_peer(generation=generation) as node:
        await node("store", folder=str(tmp_path / "theirs"))
        script = Script(9, dedup=generation == 11)
        key = (await node("drive", name="theirs"))["key"]
        version = await node("change", drive=0, operations=script.changes(200))
        port = await node("listen", initiator=False)
        async with corestore.open_swarm(store) as swarm, hyperfs.open(store, key=key) as drive:
            swarm.connect("127.0.0.1", port)
            await swarm.join(drive.discovery_key)
            await caught_up(drive, version)
            await drive.download()
    async with (
        corestore.open(path) as store,
        hyperfs.open(store, key=key, read_timeout=HANG_SECONDS) as drive,
    ):
        assert drive.version == version
        tree, _ = await our_tree(drive)
        assert tree == script.tree()


async def test_an_open_file_keeps_its_content_while_it_is_replaced(tmp_path):
    async with opened(tmp_path, 11, count=0) as (drive, node, _):
        await caught_up(drive, await node("change", drive=0, operations=[["put", "/f", 200_000]]))
        entry, location = await drive.resolve(1, b"f")
        file = drive.open_file(entry, location)
        assert await file.read(0, 10) == made("/f", 10)
        version = await node("put", drive=0, path="/f", content=b"new".hex())
        await caught_up(drive, version)
        assert await drive.read("/f") == b"new"
        assert await contents(file) == made("/f", 200_000)
        assert (await drive.entry("/f")).id != file.id
        file.release()


async def test_an_encrypted_drive_is_read_with_its_key_only(tmp_path):
    secret = bytes(range(32))
    async with peers(tmp_path) as (store, node, connect), corestore.open(None) as other:
        script = Script(4, dedup=True)
        key = (await node("drive", name="theirs", encryption=secret.hex()))["key"]
        version = await node("change", drive=0, operations=script.changes(200))
        async with hyperfs.open(store, key=key, encryption_key=secret) as drive:
            await connect()
            await caught_up(drive, version)
            tree, directories = await our_tree(drive)
            assert tree == script.tree()
            assert directories == script.directories()
            large = made("/large", 500_000)
            version = await node("change", drive=0, operations=[["put", "/large", 500_000]])
            await caught_up(drive, version)
            assert await drive.read("/large", 300_000, 5000) == large[300_000:305_000]
        async with connected(other, node), hyperfs.open(other, key=key) as drive:
            with pytest.raises(hyperfs.DriveEncrypted):
                await drive.ready()


def wait_for(path, seconds=HANG_SECONDS):
    """Return when *path* is there: the kernel tells nobody."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)


@pytest.mark.fuse
@GENERATIONS
async def test_a_drive_of_node_is_mounted(tmp_path, generation):
    async with node_peer(generation=generation) as node:
        await node("store", folder=str(tmp_path / "theirs"))
        script = Script(5, dedup=generation == 11)
        key = (await node("drive", name="theirs"))["key"]
        await node("change", drive=0, operations=script.changes(150))
        port = await node("listen", initiator=False)

        def look():
            found = []
            for folder, _, names in os.walk(mount.path):
                for path in (Path(folder) / name for name in names):
                    shown = "/" + str(path.relative_to(mount.path))
                    if path.is_symlink():
                        found.append([shown, None, False, str(path.readlink())])
                    else:
                        digest = hashlib.sha256(path.read_bytes()).hexdigest()
                        found.append([shown, digest, bool(path.stat().st_mode & 0o100), None])
            return sorted(found)

        entering = mounted(tmp_path / "m", store=tmp_path / "s", key=key, peer=("127.0.0.1", port))
        mount = await trio.to_thread.run_sync(entering.__enter__)
        try:
            assert await trio.to_thread.run_sync(look) == script.tree()
            await node("change", drive=0, operations=[["put", "/brand/new", 70_000]])
            arrived = mount.path / "brand" / "new"
            await trio.to_thread.run_sync(wait_for, arrived)
            assert await trio.to_thread.run_sync(arrived.read_bytes) == made("/brand/new", 70_000)
            with pytest.raises(OSError, match="Read-only"):
                await trio.to_thread.run_sync(arrived.write_bytes, b"x")
        finally:
            await trio.to_thread.run_sync(entering.__exit__, None, None, None)
