"""`Drive.watch`: changes below a path, made here and elsewhere, with the versions around them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

import corestore
import hyperfs
from hyperfs import versions
from hyperfs.versions import Below
from tests.support.limits import HANG_SECONDS


async def told(watch):
    """The next change: the versions before and after, and what changed between them."""
    change = await anext(watch)
    found = {each.path.decode(): each.kind async for each in change.changes()}
    return change.old, change.new, found


@asynccontextmanager
async def own_drive():
    async with corestore.open(None) as store:
        await hyperfs.create(store, "d")
        async with hyperfs.open(store, name="d") as drive:
            yield drive


@asynccontextmanager
async def pair():
    """A drive, and the same one opened elsewhere, connected."""
    async with own_drive() as writer, corestore.open(None) as far, trio.open_nursery() as nursery:
        near_end, far_end = trio.testing.memory_stream_pair()
        store = writer._committer._store
        nursery.start_soon(partial(store.replicate, near_end, initiator=True))
        nursery.start_soon(partial(far.replicate, far_end, initiator=False))
        async with hyperfs.open(far, key=writer.key) as reader:
            await reader.ready()
            yield writer, reader
        nursery.cancel_scope.cancel()


async def test_commits_of_ours_are_told_with_both_versions():
    async with own_drive() as drive:
        await drive.write("/a/b", b"old")
        with drive.watch() as watch:
            before = drive.version
            await drive.write("/a/b", b"new")
            await drive.write("/a/c", b"more")
            old, new, changes = await told(watch)
            assert (old.version, new.version) == (before, drive.version)
            assert changes == {"/a": "changed", "/a/b": "changed", "/a/c": "added"}
            assert [await each.read("/a/b") for each in (old, new)] == [b"old", b"new"]
            assert not old.writable
            # The next one begins where this one ended.
            await drive.remove("/a/c")
            again, newest, changes = await told(watch)
            assert (again.version, newest.version) == (new.version, drive.version)
            assert changes["/a/c"] == "removed"


@pytest.mark.parametrize("path", ["/a/b", "/a", "/", b"/a/"])
async def test_only_what_lies_below_the_path_is_told(path):
    async with own_drive() as drive:
        await drive.write("/a/b/file", b"1")
        await drive.write("/other/file", b"1")
        with drive.watch(path) as watch:
            if path != "/":
                await drive.write("/other/file", b"2")
                await drive.write("/ab", b"2")
                with trio.move_on_after(0.05) as quiet:
                    await anext(watch)
                assert quiet.cancelled_caught
            await drive.write("/a/b/file", b"2")
            *_, changes = await told(watch)
            assert "/a/b/file" in changes
            await drive.remove("/a", recursive=True)
            *_, changes = await told(watch)
            assert changes["/a/b" if path == "/a/b" else "/a"] == "removed"


async def test_a_path_that_is_not_there_yet_is_told_when_it_comes():
    async with own_drive() as drive:
        with drive.watch("/to/come") as watch:
            await drive.write("/to/do", b"")
            await drive.write("/to/come", b"here")
            _, new, changes = await told(watch)
            assert changes == {"/to/come": "added"}
            assert await new.read("/to/come") == b"here"


async def test_changes_of_others_are_told_once_they_are_shown():
    async with pair() as (writer, reader):
        with reader.watch("/folder") as watch:
            for number in range(3):
                await writer.write(f"/folder/{number}", b"%d" % number)
                await writer.sync()
                _, new, changes = await told(watch)
                assert changes[f"/folder/{number}"] == "added"
                assert reader.version == new.version
                assert await new.read(f"/folder/{number}") == b"%d" % number


async def test_a_drive_that_is_not_known_yet_begins_with_its_first_version():
    async with own_drive() as writer, corestore.open(None) as far, trio.open_nursery() as nursery:
        await writer.write("/first", b"")
        await writer.sync()
        async with hyperfs.open(far, key=writer.key) as reader:
            with reader.watch() as watch:
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(expect, watch, {"/second": "added"})
                    near_end, far_end = trio.testing.memory_stream_pair()
                    store = writer._committer._store
                    nursery.start_soon(partial(store.replicate, near_end, initiator=True))
                    nursery.start_soon(partial(far.replicate, far_end, initiator=False))
                    await reader.ready()
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    await writer.write("/second", b"")
                    await writer.sync()
        nursery.cancel_scope.cancel()


async def expect(watch, changes):
    assert (await told(watch))[2] == changes


async def test_a_version_that_changes_nothing_is_not_told():
    async with own_drive() as drive:
        await drive.write("/a", b"1")
        with drive.watch() as watch:
            before = drive.version
            await drive.compact(keep_last=1)
            assert drive.version > before
            await drive.write("/b", b"2")
            *_, changes = await told(watch)
            assert changes == {"/b": "added"}


async def test_leaving_the_block_ends_the_iteration_for_who_waits():
    async with own_drive() as drive, trio.open_nursery() as nursery:

        async def wait(watch):
            assert [change async for change in watch] == []

        with drive.watch() as watch:
            nursery.start_soon(wait, watch)
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_version_that_is_held_is_not_given_back():
    async with own_drive() as drive:
        await drive.write("/a", b"x" * 100_000)
        with drive.watch() as watch:
            await drive.write("/a", b"y" * 100_000)
            await drive.collect(keep_last=1)
            old, new, _ = await told(watch)
            assert await old.read("/a") == b"x" * 100_000
            assert await new.read("/a") == b"y" * 100_000


async def test_a_version_that_is_just_compared_is_not_given_back(monkeypatch):
    comparing, go_on = trio.Event(), trio.Event()
    changed = Below.changed

    async def slowly(*args):
        comparing.set()
        await go_on.wait()
        return await changed(*args)

    monkeypatch.setattr(Below, "changed", slowly)
    async with own_drive() as drive:
        await drive.write("/a", b"x" * 100_000)
        with drive.watch() as watch:
            await drive.write("/a", b"y" * 100_000)

            async def look():
                _, new, _ = await told(watch)
                assert await new.read("/a") == b"y" * 100_000

            with trio.fail_after(HANG_SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(look)
                    await comparing.wait()
                    await drive.write("/a", b"z" * 100_000)
                    await drive.collect(keep_last=1)
                    go_on.set()


async def nothing_told(watch):
    """Let everything come to rest: nothing is told."""
    told = []

    async def look():
        told.append(await anext(watch))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked(0.02)
        nursery.cancel_scope.cancel()
    assert not told


async def test_a_change_elsewhere_is_found_out_about_without_a_look_at_all_directories(monkeypatch):
    async with own_drive() as drive:
        async with drive.batch() as batch:
            for number in range(300):
                await batch.write(f"/big/{number}/file", b"1")
            await batch.mkdir("/other")
        looked = []
        children = versions._children

        async def counted(view, id, blocks):
            looked.append(id)
            return await children(view, id, blocks)

        monkeypatch.setattr(versions, "_children", counted)
        with drive.watch("/big") as watch:
            # 1. The first time all directories are looked at, then those that changed.
            for number in range(3):
                await drive.write("/other/file", b"%d" % number)
                await nothing_told(watch)
                assert len(looked) == (301 if number == 0 else 0)
                looked.clear()
            await drive.write("/big/7/file", b"22")
            *_, changes = await told(watch)
            assert changes == {"/big/7/file": "changed"}
            looked.clear()
            # 2. A directory that comes, with what is in it, is watched; one that went is not.
            await drive.write("/other/deep/down/file", b"1")
            await drive.rename("/other/deep", "/big/9/deep")
            await anext(watch)
            await drive.rename("/big/8", "/other/8")
            await anext(watch)
            looked.clear()
            await drive.write("/big/9/deep/down/file", b"22")
            await anext(watch)
            await drive.write("/other/8/file", b"22")
            await nothing_told(watch)
            assert len(looked) < 10


@pytest.mark.parametrize("outer", ["removed", "moved away"])
async def test_a_directory_that_left_the_one_that_went_is_watched_on(outer):
    async with own_drive() as drive:
        await drive.write("/w/outer/inner/deep/file", b"1")
        await drive.mkdir("/w/kept")
        with drive.watch("/w") as watch:
            await drive.write("/w/first", b"")
            await anext(watch)
            async with drive.batch() as batch:
                await batch.rename("/w/outer/inner", "/w/kept/inner")
                if outer == "removed":
                    await batch.remove("/w/outer")
                else:
                    await batch.rename("/w/outer", "/away")
            await anext(watch)
            await drive.write("/w/kept/inner/deep/file", b"22")
            with trio.fail_after(HANG_SECONDS):
                *_, changes = await told(watch)
            assert changes == {"/w/kept/inner/deep/file": "changed"}


async def test_a_file_with_several_names_is_told_at_each():
    async with own_drive() as drive:
        await drive.write("/a/file", b"1")
        await drive.mkdir("/b")
        entry = await drive.entry("/a/file")
        a, b = (await drive.entry("/a")).id, (await drive.entry("/b")).id
        drive.tree.put_shared(entry._replace(nlink=2))
        drive.tree.put_link(a, b"file", entry.id)
        drive.tree.put_link(b, b"linked", entry.id)
        await drive.commit()
        with drive.watch("/b") as watch:
            await drive.write("/a/file", b"22")
            *_, changes = await told(watch)
            assert changes == {"/b/linked": "changed"}
            await drive.remove("/b/linked")
            await told(watch)
            await drive.write("/a/file", b"333")
            await nothing_told(watch)
