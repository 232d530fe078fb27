"""A drive whose key has signed two histories stops for its readers, where it was."""

from __future__ import annotations

import trio
import trio.testing

import corestore
import hyperfs
from corestore import ForkConflict
from tests.support.builders import linked
from tests.support.limits import HANG_SECONDS


async def test_what_was_shown_before_a_fork_is_shown_after_it(tmp_path, monkeypatch, caplog):
    async with corestore.open(None) as near, corestore.open(tmp_path) as far:
        key = await hyperfs.create(near, "photos")
        async with hyperfs.open(near, name="photos") as writer:
            await writer.write("/file", b"one history")
            await writer.sync()
            async with linked(near, far), hyperfs.open(far, key=key) as reader:
                with trio.fail_after(HANG_SECONDS):
                    await reader.ready()
                assert await reader.read("/file") == b"one history"

        async def stopped(self, condition):
            raise ForkConflict("two histories are signed", proof=None)

        monkeypatch.setattr(corestore.Hypercore, "wait_until", stopped)
        async with hyperfs.open(far, key=key) as reader:
            await trio.testing.wait_all_tasks_blocked()
            assert await reader.read("/file") == b"one history"
        assert "is not followed: two histories" in caplog.text
