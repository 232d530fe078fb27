"""File systems of `hyperfs.vfs` over drives in memory, and shorthands for what is done in them."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager

import pytest

import hyperfs
from hyperfs.records import ROOT_ID
from hyperfs.vfs.attributes import Attributes, SetAttributes
from hyperfs.vfs.filesystem import FileSystem
from hyperfs.vfs.rules import ROOT, Credentials
from tests.support.builders import FaultyStorage, open_with
from tests.support.waiting import Waiting

ALICE = Credentials(1000, 1000)
BOB = Credentials(1001, 1001, (2000,))


class Told:
    """Invalidations, kept."""

    def __init__(self) -> None:
        self.items = []

    def put(self, item):
        self.items.append(item)


@asynccontextmanager
async def file_system(*, storage=None, **options):
    """A file system whose root everybody may write; its `invalidations` are kept."""
    told = Told()
    async with (
        open_with(storage or FaultyStorage()) as store,
        hyperfs.open(store, name="drive", create=True) as drive,
    ):
        fs = Waiting(FileSystem(drive, Attributes, invalidations=told, **options))
        root = SetAttributes(mode=0o777)
        await fs.setattr(ROOT_ID, root, ROOT)
        yield fs


async def write(fs, parent, name, data=b"", who=ROOT, mode=0o644):
    """Make a file; its attributes then."""
    handle, attributes = await fs.create(parent, name, mode, os.O_WRONLY, who)
    await fs.write(handle, 0, data)
    await fs.release(handle)
    return await fs.getattr(attributes.ino)


async def read(fs, ino, who=ROOT):
    """The content of a file."""
    handle = await fs.open(ino, os.O_RDONLY, who)
    try:
        return await fs.read(handle, 0, 1 << 20)
    finally:
        await fs.release(handle)


async def names(fs, ino):
    """What a directory lists, dots included."""
    handle = await fs.opendir(ino, ROOT)
    found, position = [], 0
    while listed := await fs.readdir(handle, position):
        for entry in listed[:3]:
            found.append(entry[0])
            position = entry[2]
        fs.remember(handle, listed[:3])
    await fs.releasedir(handle)
    return found


@contextmanager
def raises(number):
    """The block fails with this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number
