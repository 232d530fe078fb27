"""The root block, which ends every commit, and the header block, with which a drive begins.

A root block says where the tree and the older overlay of its version are, holds the most recent
changes itself, and records what else belongs to the version: its time, the content it relies on,
the counters. Every signed length of a metadata log ends in one (but for a log that has only its
header), so the root before is always the block in front of the commit.

`skips` lead further back: of the commits, numbered from 1, a root names the newest earlier one
whose number is a multiple of 4, of 16, of 64 and so on. Any version among a million commits is
found in some 15 steps, 30 at most.

Block 0 is the header of a Hyperbee with our format in its user data, so that the deployed stack
recognises what kind of core this is and finds the content core.

Format: hyperfs/FORMAT.md, "Drive header", "Root block"; hyperbee 2.27 (the header).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from corestore import DecodeError
from hyperfs.errors import DriveEncrypted, NotADrive, UnsupportedFormat
from hyperfs.index.node import (
    ROOT_KIND,
    decode_changes_untrusted,
    unpack_block_untrusted,
)
from hyperfs.records import MAX_ID, pack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hyperfs.index.node import BlockReader, NodeCache

FORMAT_VERSION: Final = 1
SKIP_BASE: Final = 4
_MAX_COUNT: Final = (1 << 53) - 1
_MAX_TIME: Final = (1 << 63) - 1

_BEE_MAGIC: Final = b"\x0a\x08hyperbee"
_USER_DATA: Final = b"hyperfs/"
# How long encrypted headers are, with their 8 bytes of padding: ours, whose version has 1 or 2
# digits, and those of Hyperdrives, without and with the content core's key.
_ENCRYPTED_SIZES: Final = frozenset((31, 32, 20, 54))


@dataclass(frozen=True, slots=True)
class RootInfo:
    """What a root block says about its version.

    `index` is the root block itself. `first_block` is the first block of its commit;
    `content_length` the blocks of the content core it relies on; `next_id` the first file id not
    yet used; `files` counts files and directories, `bytes` the sizes of the files, for statfs.
    `number` counts commits from 1. `tree` and `overlay` are blocks, None when empty; `skips` are
    root blocks, ever further back. `oldest` is the oldest version that the writer has kept; 0: all.
    `content_fork` is the fork of the content core that it relies on.
    """

    index: int
    time_ns: int
    first_block: int
    content_length: int
    next_id: int
    files: int
    bytes: int
    number: int
    tree: int | None
    overlay: int | None
    skips: tuple[int, ...] = ()
    oldest: int = 0
    content_fork: int = 0

    @property
    def version(self) -> int:
        """The drive version: the length of the metadata log that ends in this block."""
        return self.index + 1

    @property
    def previous(self) -> int | None:
        """The root block of the version before; None for the first."""
        return self.first_block - 1 if self.first_block > 1 else None


@dataclass(slots=True)
class Root:
    """A decoded root block: its facts, and the most recent changes."""

    info: RootInfo
    recent: dict[bytes, bytes | None]
    cost: int


# -- root blocks -------------------------------------------------------------------------------


def encode_root(info: RootInfo, recent: Mapping[bytes, bytes | None]) -> bytes:
    """The block that will be block `info.index`."""
    items: list[bytes | None] = []
    for key in sorted(recent):
        items += (key, recent[key])
    return pack(
        [
            ROOT_KIND,
            [
                FORMAT_VERSION,
                info.time_ns,
                info.first_block,
                info.content_length,
                info.next_id,
                info.files,
                info.bytes,
                info.number,
                info.tree,
                info.overlay,
                list(info.skips),
                *([info.oldest] if info.oldest or info.content_fork else []),
                *([info.content_fork] if info.content_fork else []),
            ],
            items,
        ]
    )


def decode_root(block: bytes, index: int) -> Root | None:
    """Read block *index* if it is a root; None when it is another block of the format.

    Raises:
      DecodeError: it is no block of the format, or a root that cannot be.
      UnsupportedFormat: a root of a later format.
    """
    kind, head, items = unpack_block_untrusted(block)
    if kind != ROOT_KIND:
        return None
    info = _facts_untrusted(head, index)
    return Root(info, decode_changes_untrusted(b"", items), 500 + 2 * len(block))


def _facts_untrusted(head: object, index: int) -> RootInfo:
    """What the facts of block *index*, a root, say. Raises DecodeError, UnsupportedFormat."""
    if type(head) is not list or not head or type(head[0]) is not int:
        raise DecodeError("root block")
    if head[0] != FORMAT_VERSION:
        raise UnsupportedFormat(head[0])
    if len(head) < 11:
        raise DecodeError("root block")
    time_ns, first, content_length, next_id, files, size, number, tree, overlay, skips = head[1:11]
    oldest = head[11] if len(head) > 11 else 0
    content_fork = head[12] if len(head) > 12 else 0
    first_block = _number_untrusted(first, 1, index, "first block of a commit")
    commits = _number_untrusted(number, 1, _MAX_COUNT, "number of a commit")
    counter, pointer = "counter of a root block", "block in front of the root block"
    return RootInfo(
        index,
        _number_untrusted(time_ns, -_MAX_TIME, _MAX_TIME, "time of a commit"),
        first_block,
        _number_untrusted(content_length, 0, _MAX_COUNT, counter),
        _number_untrusted(next_id, 1, MAX_ID + 1, "next file id"),
        _number_untrusted(files, 0, _MAX_COUNT, counter),
        _number_untrusted(size, 0, _MAX_TIME, counter),
        commits,
        None if tree is None else _number_untrusted(tree, 1, index - 1, pointer),
        None if overlay is None else _number_untrusted(overlay, 1, index - 1, pointer),
        _skips_untrusted(skips, commits, first_block),
        _number_untrusted(oldest, 0, index + 1, "oldest version"),
        _number_untrusted(content_fork, 0, _MAX_COUNT, "fork of the content"),
    )


def _number_untrusted(value: object, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise DecodeError(what)
    return value


def _skips_untrusted(skips: object, number: int, first_block: int) -> tuple[int, ...]:
    """The skips of commit *number*; none leads less far back than the one before it."""
    if type(skips) is not list or len(skips) != _skip_count(number):
        raise DecodeError("skip pointers")
    found: list[int] = []
    before = first_block - 1
    for skip in skips:
        before = _number_untrusted(skip, 1, before, "skip pointer to an earlier root")
        found.append(before)
    return tuple(found)


def content_fork(block: bytes, index: int) -> int | None:
    """The fork of the content core that block *index*, a root, says it relies on; None if it is no
    root of ours. Raises UnsupportedFormat."""
    try:
        root = decode_root(block, index)
    except DecodeError:
        return None
    return None if root is None else root.info.content_fork


def next_skips(previous: RootInfo) -> tuple[int, ...]:
    """The skip pointers of the root that follows *previous*."""
    skips: list[int] = []
    step = SKIP_BASE
    while step <= previous.number:
        if previous.number % step == 0:
            skips.append(previous.index)
        else:
            skips.append(previous.skips[len(skips)])
        step *= SKIP_BASE
    return tuple(skips)


def _skip_count(number: int) -> int:
    """How many powers of 4, 1 left out, are below *number*: each has a multiple before it."""
    return (number - 1).bit_length() - 1 >> 1 if number > SKIP_BASE else 0


def load_root(index: int, reader: BlockReader, cache: NodeCache) -> Root:
    """The root that is block *index*.

    Raises:
      BlocksMissing: it is not local.
      DecodeError, UnsupportedFormat: it is no root that this program reads.
    """
    root = cache.get(index)
    if root is None:
        root = decode_root(reader.block(index), index)
        if root is None:
            raise DecodeError("root block")
        cache.put(index, root)
    if not isinstance(root, Root):
        raise DecodeError("root block")
    return root


# -- finding roots -----------------------------------------------------------------------------


def find_root(version: int, reader: BlockReader, cache: NodeCache, *, length: int) -> int | None:
    """The newest root block of a version not above *version*; None when that is before the first.

    *length* is the length of the log, whose last block is a root.

    Raises:
      BlocksMissing: a root on the way is not local.
      DecodeError, UnsupportedFormat: of a block on the way.
    """
    if not 0 < version <= length:
        raise ValueError(f"version {version} of a drive of version {length}")
    if version == 1:
        return None
    if version < length:
        # What is asked for is nearly always a version that was reported, hence a root itself.
        block = reader.block(version - 1)
        if decode_root(block, version - 1) is not None:
            return version - 1
    info = load_root(length - 1, reader, cache).info
    while info.version > version:
        target = info.previous
        if target is None:
            return None
        if target < version:
            return load_root(target, reader, cache).info.index
        for skip in info.skips:
            if skip < version:
                break
            target = skip
        info = load_root(target, reader, cache).info
    return info.index


def find_root_at(time_ns: int, reader: BlockReader, cache: NodeCache, *, length: int) -> int | None:
    """The newest root block committed at *time_ns* or before; None when that is before the first.

    Where the writer's clock was set back, one of the candidates. Arguments and errors as those of
    `find_root`.
    """
    if length < 2:
        return None
    info = load_root(length - 1, reader, cache).info
    while info.time_ns > time_ns:
        if info.previous is None:
            return None
        for target in (*reversed(info.skips), info.previous):
            earlier = load_root(target, reader, cache).info
            if earlier.time_ns > time_ns or target == info.previous:
                info = earlier
                break
    return info.index


# -- the header --------------------------------------------------------------------------------


def header_block() -> bytes:
    """Block 0 of a drive's metadata log."""
    user_data = _USER_DATA + str(FORMAT_VERSION).encode()
    metadata = bytes((0x12, len(user_data))) + user_data
    return _BEE_MAGIC + bytes((0x12, len(metadata))) + metadata


