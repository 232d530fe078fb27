"""The records of a drive's index: their keys, their msgpack form, and what is refused.

A key is the id of a directory (6 bytes, big endian) and a name in it; a value is one of three
records, told apart by their form alone:

  `Entry`   what a name leads to: `[id, mode, uid, gid, mtime_ns, ctime_ns, size, ...]`
  `Link`    a name of a file that has several: `[id]`; the entry lies under `shared_key(id)`
  group     the extents of one window of a large file: `[[numbers]]`, under `group_key(id, window)`

Everything read from a drive comes from somebody else, so the decoders bound every size and raise
only `DecodeError`. This module is the only user of msgpack.

Format: hyperfs/FORMAT.md, "Records".
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import msgpack

from corestore import DecodeError
from hyperfs.extents import (
    MAX_ENTRY_EXTENTS,
    MAX_FILE_BYTES,
    MAX_WINDOW_EXTENTS,
    WINDOW_BYTES,
    Extent,
    from_numbers_untrusted,
    to_numbers,
)
from hyperfs.paths import MAX_NAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hyperfs.blobs import Blob

ROOT_ID: Final = 1
ID_BYTES: Final = 6
MAX_ID: Final = (1 << 48) - 1
MAX_TARGET_BYTES: Final = 4095
# Of a mode: what tells a file from a directory. (`stat.S_IFMT` is a call, in what is called most.)
TYPE_BITS: Final = 0o170000
MAX_INLINE_BYTES: Final = 128
# Linux hands out xattrs of up to 64 KiB, ext4 stores about 4 KiB a file; names are at most 255.
MAX_XATTRS: Final = 128
MAX_XATTR_BYTES: Final = 32 * 1024
# The longest record: an entry full of xattrs, or a full group, which takes at most 36 KiB.
MAX_RECORD_BYTES: Final = 48 * 1024

NO_XATTRS: Final[Mapping[bytes, bytes]] = MappingProxyType({})

_MAX_U32: Final = (1 << 32) - 1
_MAX_U64: Final = (1 << 64) - 1
_MIN_TIME: Final = -(1 << 63)
_MAX_TIME: Final = (1 << 63) - 1
# The longest array of any structure of the format: the items of an overlay, or four
# numbers an extent of a group.
_MAX_ITEMS: Final = 4096
_KINDS: Final = frozenset(
    (
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFCHR,
        stat.S_IFBLK,
    )
)
_SHARED: Final = b"\0"
_GROUP: Final = b"\1"

_packer: Final = msgpack.Packer(autoreset=True, use_bin_type=True)


def pack(value: object) -> bytes:
    """The msgpack form of *value*: None, booleans, integers, bytes, strings, lists and maps."""
    packed: bytes = _packer.pack(value)
    return packed


def unpack_untrusted(data: bytes | memoryview) -> object:
    """The value that *data* is the msgpack form of; arrays are lists.

    Lengths are checked against the bytes there are before anything is allocated.

    Raises:
      DecodeError: not one whole value, or one with floats beyond reason, long arrays, extensions.
    """
    try:
        value: object = msgpack.unpackb(
            data, max_array_len=_MAX_ITEMS, max_map_len=MAX_XATTRS, max_ext_len=0
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        raise DecodeError("msgpack value") from None
    return value


# -- keys --------------------------------------------------------------------------------------


def check_name(name: bytes) -> None:
    """Raise ValueError unless *name* can name something in a directory."""
    if not is_name(name):
        raise ValueError(f"not a file name: {name!r}")


def is_name(name: bytes) -> bool:
    """Whether *name* is 1 to 255 bytes without NUL and slash, and neither `.` nor `..`."""
    return (
        0 < len(name) <= MAX_NAME_BYTES
        and b"/" not in name
        and b"\0" not in name
        and name not in (b".", b"..")
    )


def entry_key(directory: int, name: bytes) -> bytes:
    """Where the entry *name* of the directory with id *directory* lies."""
    return directory.to_bytes(ID_BYTES, "big") + name


def shared_key(file: int) -> bytes:
    """Where the entry of a file with several names lies."""
    return file.to_bytes(ID_BYTES, "big") + _SHARED


def group_key(file: int, window: int) -> bytes:
    """Where the extents of one window of a grouped file lie."""
    return file.to_bytes(ID_BYTES, "big") + _GROUP + window.to_bytes(8, "big")


def directory_range(directory: int, after: bytes = b"") -> tuple[bytes, bytes]:
    """Start and end key of the names of a directory that follow *after*."""
    prefix = directory.to_bytes(ID_BYTES, "big")
    start = prefix + after + b"\0" if after else prefix + b"\1"
    return start, _after_id(directory)


def group_range(file: int, first_window: int = 0) -> tuple[bytes, bytes]:
    """Start and end key of a file's groups from *first_window* on."""
    return group_key(file, first_window), file.to_bytes(ID_BYTES, "big") + b"\2"


