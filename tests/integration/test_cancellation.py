"""Cancelling everything at once loses nothing: what runs in the background outlives the block."""

from __future__ import annotations

import trio

import corestore
import hyperfs
from tests.support.limits import HANG_SECONDS


async def test_a_cancelled_block_can_still_sync(tmp_path):
    with trio.fail_after(HANG_SECONDS), trio.CancelScope() as scope:
        async with corestore.open(tmp_path / "store") as store:
            core = await store.get(name="log")
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await core.append(b"last words")
                    await store.sync()
                    assert core.published_length == 1
    async with corestore.open(tmp_path / "store") as store:
        core = await store.get(name="log")
        assert await core.get(0) == b"last words"


async def test_a_cancelled_drive_commits_and_syncs(tmp_path):
    with trio.fail_after(HANG_SECONDS), trio.CancelScope() as scope:
        async with (
            corestore.open(tmp_path / "store") as store,
            hyperfs.open(store, name="photos", create=True) as drive,
        ):
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await drive.write("/last", b"words")
                    await drive.sync()
    async with (
        corestore.open(tmp_path / "store") as store,
        hyperfs.open(store, name="photos") as drive,
    ):
        assert await drive.read("/last") == b"words"
