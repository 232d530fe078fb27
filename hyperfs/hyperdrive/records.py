"""The JSON records of a Hyperdrive, and the entries they are shown as.

`{"executable": bool, "linkname": null | string, "blob": null | {...}, "metadata": any}`: no owner,
no mode, no times but what the application put into `metadata`.
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from corestore import DecodeError
from hyperfs.blobs import MAX_MAP_BLOCKS, Blob
from hyperfs.extents import MAX_BLOCK_INDEX, MAX_FILE_BYTES
from hyperfs.records import MAX_TARGET_BYTES, MAX_XATTR_BYTES, NO_XATTRS, Entry

if TYPE_CHECKING:
    from collections.abc import Mapping

# Above the ids of files, which are blocks of the log, and below 2**48.
FIRST_DIRECTORY_ID: Final = 1 << 47
# Where what an application said of an entry is shown, as the JSON it was stored as.
METADATA_XATTR: Final = b"user.hyperdrive.metadata"

_MAX_VALUE_BYTES: Final = 1 << 20
_MAX_MILLISECONDS: Final = 1 << 43


class Owner(NamedTuple):
    """Whose everything is, since the records do not say."""

    uid: int
    gid: int


def directory_entry(id: int, owner: Owner) -> Entry:
    """A directory, of which nothing is known but that something is in it."""
    return Entry(id, stat.S_IFDIR | 0o755, owner.uid, owner.gid, 0, 0, 0)


def file_id(seq: int) -> int:
    """The id of what was written in block *seq*: every writing of a path makes another file.

    Raises:
      DecodeError: a log of so many blocks cannot be.
    """
    if seq + 1 >= FIRST_DIRECTORY_ID:
        raise DecodeError("block of a drive")
    return seq + 1


def decode_entry(value: bytes | None, seq: int, owner: Owner) -> Entry:
    """The entry of the record that was written in block *seq*.

    The size of one whose blob is mapped is that of the map.

    Raises:
      DecodeError: it is no record, or one beyond what an entry can hold.
    """
    fields = _object(value)
    metadata = fields.get("metadata")
    time_ns = _time_ns(metadata, seq)
    target = fields.get("linkname")
    if target is not None:
        name = _target(target)
        mode, size, blob = stat.S_IFLNK | 0o777, len(name), None
    else:
        name = None
        blob = _blob(fields.get("blob"))
        mode = stat.S_IFREG | (0o755 if fields.get("executable") is True else 0o644)
        size = 0 if blob is None else blob.byte_length
    return Entry(
        file_id(seq),
        mode,
        owner.uid,
        owner.gid,
        time_ns,
        time_ns,
        size,
        xattrs=_xattrs(metadata),
        target=name,
        blob=blob,
    )


def _object(value: bytes | None) -> dict[str, object]:
    if value is None or len(value) > _MAX_VALUE_BYTES:
        raise DecodeError("record of a Hyperdrive")
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        raise DecodeError("record of a Hyperdrive") from None
    if type(fields) is not dict:
        raise DecodeError("record of a Hyperdrive")
    return fields


def _blob(value: object) -> Blob | None:
    if value is None:
        return None
    if type(value) is not dict:
        raise DecodeError("blob of a file")
    numbers: list[int] = []
    for name in ("blockOffset", "blockLength", "byteOffset", "byteLength"):
        number = value.get(name)
        if type(number) is not int or not 0 <= number <= MAX_BLOCK_INDEX:
            raise DecodeError("blob of a file")
        numbers.append(number)
    block, blocks, byte_offset, byte_length = numbers
    blob = Blob(block, blocks, byte_offset, byte_length, value.get("blockMap") is True)
    if byte_offset + byte_length > MAX_FILE_BYTES or (byte_length and not blocks):
        raise DecodeError("blob of a file")
    if blob.mapped and blob.blocks > MAX_MAP_BLOCKS:
        raise DecodeError("map of a blob within bounds")
    # An empty file's blob may lie anywhere.
    return blob if blob.byte_length else None


def _target(value: object) -> bytes:
    if type(value) is not str:
        raise DecodeError("target of a symbolic link")
    try:
        target = value.encode()
    except UnicodeEncodeError:
        raise DecodeError("target of a symbolic link") from None
    if not 0 < len(target) <= MAX_TARGET_BYTES or b"\0" in target:
        raise DecodeError("target of a symbolic link")
    return target


def _time_ns(metadata: object, seq: int) -> int:
    """`metadata.mtime`, if it is milliseconds since 1970, as JavaScript counts.

    Else as many seconds as there are blocks in front: what was written later looks newer, and who
    compares sizes and times, as copying programs do, sees that a file is not the same any more.
    """
    mtime = metadata.get("mtime") if type(metadata) is dict else None
    if not (type(mtime) is int or type(mtime) is float) or not abs(mtime) < _MAX_MILLISECONDS:
        return min(seq, _MAX_MILLISECONDS // 1000) * 1_000_000_000
    return int(mtime * 1_000_000)


def _xattrs(metadata: object) -> Mapping[bytes, bytes]:
    if metadata is None:
        return NO_XATTRS
    try:
        text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return NO_XATTRS
    if len(text) + len(METADATA_XATTR) > MAX_XATTR_BYTES:
        return NO_XATTRS
    return {METADATA_XATTR: text}
