"""A reader that comes back without peers shows what it showed before, whatever else it has."""

from __future__ import annotations

import trio

import corestore
import hyperfs
from hyperfs.index.root import decode_root
from tests.support.builders import linked
from tests.support.drives import snapshot
from tests.support.limits import HANG_SECONDS


async def test_a_version_that_is_here_in_part_does_not_hide_the_one_that_was_shown(tmp_path):
    async with corestore.open(None) as near:
        key = await hyperfs.create(near, "d")
        async with hyperfs.open(near, name="d") as writer:
            await fill(writer, b"old")
            async with corestore.open(tmp_path / "far") as far, linked(near, far):
                async with hyperfs.open(far, key=key) as reader:
                    with trio.fail_after(HANG_SECONDS):
                        while reader.version < writer.version:
                            await reader.update()
                    known = await snapshot(reader)
                    shown = reader.version
                await fill(writer, b"new")
                await only_the_root(far, key, writer.version)
    async with (
        corestore.open(tmp_path / "far") as far,
        hyperfs.open(far, key=key, read_timeout=HANG_SECONDS) as reader,
    ):
        assert reader.version == shown
        assert await snapshot(reader) == known


async def fill(drive, data):
    async with drive.batch() as batch:
        for n in range(1000):
            await batch.write(f"/{n}", data)
    await drive.sync()


async def only_the_root(store, key, version):
    """What a reader has that is killed as it begins to follow."""
    async with await store.get(key=key) as core:
        with trio.fail_after(HANG_SECONDS):
            await core.wait_length(version)
            root = decode_root(await core.get(version - 1), version - 1)
            assert root is not None
            if root.info.overlay is not None:
                await core.get(root.info.overlay)
