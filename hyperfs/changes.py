"""What a drive tells of changes, and of itself: values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperfs.records import Entry


@dataclass(frozen=True, slots=True)
class EntryChange:
    """One changed name. `directory` and `name` are None for the record of a file with several
    names (or of the root directory), which is then known by its id."""

    directory: int | None
    name: bytes | None
    old: Entry | None
    new: Entry | None


@dataclass(frozen=True, slots=True)
class Changed:
    """What became visible with *version*. When not `complete`, more changed than was worth
    listing (or the subscriber fell behind): treat everything as changed."""

    version: int
    changes: tuple[EntryChange, ...]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class PathChange:
    """One difference between two versions, by path.

    `kind` is "added", "removed" or "changed"; `old` and `new` are the entries, None where there is
    none.
    """

    path: bytes
    kind: str
    old: Entry | None
    new: Entry | None


@dataclass(frozen=True, slots=True)
class DriveStatistics:
    """What a drive holds and has in flight.

    `files` (of any type, the directories too) and `byte_length` (sum of the files' sizes) are the
    version's; `staged` counts changed records not yet committed, `dirty_bytes` file content not yet
    appended; `content_byte_length` is everything ever appended to the content core.
    """

    version: int
    files: int
    byte_length: int
    staged: int
    dirty_bytes: int
    content_byte_length: int
