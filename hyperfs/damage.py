"""What a disk has damaged of a drive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperfs.drive import Drive


@dataclass(frozen=True, slots=True)
class Checked:
    """How many blocks a drive has here, their bytes, and how many of them were `damaged`, or are
    `unreadable` (`corestore.Findings`)."""

    blocks: int
    byte_length: int
    damaged: int
    unreadable: int


async def check_drive(drive: Drive) -> Checked:
    """Compare all that is stored of *drive* with its hashes.

    What is damaged is forgotten: it reads as missing, and is fetched again from peers that have it.

    Raises:
      StorageLocked: some is damaged, and another process writes the drive.
      OSError: anything but a disk that fails to read a block.
    """
    blocks = size = damaged = unreadable = 0
    for core in filter(None, (drive.metadata, drive.content)):
        length = core.length
        blocks += sum(end - start for start, end in core.held(0, length))
        size += core.held_byte_length(0, length)
        found = await core.check(0, length)
        damaged += len(found.damaged)
        unreadable += len(found.unreadable)
    return Checked(blocks, size, damaged, unreadable)
