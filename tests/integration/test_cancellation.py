"""Cancelling everything at once loses nothing: what runs in the background outlives the block."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio

import corestore
import hyperfs
from tests.support.limits import HANG_SECONDS

TOP = Path(__file__).parent.parent.parent


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


def test_ctrl_c_ends_a_program_wherever_it_comes_up_while_a_store_or_a_drive_is_opened_or_closed():
    told = subprocess.run(
        [sys.executable, "-m", "tests.support.interrupted"],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert not told.stderr
    endings = told.stdout.split()
    assert len(endings) > 20
    assert set(endings) == {"KeyboardInterrupt"}
