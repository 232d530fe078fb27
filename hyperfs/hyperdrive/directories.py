"""Ids for directories, which a Hyperdrive does not have: it has files with slashes in their keys.

An id stands for a path from the first time it is met, for as long as the drive is open, in every
version. Kept are a name and its parent, so that memory follows the number of directories that were
looked at, whatever their depth.
"""

from __future__ import annotations

from typing import Final

from corestore import DecodeError
from hyperfs.hyperdrive.records import FIRST_DIRECTORY_ID
from hyperfs.records import MAX_ID, ROOT_ID

# In front of the path in every key: the name of a sub-bee, and its separator.
KEY_PREFIX: Final = b"files\0"


class Directories:
    """See the module."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, bytes], int] = {}
        # Of the directory FIRST_DIRECTORY_ID + index: its parent, and its name.
        self._places: list[tuple[int, bytes]] = []

    def child(self, parent: int, name: bytes) -> int:
        """The id of the directory *name* in the directory *parent*."""
        place = (parent, name)
        id = self._ids.get(place)
        if id is None:
            id = FIRST_DIRECTORY_ID + len(self._places)
            if id > MAX_ID:
                raise DecodeError("fewer than 2**47 directories")
            self._ids[place] = id
            self._places.append(place)
        return id

    def prefix(self, id: int) -> bytes | None:
        """What the keys of everything in a directory begin with; None for an unknown id."""
        names: list[bytes] = []
        while id != ROOT_ID:
            index = id - FIRST_DIRECTORY_ID
            if not 0 <= index < len(self._places):
                return None
            id, name = self._places[index]
            names.append(name)
        return KEY_PREFIX + b"/" + b"".join([name + b"/" for name in reversed(names)])
