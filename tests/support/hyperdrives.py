"""Hyperdrives of the Node stack in lists of blocks, for tests without Node."""

from __future__ import annotations

import json

from hyperfs.hyperdrive import HyperdriveFormat, Owner
from hyperfs.index import BlocksMissing
from hyperfs.records import ID_BYTES, ROOT_ID, directory_range
from tests.support.bees import BeeWriter
from tests.support.blocks import Blocks

OWNER = Owner(7, 8)


def record(*, blob=None, **fields):
    """A record as Hyperdrive 13 writes it."""
    value = {"executable": False, "linkname": None, "blob": blob, "metadata": None, **fields}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def blob(block, byte_offset, size, blocks=1):
    return {
        "blockOffset": block,
        "byteOffset": byte_offset,
        "blockLength": blocks,
        "byteLength": size,
    }


class Content(Blocks):
    """A content core; what is away is fetched at once."""

    def __init__(self, *blocks) -> None:
        super().__init__()
        self.blocks = list(blocks)

    async def fetch(self, indices):
        self.away -= set(indices)


class Hyperdrive:
    """A drive that can be written: `metadata` and `content` are its logs."""

    def __init__(self) -> None:
        self.metadata = Blocks()
        self.content = Content()
        self._writer = BeeWriter()
        self._writer.header()
        self.metadata.blocks = self._writer.blocks
        self.format = HyperdriveFormat(self.metadata, self.content, OWNER)

    def put(self, path, value=None):
        self._writer.put(_key(path), record() if value is None else value)

    def remove(self, path):
        self._writer.delete(_key(path))

    def view(self, version=None):
        return self.format.view(len(self.metadata.blocks) if version is None else version)

    def complete(self, function):
        """What *function* returns once it has what it needs of either log."""
        while True:
            try:
                return function()
            except BlocksMissing as missing:
                log = missing.source or self.metadata
                log.away -= set(missing.indices)
                log.rounds.append(missing.indices)


def _key(path):
    return b"files\0" + (path.encode() if isinstance(path, str) else path)


def names(view, directory=ROOT_ID, page=100):
    """(name, entry) of a directory, listed *page* at a time."""
    start, end = directory_range(directory)
    out = []
    while True:
        found = view.scan(start, end, page)
        out += [(key[ID_BYTES:], entry) for key, entry in found]
        if len(found) < page:
            return out
        start = found[-1][0] + b"\0"


def tree(view, directory=ROOT_ID, prefix=b"", page=100):
    """path -> entry of everything."""
    out = {}
    for name, entry in names(view, directory, page):
        out[prefix + b"/" + name] = entry
        if entry.is_dir:
            out.update(tree(view, entry.id, prefix + b"/" + name, page))
    return out
