"""A commit: everything one mutation of a core writes, as a value.

Pure code builds commits (an append, a verified proof, a clear); storage writes them, all or
nothing. Several commits, of one core or of several, may be written in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from corestore.tree.types import StoredBlock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from corestore.tree.types import Head, Node

__all__ = ["Commit", "Run", "StoredBlock"]


class Run(NamedTuple):
    """Blocks `start..end` (half open) whose bits in the bitfield become *held*."""

    start: int
    end: int
    held: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """What to write, in the order storage applies it.

    Attributes:
      truncate: drop all nodes and bits beyond this many blocks first (None: nothing is dropped).
      blocks: bytes for the data file. Their bits are in `runs`, not implied. Of a core of ours
        those of commits without runs and head are laid ahead, and count when the head comes.
      nodes: tree nodes to add; existing ones with the same index are replaced.
      runs: bits to set or clear. Clearing bits gives the bytes back to the disk.
      head: the new head, or None when it stays.
      manifest: the encoded manifest, once known, or None when nothing changes.
      user_data: keys to set (bytes) or to delete (None).
      makes_room: what it takes on a full disk may be the room that the store keeps for giving room
        back: what removes more than it adds, that it may be given back later.
    """

    truncate: int | None = None
    blocks: Sequence[StoredBlock] = ()
    nodes: Sequence[Node] = ()
    runs: Sequence[Run] = ()
    head: Head | None = None
    manifest: bytes | None = None
    user_data: Mapping[str, bytes | None] = field(default_factory=dict)
    makes_room: bool = False
