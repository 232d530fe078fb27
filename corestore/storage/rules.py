"""What every store decides alike: which commits make sense, which head wins, what a cut leaves.

Pure functions over heads, records and commits; memory and disk both call them, so that they cannot
drift apart.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from corestore.errors import StorageConflict, StorageCorrupt
from corestore.storage.base import CoreRecord
from corestore.tree.types import EMPTY_HEAD, MAX_LENGTH, Head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from corestore.commit import Commit
    from corestore.storage.base import CoreStorage
    from corestore.tree.types import Node

# A node's row is numbered core << 42 | flat index: 2**21 cores of 2**41 blocks in 63 bits.
INDEX_BITS: Final = MAX_LENGTH.bit_length()


def check_commit(commit: Commit) -> None:
    """Refuse what no store could hold.

    Raises:
      ValueError: an index or range outside what a store holds, or a malformed run.
    """
    if commit.head is not None and commit.head.length > MAX_LENGTH:
        raise ValueError(f"a core of {commit.head.length} blocks is longer than a store can hold")
    for index, _, _ in commit.nodes:
        if not 0 <= index < 2 * MAX_LENGTH:
            raise ValueError(f"tree node {index} is beyond what a store can hold")
    for run in commit.runs:
        if not 0 <= run.start <= run.end <= MAX_LENGTH:
            raise ValueError(f"blocks {run.start}..{run.end} are not a range a store can hold")
    for index, byte_offset, _ in commit.blocks:
        if not 0 <= index < MAX_LENGTH:
            raise ValueError(f"block {index} is beyond what a store can hold")
        if byte_offset < 0:
            raise ValueError("no block begins before the log")
    if commit.truncate is not None and not 0 <= commit.truncate <= MAX_LENGTH:
        raise ValueError(f"a core cannot be truncated to {commit.truncate} blocks")


def lays(commit: Commit) -> bool:
    """Whether *commit* has blocks ahead of the head and bits that another one is to bring."""
    return bool(commit.blocks) and not commit.runs and commit.head is None


def takes_lock(commit: Commit) -> bool:
    """Whether *commit* may only be made of a core of ours under its signing lock."""
    return commit.head is not None or gives_back(commit) or lays(commit)


def gives_back(commit: Commit) -> bool:
    """Whether *commit* frees bytes: those need the log flushed before the disk may reuse them."""
    return commit.truncate is not None or not all([run.held for run in commit.runs])


def may_take_reserve(commit: Commit) -> bool:
    """Whether *commit* may take room that is kept for giving room back: it says that it helps to,
    or is a note that adds no block, such as the signature of a head."""
    return commit.makes_room or not (commit.blocks or commit.nodes or commit.runs)


def check_together(commits: Sequence[Commit]) -> None:
    """Refuse a truncation or a clearing beside other commits.

    Raises:
      ValueError: there is one.
    """
    if len(commits) > 1 and any(gives_back(commit) for commit in commits):
        raise ValueError("a truncation or a clearing must be committed on its own")


def check_fork(stored: Head, commit: Commit) -> None:
    """Whether a commit of a core we do not sign still fits the *stored* head.

    Raises:
      StorageConflict: the stored head is on a later fork, or a truncation comes too late.
    """
    head = commit.head
    if head is None:
        return
    late = commit.truncate is not None and head.fork == stored.fork and stored.length > 0
    if head.fork < stored.fork or late:
        raise StorageConflict(
            f"this core is on fork {stored.fork} by now; what was verified on another is refused"
        )


def replaces(record: CoreRecord, stored: Head, commit: Commit) -> bool:
    """Whether the head of *commit* takes the place of *stored*.

    A core we sign does as it is told (we hold its lock). Of any other core only a longer head of
    the same fork, or one of a later fork, is news.
    """
    head = commit.head
    if head is None:
        return False
    if record.signer is not None:
        return True
    return (head.fork, head.length) > (stored.fork, stored.length)


def is_full(error: BaseException) -> bool:
    """Whether what failed can be done again when the disk has room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_unsigned(head: Head) -> bool:
    """Whether *head* is still to be signed: one just appended, or what a cut left."""
    return head.length > 0 and not head.signature


def may_publish(published: Head, head: Head) -> bool:
    """Whether *head*, now durable, may take the place of the *published* one.

    Never an unsigned head, and never a shorter one of the same fork: another
    sync may have been quicker.
    """
    if is_unsigned(head):
        return False
    return (head.fork, head.length) >= (published.fork, published.length)


def merge_records(known: CoreRecord, given: CoreRecord) -> CoreRecord:
    """*known*, with manifest and signer filled in where they were None."""
    manifest = given.manifest if known.manifest is None else known.manifest
    signer = given.signer if known.signer is None else known.signer
    return CoreRecord(known.key, manifest, signer)


# -- the tree at a shorter length ------------------------------------------------------------------


def full_roots(length: int) -> Iterator[int]:
    """The flat indices of the full roots of a log of *length* blocks, left to right."""
    first = 0
    while length:
        span = 1 << (length.bit_length() - 1)
        yield 2 * first + span - 1
        first += span
        length -= span


def boundary_nodes(length: int) -> Iterator[int]:
    """Flat indices below `2 * length` of the nodes that cover block *length*.

    They and everything from `2 * length` on leave with a truncation to *length*.
    """
    span = 1
    while span < MAX_LENGTH:
        span *= 2
        first = length // span * span
        index = 2 * first + span - 1
        if index < 2 * length:
            yield index


def cut_head(core: CoreStorage, length: int) -> Head:
    """The head that is left when the unpublished tail of *core* is cut to *length*.

    It is unsigned, unless it is the present or the published head.

    Raises:
      ValueError: the core is not ours, or *length* is not between `published` and `head`.
      StorageCorrupt: a root of the shorter log is missing.
    """
    head, published = core.head, core.published
    if core.record.signer is None:
        raise ValueError("only a core of ours can be cut")
    least = published.length if published.fork == head.fork else 0
    if not least <= length <= head.length:
        raise ValueError(f"a cut to {length} is outside {least}..{head.length}")
    if length == head.length:
        return head
    if length == published.length and published.fork == head.fork:
        return published
    if length == 0:
        return Head(fork=head.fork) if head.fork else EMPTY_HEAD
    roots: list[Node] = []
    for index in full_roots(length):
        node = core.node(index)
        if node is None:
            raise StorageCorrupt(f"tree node {index} of core {core.record.key.discovery_key}")
        roots.append(node)
    return Head(head.fork, length, sum(root.size for root in roots), tuple(roots))
