"""What tests ask of drives."""

from __future__ import annotations

import stat
from contextlib import asynccontextmanager

import hyperfs
from hyperfs.drive import ROOT_ID
from tests.support.builders import FaultyStorage, open_with


async def snapshot(drive: hyperfs.Drive) -> dict[bytes, bytes | str | None]:
    """Everything in a drive: path -> content of a file, None for a directory, a link's target."""
    found: dict[bytes, bytes | str | None] = {b"/": None}
    async for each in drive.walk():
        entry = each.entry
        if entry.is_dir:
            found[each.path] = None
        elif entry.target is not None:
            found[each.path] = entry.target.decode()
        else:
            data = await drive.read(each.path)
            assert len(data) == entry.size
            found[each.path] = data
    return found


async def contents(file: hyperfs.OpenFile) -> bytes:
    """All bytes of an open file, read in odd pieces."""
    out = b""
    while piece := await file.read(len(out), 70_001):
        out += piece
    return out


@asynccontextmanager
async def a_drive(storage=None):
    """A drive, alone in a store in memory."""
    async with (
        open_with(storage or FaultyStorage()) as store,
        hyperfs.open(store, name="d", create=True) as drive,
    ):
        yield drive


def make_file(drive, name, directory=ROOT_ID):
    """A new empty file, open."""
    now = 1_000_000_000
    entry = hyperfs.Entry(drive.tree.new_id(), stat.S_IFREG | 0o644, 0, 0, now, now, 0)
    drive.tree.put(directory, name, entry)
    return drive.open_file(entry, (directory, name))


async def committed(drive, path):
    """What the newest version says of a path, staged changes aside."""
    return await (await drive.checkout(drive.version)).read(path)
