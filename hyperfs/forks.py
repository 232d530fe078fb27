"""What becomes of versions when the log they lie in is truncated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corestore import SnapshotNotAvailable

if TYPE_CHECKING:
    from hyperfs.index.node import BlockReader


class OneFork:
    """Reads blocks of one fork of a log: when it is truncated, the versions that read through this
    are gone. Other blocks have their places, so what they showed would be no version at all."""

    def __init__(self, reader: BlockReader) -> None:
        self._reader = reader
        self._gone = False

    def block(self, index: int) -> bytes:
        """As the reader's. Raises SnapshotNotAvailable."""
        if self._gone:
            raise SnapshotNotAvailable("the log of this version was truncated")
        return self._reader.block(index)

    def end(self) -> OneFork:
        """The log was truncated. What reads its next fork."""
        self._gone = True
        return OneFork(self._reader)
