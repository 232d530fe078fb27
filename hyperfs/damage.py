"""What a disk has damaged of a drive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperfs.drive import Drive

# Some 64 MiB.
_PORTION_BLOCKS: Final = 1024


@dataclass(frozen=True, slots=True)
class Checked:
    """How many blocks a drive has here, their bytes, and how many of them were `damaged`, or are
    `unreadable` (`corestore.Findings`)."""

    blocks: int
    byte_length: int
    damaged: int
    unreadable: int


async def check_drive(
    drive: Drive, *, progress: Callable[[int, int], None] | None = None
) -> Checked:
    """Compare all that is stored of *drive* with its hashes.

    What is damaged is forgotten: it reads as missing, and is fetched again from peers that have it.
    *progress* is told, again and again, how many bytes are done, and of how many, about.

    Raises:
      StorageLocked: some is damaged, and another process writes the drive.
      OSError: anything but a disk that fails to read a block.
    """
    cores = [core for core in (drive.metadata, drive.content) if core is not None and core.length]
    held = [core.statistics().blocks_held for core in cores]
    total = sum(
        core.byte_length * count // core.length for core, count in zip(cores, held, strict=True)
    )
    size = damaged = unreadable = 0
    for core in cores:
        for first, stop in list(core.held(0, core.length)):
            for start in range(first, stop, _PORTION_BLOCKS):
                end = min(stop, start + _PORTION_BLOCKS)
                size += core.held_byte_length(start, end)
                found = await core.check(start, end)
                damaged += len(found.damaged)
                unreadable += len(found.unreadable)
                if progress is not None:
                    progress(size, max(size, total))
    return Checked(sum(held), size, damaged, unreadable)