def _after_id(id_: int) -> bytes:
    """A key above all that begin with the id, and not above those of the next one."""
    if id_ < MAX_ID:
        return (id_ + 1).to_bytes(ID_BYTES, "big")
    return b"\xff" * (ID_BYTES + MAX_NAME_BYTES + 1)


def key_id(key: bytes) -> int:
    """The id a key begins with: of the directory, or of the file."""
    return int.from_bytes(key[:ID_BYTES], "big")


def group_window(key: bytes) -> int:
    """The window of a key of `group_key`'s form."""
    return int.from_bytes(key[ID_BYTES + 1 :], "big")


# -- records -----------------------------------------------------------------------------------


class Entry(NamedTuple):
    """What a name leads to: a file, a directory, a symbolic link, a device, a socket or a pipe.

    `mode` is the whole `st_mode`, type bits included. Times are nanoseconds since 1970. A regular
    file has at most one of `inline` (its whole content, up to `MAX_INLINE_BYTES`), `extents` (up
    to `MAX_ENTRY_EXTENTS`) and `grouped` (its extents lie under `group_key(id, window)`); with none
    of them all of `size` is a hole. Only a symbolic link has a `target`, whose length is its size.
    `rdev` belongs to device nodes. `nlink` is as the writer counts it.

    A tuple, because a mount makes some ten of them for each file that is created or changed: a
    dataclass takes three to five times as long to be made, or copied with changes.
    """

    id: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    size: int
    nlink: int = 1
    rdev: int = 0
    xattrs: Mapping[bytes, bytes] = NO_XATTRS
    target: bytes | None = None
    inline: bytes | None = None
    extents: tuple[Extent, ...] = ()
    grouped: bool = False
    blob: Blob | None = None

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.mode & TYPE_BITS == stat.S_IFDIR

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode & TYPE_BITS == stat.S_IFREG

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode & TYPE_BITS == stat.S_IFLNK


@dataclass(frozen=True, slots=True)
class Link:
    """One of several names of the file *id*; its entry lies under `shared_key(id)`."""

    id: int


Record = Entry | Link | tuple[Extent, ...]


def pack_entry(entry: Entry | Link) -> bytes:
    """The stored form. Raises ValueError for what a reader would refuse."""
    if type(entry) is Link:
        if not 0 < entry.id <= MAX_ID:
            raise ValueError("id out of range")
        return pack([entry.id])
    assert isinstance(entry, Entry)
    problem = _problem(entry)
    if problem is not None:
        raise ValueError(problem)
    fields: list[object] = [
        entry.id,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.ctime_ns,
        entry.size,
    ]
    kind = entry.mode & TYPE_BITS
    content: object = None
    if kind == stat.S_IFREG:
        if entry.extents:
            content = to_numbers(entry.extents)
        elif entry.grouped:
            content = True
        else:
            content = entry.inline
    elif kind == stat.S_IFLNK:
        content = entry.target
    elif entry.rdev:
        content = entry.rdev
    if entry.xattrs:
        fields += (entry.nlink, content, dict(sorted(entry.xattrs.items())))
    elif content is not None:
        fields += (entry.nlink, content)
    elif entry.nlink != 1:
        fields.append(entry.nlink)
    return pack(fields)


