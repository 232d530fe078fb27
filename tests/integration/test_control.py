"""The control socket between two ends of this program, and with strangers at the other end."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

import corestore
import hyperfs
from corestore import BlockNotAvailable
from hyperfs.cli import control, remote
from hyperfs.cli.access import DriveAccess
from hyperfs.cli.failures import Exit, Failure, explain
from hyperfs.cli.remote import ControlAccess
from tests.support.builders import FaultyStorage, eventually, linked, open_with
from tests.support.drives import make_file
from tests.support.limits import HANG_SECONDS


@asynccontextmanager
async def served(folder):
    """A drive behind a control socket: (its own access, the one through the socket, the path)."""
    path = folder / "socket"
    async with (
        corestore.open(None) as store,
        hyperfs.open(store, name="d", create=True) as drive,
        trio.open_nursery() as nursery,
    ):
        here, key = DriveAccess(drive), str(drive.key)
        await nursery.start(
            partial(control.serve, path, {key: here}, lambda: {"version": drive.version}, print)
        )
        async with remote.connect(path) as client:
            yield here, ControlAccess(client, key), path
        nursery.cancel_scope.cancel()


async def everything(access, path):
    """A file, read in pieces as commands do."""
    out = b""
    while data := await access.read(path, len(out), 100_000):
        out += data
    return out


async def pieces(*data):
    for piece in data:
        yield piece


async def test_every_call_does_what_it_does_here(tmp_path):
    async with served(tmp_path) as (here, there, path):
        name = b"/folder/Gr\xc3\xbc\xc3\x9fe \xff"
        await there.mkdir(b"/folder", 0o700, 5)
        await there.put(name, pieces(b"one", bytes(3 << 20)), mode=0o640, mtime_ns=7)
        await there.symlink(b"/link", b"to \xff", 9)
        assert await there.stat(name) == await here.stat(name)
        assert await there.list(b"/") == await here.list(b"/")
        assert [found for found, _ in await there.list(b"/", b"folder")] == [b"link"]
        assert (await there.stat(b"/link")).target == b"to \xff"
        assert await there.read(name, 1, 4) == b"ne\0\0"
        await there.remove(name)
        with pytest.raises(FileNotFoundError):
            await there.stat(name)
        await there.put(name, pieces(b"x"), mode=0o600, mtime_ns=0)
        with pytest.raises(OSError, match="not empty") as caught:
            await there.remove(b"/folder")
        assert caught.value.errno == errno.ENOTEMPTY
        await there.remove(b"/folder", recursive=True)
        assert [found for found, _ in await there.list(b"/")] == [b"link"]
        await there.sync()
        async with remote.connect(path) as client:
            assert (await client.status())["version"] > 0


async def test_what_is_written_here_is_not_evicted_and_that_is_no_bug(tmp_path):
    async with served(tmp_path) as (here, there, _):
        await here.put(b"/file", pieces(b"x"), mode=0o600, mtime_ns=0)
        for access in (here, there):
            with pytest.raises(Failure, match="hyperfs gc") as caught:
                await access.evict(b"/file")
            assert caught.value.code == Exit.USAGE


async def test_what_to_do_about_a_failure_is_said_once(tmp_path, monkeypatch):
    async def full(keep_last, keep_within):
        raise OSError(errno.ENOSPC, "No space left on device")

    async with served(tmp_path) as (here, there, _):
        monkeypatch.setattr(here, "collect", full)
        with pytest.raises(OSError, match="No space") as caught:
            await there.collect(1, None)
    assert caught.value.errno == errno.ENOSPC
    assert str(explain(caught.value)).count("make room") == 1


async def test_what_is_read_in_pieces_is_of_one_version(tmp_path):
    old, new = random.Random(1).randbytes(700_000), random.Random(2).randbytes(500_000)
    async with served(tmp_path) as (here, there, path):
        drive = here._drive
        await here.put(b"/file", pieces(old), mode=0o600, mtime_ns=0)
        for live in (here, there):
            fixed = await live.fixed()
            # Through a socket it is fixed by the first question.
            assert (await fixed.stat(b"/file")).size == len(old)
            assert await fixed.read(b"/file", 0, 100_000) == old[:100_000]
            await here.put(b"/file", pieces(new), mode=0o600, mtime_ns=0)
            await here.put(b"/later", pieces(b"x"), mode=0o600, mtime_ns=0)
            # What is in use is kept.
            await here.collect(1, None)
            assert await everything(fixed, b"/file") == old
            assert [name for name, _ in await fixed.list(b"/")] == [b"file"]
            assert await everything(live, b"/file") == new
            async with remote.connect(path) as client:
                another = await ControlAccess(client, str(drive.key)).fixed()
                assert await everything(another, b"/file") == new
            await here.remove(b"/later")
            await here.put(b"/file", pieces(old), mode=0o600, mtime_ns=0)


async def test_a_version_is_kept_for_a_connection_no_longer_than_that_lasts(tmp_path):
    gc.collect()
    gc.disable()
    try:
        async with served(tmp_path) as (here, _, path):
            drive = here._drive
            await here.put(b"/file", pieces(bytes(300_000)), mode=0o600, mtime_ns=0)
            async with remote.connect(path) as client:
                fixed = await ControlAccess(client, str(drive.key)).fixed()
                assert await fixed.read(b"/file", 0, 10) == bytes(10)
                assert len(drive.tree.checkouts) == 1
            await eventually(lambda: not drive.tree.checkouts)
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), BlockNotAvailable(1)])
async def test_what_cannot_be_stored_can_be_read(error):
    storage = FaultyStorage()
    async with open_with(storage) as store, hyperfs.open(store, name="d", create=True) as drive:
        access = DriveAccess(drive)
        await drive.write("/file", b"stored")
        file = make_file(drive, b"unstored")
        await file.write(0, b"bytes")
        storage.errors["commit"] = error
        fixed = await access.fixed()
        assert not storage.errors
        assert await fixed.read(b"/file", 0, 10) == b"stored"
        assert await fixed.read(b"/unstored", 0, 10) == b"bytes"
        file.release()


async def test_what_is_read_in_pieces_is_fetched_ahead():
    async with (
        corestore.open(None) as near,
        corestore.open(None) as far,
        hyperfs.open(near, name="d", create=True) as writer,
    ):
        for name in ("/file", "/other"):
            await writer.write(name, random.Random(name).randbytes(4_000_000))
        await writer.sync()
        async with linked(near, far), hyperfs.open(far, key=writer.key) as reader:
            await reader.ready()
            access = await DriveAccess(reader).fixed()
            assert len(await access.read(b"/other", 0, 100)) == 100
            for offset in range(0, 1_000_000, 100_000):
                await access.read(b"/file", offset, 100_000)
            content = reader.content
            with trio.fail_after(HANG_SECONDS):
                # What was read is a quarter of the file.
                await content.wait_until(
                    lambda: content.statistics().blocks_held > content.length // 4
                )
            with pytest.raises(IsADirectoryError):
                await access.read(b"/", 0, 1)


async def test_of_what_its_writer_gave_back_meanwhile_a_reader_says_so(autojump_clock):
    data = random.Random(3).randbytes(2_000_000)
    async with (
        corestore.open(None) as near,
        corestore.open(None) as far,
        hyperfs.open(near, name="d", create=True) as writer,
    ):
        await writer.write("/file", data)
        await writer.sync()
        async with (
            linked(near, far),
            hyperfs.open(far, key=writer.key, read_timeout=3) as reader,
        ):
            await reader.ready()
            access = DriveAccess(reader)
            fixed = await access.fixed()
            assert await fixed.read(b"/file", 0, 100_000) == data[:100_000]
            await writer.write("/file", b"new")
            await writer.collect(keep_last=1)
            await writer.sync()
            await eventually(lambda: reader.oldest)
            with pytest.raises(Failure, match="given back") as caught:
                await everything(fixed, b"/file")
            assert caught.value.code == Exit.NOT_FOUND
            assert await everything(access, b"/file") == b"new"


async def test_a_file_that_cannot_be_read_to_its_end_is_not_put(tmp_path):
    async def broken():
        yield b"half"
        raise PermissionError(errno.EACCES, "Permission denied", "source")

    async with served(tmp_path) as (_, there, _):
        await there.put(b"/file", pieces(b"whole"), mode=0o600, mtime_ns=0)
        for name in (b"/file", b"/other", b"/file/below"):
            with pytest.raises(PermissionError):
                await there.put(name, broken(), mode=0o600, mtime_ns=0)
        assert [name for name, _ in await there.list(b"/")] == [b"file"]
        assert await there.read(b"/file", 0, 10) == b"whole"


async def test_another_call_in_the_middle_of_a_file_ends_the_connection(tmp_path):
    async with served(tmp_path) as (here, there, path):
        async with remote.connect(path) as client:
            key = there._key
            await client.send("put", drive=key, path="/file", mode=0o600, mtime_ns=0)
            with pytest.raises(Failure, match="went away"):
                await client.call("stat", drive=key, path="/")
        assert await here.list(b"/") == []


@pytest.mark.parametrize(
    "header",
    [
        {"call": "stat"},
        {"call": "stat", "path": 5},
        {"call": "read", "path": "/", "offset": "x", "length": 1},
        {"call": "nothing"},
        {},
        [],
    ],
)
async def test_a_malformed_call_ends_its_connection_and_no_other(tmp_path, header):
    async with served(tmp_path) as (here, there, path):
        if isinstance(header, dict) and header.get("path"):
            header["drive"] = there._key
        async with await trio.open_unix_socket(os.fspath(path)) as stream:
            text = json.dumps(header).encode()
            await stream.send_all(len(text).to_bytes(4, "big") + text + bytes(4))
            with trio.fail_after(HANG_SECONDS):
                assert await stream.receive_some() == b""
        assert await there.stat(b"/") == await here.stat(b"/")


async def test_a_process_that_does_not_answer_is_given_up(tmp_path, autojump_clock):
    path = os.fspath(tmp_path / "socket")
    silent = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    with silent:
        await silent.bind(path)
        silent.listen(1)
        async with remote.connect(tmp_path / "socket") as client:
            with pytest.raises(Failure, match="does not answer"):
                await ControlAccess(client, "k").stat(b"/")


async def test_an_answer_of_another_version_is_told(tmp_path):
    async def answer(stream):
        connection = control.Connection(stream)
        while await connection.receive() is not None:
            await connection.send({"result": {"other": 1}})

    silent = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await silent.bind(os.fspath(tmp_path / "socket"))
    silent.listen(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, answer, [trio.SocketListener(silent)])
        async with remote.connect(tmp_path / "socket") as client:
            with pytest.raises(Failure, match="another version"):
                await ControlAccess(client, "k").stat(b"/")
        nursery.cancel_scope.cancel()
