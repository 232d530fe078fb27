"""What was written to an open file and is not appended yet, as one value that grows."""

from __future__ import annotations

from typing import Final

from hyperfs.dirty import DirtyRanges

# Where a delta that cuts nothing off cuts: above any file.
UNCUT: Final = 1 << 63


class Delta:
    """Writes to a file since some state of it: what lies at `cut` and after it in that state reads
    as zeros, then `ranges` are laid over it, and the file is `size` bytes long."""

    __slots__ = ("cut", "ranges", "size")

    def __init__(self, size: int) -> None:
        self.cut = UNCUT
        self.ranges = DirtyRanges()
        self.size = size

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Lay *data* over it."""
        self.ranges.write(offset, data)
        self.size = max(self.size, offset + len(data))

    def truncate(self, size: int) -> None:
        """Cut, or extend with zeros, to *size*."""
        self.cut = min(self.cut, size)
        self.ranges.truncate(size)
        self.size = size

    def copy(self) -> Delta:
        """Another one that says the same."""
        copy = Delta(self.size)
        copy.cut = self.cut
        for offset, data in self.ranges.ranges():
            copy.ranges.write(offset, data)
        return copy

    def stack(self, newer: Delta) -> Delta:
        """The two as one: *newer* was written on top of this one, which is changed and returned."""
        if newer.cut < UNCUT:
            self.cut = min(self.cut, newer.cut)
            self.ranges.truncate(newer.cut)
        for offset, data in newer.ranges.ranges():
            self.ranges.write(offset, data)
        self.size = newer.size
        return self