def unpack_entry(data: bytes) -> Entry | Link:
    """Read the record under a name or under a shared key.

    Raises:
      DecodeError: it is neither an entry nor a link, or an entry that cannot be.
    """
    record = unpack_record(data)
    if type(record) is tuple:
        raise DecodeError("entry")
    assert isinstance(record, Entry | Link)
    return record


def unpack_record(data: bytes) -> Record:
    """Read any record; a group is a tuple of its extents.

    Raises:
      DecodeError: it is none of the three.
    """
    fields = unpack_untrusted(data)
    if type(fields) is not list or not fields:
        raise DecodeError("record")
    count = len(fields)
    if count >= 7:
        return _entry(fields, count)
    first = fields[0]
    if count != 1:
        raise DecodeError("record")
    if type(first) is int:
        if not 0 < first <= MAX_ID:
            raise DecodeError("id of a link")
        return Link(first)
    return _group(first)


def pack_group(extents: Sequence[Extent]) -> bytes:
    """The stored form of one window's extents. Raises ValueError for what a reader would refuse."""
    if not extents or len(extents) > MAX_WINDOW_EXTENTS:
        raise ValueError(f"a group has 1 to {MAX_WINDOW_EXTENTS} extents, not {len(extents)}")
    if extents[0].offset // WINDOW_BYTES != (extents[-1].end - 1) // WINDOW_BYTES:
        raise ValueError("the extents of a group lie in one window")
    numbers = to_numbers(extents)
    numbers[0] %= WINDOW_BYTES
    return pack([numbers])


def unpack_group(data: bytes, window: int) -> tuple[Extent, ...]:
    """Read the extents of *window*.

    Raises:
      DecodeError: it is no group, or an extent lies outside the window.
    """
    fields = unpack_untrusted(data)
    if type(fields) is not list or len(fields) != 1:
        raise DecodeError("group of extents")
    base = window * WINDOW_BYTES
    if base + WINDOW_BYTES > MAX_FILE_BYTES + 1:
        raise DecodeError("window within a file")
    return tuple([Extent(base + at, b, o, n) for at, b, o, n in _group(fields[0])])


def _group(numbers: object) -> tuple[Extent, ...]:
    extents = from_numbers_untrusted(numbers, limit=MAX_WINDOW_EXTENTS)
    if not extents or extents[-1].end > WINDOW_BYTES:
        raise DecodeError("group of extents")
    return extents


def _entry(fields: list[object], count: int) -> Entry:
    """Fields beyond the tenth are of a later format and are ignored, as its text promises."""
    id_, mode, uid, gid, mtime_ns, ctime_ns, size = fields[:7]
    nlink = fields[7] if count > 7 else 1
    content = fields[8] if count > 8 else None
    if not (
        type(id_) is int
        and type(mode) is int
        and type(uid) is int
        and type(gid) is int
        and type(mtime_ns) is int
        and type(ctime_ns) is int
        and type(size) is int
        and type(nlink) is int
    ):
        raise DecodeError("numbers of an entry")
    xattrs = NO_XATTRS if count <= 9 else _xattrs(fields[9])
    rdev = 0
    target = inline = None
    extents: tuple[Extent, ...] = ()
    grouped = False
    if content is not None:
        kind = mode & TYPE_BITS
        if kind == stat.S_IFREG:
            if type(content) is list:
                extents = from_numbers_untrusted(content, limit=MAX_ENTRY_EXTENTS)
            elif type(content) is bytes:
                inline = content
            elif content is True:
                grouped = True
            else:
                raise DecodeError("content of a file")
        elif kind == stat.S_IFLNK and type(content) is bytes:
            target = content
        elif kind in (stat.S_IFCHR, stat.S_IFBLK) and type(content) is int:
            rdev = content
        else:
            raise DecodeError("content of an entry")
    entry = Entry(
        id_,
        mode,
        uid,
        gid,
        mtime_ns,
        ctime_ns,
        size,
        nlink,
        rdev,
        xattrs,
        target,
        inline,
        extents,
        grouped,
    )
    problem = _problem(entry)
    if problem is not None:
        raise DecodeError(f"entry: {problem}")
    return entry


