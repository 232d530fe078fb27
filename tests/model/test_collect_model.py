"""Collections at random moments of random histories: what is kept reads as it was written."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random

import pytest

import corestore
import hyperfs
from hyperfs.content import ContentMap
from hyperfs.extents import Extent
from hyperfs.reach import BlockSet
from tests.support.drives import contents, snapshot

SEEDS = range(10)
# Inline, packed, one chunk, several chunks, several windows.
SIZES = [100, 2_000, 20_000, 70_000, 300_000, 1_500_000]


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_is_kept_reads_as_it_was(seed, monkeypatch):
    """Small index nodes and overlays, equal contents in many files, files open while unlinked."""
    monkeypatch.setattr("hyperfs.index.build.RECENT_BYTES", 300)
    monkeypatch.setattr("hyperfs.index.build.OVERLAY_BYTES", 1_500)
    rng = random.Random(seed)
    pieces = [rng.randbytes(rng.choice(SIZES)) for _ in range(8)]
    async with corestore.open(None) as store, hyperfs.open(store, name="d", create=True) as drive:
        told: dict[int, dict[bytes, bytes | str | None]] = {}
        opened: list[hyperfs.OpenFile] = []
        checkouts: list[hyperfs.Drive] = []
        oldest = 0
        for step in range(60):
            await change(rng, drive, pieces)
            told[drive.version] = await snapshot(drive)
            if rng.random() < 0.1:
                version = rng.choice([v for v in told if v >= oldest])
                checkouts.append(await drive.checkout(version))
            if rng.random() < 0.15:
                path = rng.choice([p for p, data in told[drive.version].items() if p != b"/"])
                opened.append(drive.open_file(*await drive.resolve(1, path[1:])))
            if step % 7 == 6:
                keep = rng.choice([1, 2, 5, 20])
                shown = [await contents(file) for file in opened]
                found = await drive.collect(keep_last=keep)
                drive._tree.reader._cache.clear()
                assert [await contents(file) for file in opened] == shown
                assert found.version >= oldest
                oldest = found.version
                kept = [version for version in told if version >= oldest]
                # Nothing of another opening is cached, and nobody sends what is missing.
                async with hyperfs.open(store, name="d", read_timeout=0) as again:
                    for version in kept[:2] + kept[-2:] + rng.sample(kept, min(2, len(kept))):
                        assert await snapshot(await again.checkout(version)) == told[version]
                    for version in [v for v in told if v < oldest]:
                        with pytest.raises(hyperfs.VersionCleared):
                            await again.checkout(version)
                for past in checkouts:
                    assert await snapshot(past) == told[past.version]
            if rng.random() < 0.1:
                for file in opened:
                    file.release()
                opened.clear()
                checkouts.clear()
        for file in opened:
            file.release()
        opened.clear()
        checkouts.clear()
        past = None
        gc.collect()
        await drive.collect(keep_last=1)
        assert await snapshot(drive) == told[max(told)]
        assert held_content(drive) == await named_content(drive)


def held_content(drive):
    core = drive.content
    return {block for run in core.held(0, core.length) for block in range(*run)}


async def named_content(drive):
    """The content blocks that the newest version's files name."""
    blocks = set()
    async for found in drive.walk():
        if found.entry.is_file and found.entry.inline is None:
            content = ContentMap.of_entry(found.entry, drive._tree.view)
            pieces = content.pieces(0, found.entry.size)
            blocks |= {piece.block for piece in pieces if isinstance(piece, Extent)}
    return blocks


async def change(rng, drive, pieces):
    """One version more."""
    names = [f"/{n}" for n in range(6)]
    small = [f"/{'x' * 100}{n}" for n in range(60)]
    async with drive.batch() as batch:
        for name in rng.choices(small, k=rng.randrange(3)):
            await batch.write(name, rng.randbytes(rng.choice([10, 500])))
        for _ in range(rng.randrange(1, 5)):
            name = rng.choice(names)
            if rng.random() < 0.25:
                with contextlib.suppress(FileNotFoundError):
                    await batch.remove(name)
            else:
                parts = rng.choices(pieces, k=rng.randrange(1, 4))
                await batch.write(name, b"".join(parts))
        # So that there is always one.
        await batch.write("/always", rng.choice(pieces))


@pytest.mark.parametrize("seed", range(20))
def test_gaps_are_what_is_not_in_the_set(seed):
    rng = random.Random(seed)
    found, oracle = BlockSet(), set()
    for _ in range(rng.randrange(60)):
        start = rng.randrange(500)
        for index in range(start, start + rng.choice([1, 3, 40])):
            found.add(index)
            oracle.add(index)
    for _ in range(20):
        start = rng.randrange(600)
        end = start + rng.randrange(300)
        gaps = list(found.gaps(start, end))
        assert [i for s, e in gaps for i in range(s, e)] == [
            i for i in range(start, end) if i not in oracle
        ]
        assert all(s < e for s, e in gaps)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(gaps))
    assert all((i in found) == (i in oracle) for i in range(700))
