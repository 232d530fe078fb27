"""Random operations on a drive against small oracles: a dictionary of paths, a bytearray of bytes.

A failing seed joins `SEEDS`.
"""

from __future__ import annotations

import errno
import random
import stat

import pytest
import trio

import corestore
import hyperfs
from hyperfs import appender, committer
from hyperfs.drive import ROOT_ID
from hyperfs.extents import WINDOW_BYTES
from hyperfs.records import group_window, key_id, unpack_record
from tests.support.drives import contents, snapshot

SEEDS = range(12)
NAMES = [b"a", b"b", b"c", "d \N{LATIN SMALL LETTER U WITH DIAERESIS}".encode(), b"\xff\xfe"]
# Around the bounds: inline, packed, one chunk, several chunks, several windows.
SIZES = [0, 1, 127, 128, 129, 2_000, 16_383, 16_384, 70_000, 300_000, 1_100_000]


class Oracle:
    """What a tree of files must look like: path -> bytes, None for a directory, str for a link."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes | str | None] = {b"/": None}

    def copy(self) -> Oracle:
        other = Oracle()
        other.nodes = dict(self.nodes)
        return other

    def below(self, path: bytes) -> list[bytes]:
        return [other for other in self.nodes if other.startswith(path.rstrip(b"/") + b"/")]

    def ancestors(self, path: bytes) -> list[bytes]:
        parts = path.split(b"/")[1:-1]
        return [b"/" + b"/".join(parts[: n + 1]) for n in range(len(parts))]

    def check_parents(self, path: bytes, *, make: bool) -> int:
        for parent in self.ancestors(path):
            if parent not in self.nodes:
                if not make:
                    return errno.ENOENT
            elif self.nodes[parent] is not None:
                return errno.ENOTDIR
        return 0

    def make_parents(self, path: bytes) -> None:
        for parent in self.ancestors(path):
            self.nodes.setdefault(parent, None)

    def write(self, path: bytes, data: bytes) -> int:
        code = self.check_parents(path, make=True)
        if code:
            return code
        if path in self.nodes and self.nodes[path] is None:
            return errno.EISDIR
        self.make_parents(path)
        self.nodes[path] = data
        return 0

    def mkdir(self, path: bytes) -> int:
        code = self.check_parents(path, make=False)
        if code:
            return code
        if path in self.nodes:
            return errno.EEXIST
        self.nodes[path] = None
        return 0

    def symlink(self, path: bytes, target: str) -> int:
        code = self.check_parents(path, make=True)
        if code:
            return code
        if path in self.nodes:
            self.make_parents(path)
            return errno.EEXIST
        self.make_parents(path)
        self.nodes[path] = target
        return 0

    def remove(self, path: bytes, *, recursive: bool) -> int:
        code = self.check_parents(path, make=False)
        if code:
            return code
        if path not in self.nodes:
            return errno.ENOENT
        if self.below(path) and not recursive:
            return errno.ENOTEMPTY
        for gone in [*self.below(path), path]:
            del self.nodes[gone]
        return 0

    def rename(self, old: bytes, new: bytes) -> int:
        if new.startswith(old + b"/"):
            return errno.EINVAL
        code = self.check_parents(old, make=False) or self.check_parents(new, make=False)
        if code:
            return code
        if old not in self.nodes:
            return errno.ENOENT
        if old == new:
            return 0
        if new in self.nodes:
            was, now = self.nodes[new] is None, self.nodes[old] is None
            if was != now:
                return errno.EISDIR if was else errno.ENOTDIR
            if self.below(new):
                return errno.ENOTEMPTY
            del self.nodes[new]
        for path in [*self.below(old), old]:
            self.nodes[new + path[len(old) :]] = self.nodes.pop(path)
        return 0


def some_path(source: random.Random) -> bytes:
    return b"/" + b"/".join(source.choice(NAMES) for _ in range(source.randint(1, 3)))


def some_data(source: random.Random, pool: list[bytes]) -> bytes:
    """Fresh bytes, or bytes that were written before (also shifted), to meet deduplication."""
    if pool and source.random() < 0.3:
        data = source.choice(pool)
        return data if source.random() < 0.5 else source.randbytes(7) + data
    data = source.randbytes(source.choice(SIZES))
    pool.append(data)
    return data


async def run(drive_or_batch: object, call: str, *arguments: object, **options: object) -> int:
    """The errno of an operation, 0 if it succeeds."""
    try:
        await getattr(drive_or_batch, call)(*arguments, **options)
    except OSError as error:
        return error.errno or -1
    return 0


async def step(target: object, oracle: Oracle, source: random.Random, pool: list[bytes]) -> None:
    """One random operation on *target* and on the oracle."""
    path = some_path(source)
    match source.choice(["write", "write", "write", "mkdir", "symlink", "remove", "rename"]):
        case "write":
            data = some_data(source, pool)
            before = oracle.copy()
            expected = oracle.write(path, data)
            if expected:
                oracle.nodes = before.nodes
            assert await run(target, "write", path, data) == expected
        case "mkdir":
            expected = oracle.mkdir(path)
            assert await run(target, "mkdir", path) == expected
        case "symlink":
            expected = oracle.symlink(path, "to/" + path.hex())
            assert await run(target, "symlink", path, "to/" + path.hex()) == expected
        case "remove":
            recursive = source.random() < 0.4
            expected = oracle.remove(path, recursive=recursive)
            assert await run(target, "remove", path, recursive=recursive) == expected
        case "rename":
            new = some_path(source)
            expected = oracle.rename(path, new)
            assert await run(target, "rename", path, new) == expected


@pytest.mark.parametrize("seed", SEEDS)
async def test_paths_behave_as_a_dictionary(seed: int, tmp_path) -> None:
    source = random.Random(seed)
    oracle = Oracle()
    pool: list[bytes] = []
    versions: list[tuple[int, Oracle]] = []
    for session in range(3):
        async with (
            corestore.open(tmp_path / "store") as store,
            hyperfs.open(store, name="drive", create=session == 0) as drive,
        ):
            assert await snapshot(drive) == oracle.nodes
            for _ in range(12):
                if source.random() < 0.3:
                    async with drive.batch() as batch:
                        for _ in range(source.randint(1, 6)):
                            await step(batch, oracle, source, pool)
                else:
                    # A failed symlink has made its parents only within a batch.
                    before = oracle.copy()
                    version = drive.version
                    await step(drive, oracle, source, pool)
                    if drive.version == version:
                        oracle.nodes = before.nodes
                versions.append((drive.version, oracle.copy()))
                if source.random() < 0.2:
                    assert await snapshot(drive) == oracle.nodes
            assert await snapshot(drive) == oracle.nodes
            root = drive.statistics()
            assert root.files == len(oracle.nodes)
            files = [data for data in oracle.nodes.values() if isinstance(data, bytes)]
            links = [data for data in oracle.nodes.values() if isinstance(data, str)]
            assert root.byte_length == sum(map(len, files)) + sum(map(len, links))
            for version, then in source.sample(versions, 3):
                past = await drive.checkout(version)
                assert await snapshot(past) == then.nodes
            await check_diff(drive, *source.sample(versions, 2))


async def check_diff(
    drive: hyperfs.Drive, old: tuple[int, Oracle], new: tuple[int, Oracle]
) -> None:
    """The differences of two versions are those of their oracles."""
    before, after = await drive.checkout(old[0]), await drive.checkout(new[0])
    added, removed, changed = set(), set(), set()
    async for change in after.diff(before):
        {"added": added, "removed": removed, "changed": changed}[change.kind].add(change.path)
    assert added == new[1].nodes.keys() - old[1].nodes.keys()
    assert removed == old[1].nodes.keys() - new[1].nodes.keys()
    both = old[1].nodes.keys() & new[1].nodes.keys()
    assert changed >= {path for path in both if old[1].nodes[path] != new[1].nodes[path]}


@pytest.mark.parametrize("seed", SEEDS)
async def test_open_files_behave_as_bytearrays(seed: int, tmp_path, monkeypatch) -> None:
    """Writes, cuts and reads at random, while commits run, over several openings of the drive."""
    source = random.Random(seed)
    # Low bounds, so that flushes and the rewriting of windows have their part in it.
    monkeypatch.setattr(committer, "FLUSH_DIRTY_BYTES", source.choice([200_000, 1 << 24]))
    monkeypatch.setattr(committer, "_FLUSH_FILE_BYTES", 10_000)
    monkeypatch.setattr(appender, "WINDOW_EXTENTS", source.choice([4, 64]))
    scale = source.choice([200, 5_000, 400_000])
    names = [b"one", b"two", b"three"]
    oracle = {name: bytearray() for name in names}
    async with corestore.open(tmp_path / "store") as store:
        for session in range(3):
            async with hyperfs.open(store, name="drive", create=session == 0) as drive:
                files = {}
                for name in names:
                    files[name] = await opened(drive, name)
                    assert files[name].size == len(oracle[name])
                async with trio.open_nursery() as nursery:
                    for _ in range(60):
                        name = source.choice(names)
                        await file_step(files[name], oracle[name], source, scale)
                        if source.random() < 0.05:
                            data = source.randbytes(source.randrange(scale))
                            await drive.write(b"/" + name, data)
                            oracle[name][:] = data
                        if source.random() < 0.05:
                            if source.random() < 0.5:
                                files[name].release()
                                await drive.remove(b"/" + name)
                            else:
                                await drive.remove(b"/" + name)
                                files[name].release()
                            files[name] = await opened(drive, name)
                            oracle[name].clear()
                        if source.random() < 0.15:
                            nursery.start_soon(drive.commit)
                        if source.random() < 0.3:
                            await trio.lowlevel.checkpoint()
                if source.random() < 0.5:
                    await drive.commit()
                for name in names:
                    assert await contents(files[name]) == oracle[name]
                    files[name].release()
                if source.random() < 0.5:
                    await drive.commit()
                    assert not drive.tree.files
                    assert drive.statistics().dirty_bytes == 0
        async with hyperfs.open(store, name="drive") as drive:
            for name in names:
                assert await drive.read(b"/" + name) == oracle[name]
            assert drive.statistics().byte_length == sum(map(len, oracle.values()))
            check_groups(drive)


async def opened(drive: hyperfs.Drive, name: bytes) -> hyperfs.OpenFile:
    """The file of a name, made if there is none."""
    entry = await drive.lookup(ROOT_ID, name)
    if entry is None:
        entry = hyperfs.Entry(drive.tree.new_id(), stat.S_IFREG | 0o600, 1, 2, 3, 4, 0)
        drive.tree.put(ROOT_ID, name, entry)
    return drive.open_file(entry, (ROOT_ID, name))


def check_groups(drive: hyperfs.Drive) -> None:
    """Group records are of windows that grouped files have, and say something."""
    index = drive._tree.view.index
    entries, groups = {}, set()
    for key, value in index.scan(b"", None, 100_000):
        record = unpack_record(value)
        if type(record) is tuple:
            groups.add((key_id(key), group_window(key)))
            assert record
        else:
            entries[record.id] = record
    for id, window in groups:
        assert entries[id].grouped
        assert window * WINDOW_BYTES < entries[id].size


async def file_step(
    file: hyperfs.OpenFile, oracle: bytearray, source: random.Random, scale: int
) -> None:
    size = len(oracle)
    match source.choice(["write", "write", "append", "truncate", "read", "many"]):
        case "write":
            offset = source.randrange(size + scale)
            data = source.randbytes(source.randrange(1, scale))
            await file.write(offset, data)
            write(oracle, offset, data)
        case "append":
            data = source.randbytes(source.randrange(1, scale))
            await file.write(size, data)
            write(oracle, size, data)
        case "truncate":
            cut = source.choice([0, source.randrange(size + 1), size + source.randrange(scale)])
            file.truncate(cut)
            del oracle[cut:]
            oracle.extend(bytes(cut - len(oracle)))
        case "many":
            for _ in range(40):
                offset = source.randrange(size + 1)
                data = source.randbytes(source.randrange(1, 20))
                await file.write(offset, data)
                write(oracle, offset, data)
        case "read":
            offset = source.randrange(size + 10)
            length = source.randrange(2 * scale)
            assert await file.read(offset, length) == oracle[offset : offset + length]
    assert file.size == file.entry.size == len(oracle)


def write(oracle: bytearray, offset: int, data: bytes) -> None:
    if offset > len(oracle):
        oracle.extend(bytes(offset - len(oracle)))
    oracle[offset : offset + len(data)] = data