def check_header(block: bytes) -> int:
    """The format version of the drive that begins with *block*.

    Raises:
      DriveEncrypted: it has the length of an encrypted header, and is neither one that is not nor
        ASCII. Without the encryption key nothing else tells it from another log's block.
      NotADrive: it is no header of ours; a Hyperdrive of the Node stack among them.
      UnsupportedFormat: of a later format.
    """
    if len(block) in _ENCRYPTED_SIZES and not (block.startswith(_BEE_MAGIC) or block.isascii()):
        raise DriveEncrypted
    metadata = _field(block, 2) if _field(block, 1) == b"hyperbee" else None
    user_data = _field(metadata, 2) if metadata is not None else None
    if user_data is None or not user_data.startswith(_USER_DATA):
        raise NotADrive("the core's first block is not the header of a hyperfs drive")
    digits = user_data[len(_USER_DATA) :]
    if not digits.isdigit() or len(digits) > 6:
        raise NotADrive("the drive's header names no format version")
    version = int(digits)
    if version != FORMAT_VERSION:
        raise UnsupportedFormat(version)
    return version


def _field(message: bytes, wanted: int) -> bytes | None:
    """A length-delimited field of a protocol buffers message; None when absent or malformed."""
    at = 0
    found: bytes | None = None
    while at < len(message):
        tag = message[at]
        # Short messages of short fields: one byte of tag, one of length, nothing but bytes.
        if tag & 7 != 2 or tag >= 0x80 or at + 2 > len(message) or message[at + 1] >= 0x80:
            return None
        end = at + 2 + message[at + 1]
        if end > len(message):
            return None
        if tag >> 3 == wanted:
            found = message[at + 2 : end]
        at = end
    return found