def _xattrs(value: object) -> Mapping[bytes, bytes]:
    if type(value) is not dict:
        raise DecodeError("extended attributes")
    for name, content in value.items():
        if type(name) is not bytes or type(content) is not bytes:
            raise DecodeError("extended attribute")
    return value


def clamp_time(time_ns: int) -> int:
    """The time nearest to *time_ns* that a record can have: the years 1677 to 2262. File systems
    have files of any time, and round those they cannot keep."""
    if _MIN_TIME <= time_ns <= _MAX_TIME:
        return time_ns
    return _MIN_TIME if time_ns < 0 else _MAX_TIME


def check_attributes(entry: Entry) -> None:
    """Raise ValueError unless *entry* could be recorded; of a file, whatever its content is."""
    problem = _attributes_problem(entry) if entry.is_file else _problem(entry)
    if problem is not None:
        raise ValueError(problem)


def _problem(entry: Entry) -> str | None:
    """What makes the entry one that no drive may hold; asked both ways, so both sides agree."""
    return _attributes_problem(entry) or _content_problem(entry)


def _attributes_problem(entry: Entry) -> str | None:
    if not 0 < entry.id <= MAX_ID:
        return "id out of range"
    if entry.blob is not None:
        return "content of another format"
    kind = entry.mode & TYPE_BITS
    if kind not in _KINDS or not 0 <= entry.mode <= 0o177777:
        return "unknown type or mode"
    if not (0 <= entry.uid <= _MAX_U32 and 0 <= entry.gid <= _MAX_U32):
        return "owner out of range"
    if not (_MIN_TIME <= entry.mtime_ns <= _MAX_TIME and _MIN_TIME <= entry.ctime_ns <= _MAX_TIME):
        return "time out of range"
    if not 0 <= entry.size <= MAX_FILE_BYTES:
        return "size out of range"
    if not 0 <= entry.nlink <= _MAX_U32:
        return "link count out of range"
    if entry.xattrs:
        total = sum(map(len, entry.xattrs)) + sum(map(len, entry.xattrs.values()))
        if len(entry.xattrs) > MAX_XATTRS or total > MAX_XATTR_BYTES:
            return "too many extended attributes"
        for name in entry.xattrs:
            if not 0 < len(name) <= MAX_NAME_BYTES or b"\0" in name:
                return "name of an extended attribute"
    return None


def _content_problem(entry: Entry) -> str | None:
    kind, size = entry.mode & TYPE_BITS, entry.size
    if kind == stat.S_IFREG:
        extents = entry.extents
        inline = entry.inline
        if (bool(extents) + (inline is not None) + entry.grouped) > 1:
            return "two forms of content"
        if extents and (len(extents) > MAX_ENTRY_EXTENTS or extents[-1].end > size):
            return "extents beyond its bounds"
        if inline is not None and not len(inline) == size <= MAX_INLINE_BYTES:
            return "inline content of another size"
        return None if entry.target is None and not entry.rdev else "content of another type"
    if entry.extents or entry.inline is not None or entry.grouped:
        return "content of another type"
    target = entry.target
    if kind == stat.S_IFLNK:
        if target is None or not 0 < len(target) <= MAX_TARGET_BYTES or b"\0" in target:
            return "target of a symbolic link"
        return None if len(target) == size else "size of a symbolic link"
    if target is not None:
        return "content of another type"
    if not 0 <= entry.rdev <= (_MAX_U64 if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0):
        return "device number"
    return None
