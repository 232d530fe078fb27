"""Holding a drive whole while its writer changes it, gives versions back, and comes and goes."""

from __future__ import annotations

import random

import pytest
import trio

import corestore
import hyperfs
from tests.support.builders import eventually, linked
from tests.support.drives import snapshot
from tests.support.limits import HANG_SECONDS

DATA = random.Random(15).randbytes(3_000_000)


async def change(writer, rng):
    """One random change, mostly of content that was there before in another place."""
    name = f"/{rng.randrange(12)}"
    dice = rng.random()
    if dice < 0.6:
        start = rng.randrange(20) * 50_000
        await writer.write(name, DATA[start : start + rng.randrange(400_000)])
    elif dice < 0.75:
        async with writer.batch() as batch:
            for n in range(rng.randrange(40)):
                await batch.write(f"/many/{n:03}", rng.randbytes(rng.randrange(3000)))
    elif dice < 0.85:
        await writer.collect(keep_last=rng.randrange(1, 5))
    elif dice < 0.9:
        await writer.compact(keep_last=2)
    else:
        try:
            await writer.remove(name)
        except FileNotFoundError:
            return


def complete(drive, version):
    whole = drive.wholeness()
    return whole is not None and whole.complete and drive.version == version


@pytest.mark.parametrize("seed", range(6))
async def test_a_held_drive_is_whole_in_the_end(seed):
    rng = random.Random(seed)
    async with (
        corestore.open(None) as near,
        corestore.open(None) as far,
        hyperfs.open(near, name="d", create=True) as writer,
        hyperfs.open(far, key=writer.key) as reader,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(reader.hold)
        for _ in range(5):
            for _ in range(rng.randrange(8)):
                await change(writer, rng)
            await writer.sync()
            async with linked(near, far):
                for _ in range(rng.randrange(8)):
                    await change(writer, rng)
                    if rng.random() < 0.5:
                        await writer.sync()
        await writer.sync()
        async with linked(near, far):
            await eventually(lambda: complete(reader, writer.version))
        # From here on without a peer.
        assert await snapshot(reader) == await snapshot(writer)
        oldest = writer._tree.view.index.root.oldest
        version = writer.version
        while version and version >= oldest:
            ours, theirs = await writer.checkout(version), await reader.checkout(version)
            with trio.fail_after(HANG_SECONDS):
                assert await snapshot(theirs) == await snapshot(ours)
            version = ours.previous()
        if oldest:
            # Nothing is held that the writer has given back.
            for mine, his in ((reader.content, writer.content), (reader.metadata, writer.metadata)):
                held = {n for run in mine.held(0, his.length) for n in range(*run)}
                kept = {n for run in his.held(0, his.length) for n in range(*run)}
                assert held <= kept
        nursery.cancel_scope.cancel()
