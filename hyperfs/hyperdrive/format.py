"""The format as a drive asks for it: versions, and what changed between two."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from corestore import DecodeError
from hyperfs.changes import EntryChange
from hyperfs.hyperbee.diff import BeeDiff
from hyperfs.hyperbee.tree import Bee
from hyperfs.hyperdrive.directories import KEY_PREFIX, Directories
from hyperfs.hyperdrive.view import HyperdriveView
from hyperfs.index.node import BlocksMissing, NodeCache
from hyperfs.records import ROOT_ID, Entry, entry_key, is_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperfs.blobs import Blob
    from hyperfs.hyperbee.diff import BeeChange
    from hyperfs.hyperdrive.records import Owner
    from hyperfs.hyperdrive.view import ContentBlocks
    from hyperfs.index.node import BlockReader
    from hyperfs.view import TreeView


class HyperdriveFormat:
    """A `Format`, and what all versions of one drive share, until its log is truncated: then
    another one takes over the *directories*, whose ids stay.

    Only lengths that end an append are versions: a longer log that is not whole is not looked into.
    """

    def __init__(
        self,
        metadata: BlockReader,
        content: ContentBlocks,
        owner: Owner,
        directories: Directories | None = None,
    ) -> None:
        self.directories = directories or Directories()
        self.owner = owner
        self.content = content
        self.sizes: dict[Blob, int] = {}
        self._metadata = metadata
        self._cache = NodeCache()

    def view(self, length: int) -> HyperdriveView:
        """The version of that length. Raises BlocksMissing, DecodeError of its root."""
        bee = Bee(length, self._metadata, self._cache)
        if bee.root is not None:
            bee.node(bee.root, None, None)
        return HyperdriveView(bee, self)

    def find_local(
        self, length: int, oldest: int, content_length: int | None = None
    ) -> HyperdriveView | None:
        """The version of that length if its root is here, else none: which blocks before it end an
        append is not told."""
        try:
            return self.view(length) if length >= oldest else None
        except (BlocksMissing, DecodeError):
            return None

    def checkout(self, version: int, length: int) -> HyperdriveView:
        """The version of that length. Inside a batch it shows a part of the tree."""
        return self.view(version)

    def version_at(self, time_ns: int, length: int) -> int:
        """Which version a moment had is not told."""
        return 0

    def changes(self, old: TreeView, new: TreeView) -> Iterator[EntryChange]:
        """What changed, names of directories that appear or disappear included.

        An iterator whose `next` may raise BlocksMissing, and be called again, and DecodeError.
        """
        assert isinstance(old, HyperdriveView)
        assert isinstance(new, HyperdriveView)
        return _Changes(old, new, self.directories)


class _Changes:
    def __init__(self, old: HyperdriveView, new: HyperdriveView, directories: Directories) -> None:
        self._old = old
        self._new = new
        self._directories = directories
        end = KEY_PREFIX[:-1] + bytes((KEY_PREFIX[-1] + 1,))
        self._diff = BeeDiff(old.bee, new.bee, KEY_PREFIX, end)
        self._current: BeeChange | None = None
        self._ready: deque[EntryChange] = deque()
        # Keys of directories that were compared.
        self._seen: set[bytes] = set()

    def __iter__(self) -> _Changes:
        return self

    def __next__(self) -> EntryChange:
        while not self._ready:
            if self._current is None:
                self._current = next(self._diff)
            # Changes nothing if a block is missing.
            compared, found = self._expand(self._current)
            self._seen.update(compared)
            self._ready.extend(found)
            self._current = None
        return self._ready.popleft()

    def _expand(self, change: BeeChange) -> tuple[list[bytes], list[EntryChange]]:
        """The names on a changed path that lead to something else now; and the keys of those that
        need not be looked at again."""
        names = change.key[len(KEY_PREFIX) + 1 :].split(b"/")
        compared: list[bytes] = []
        out: list[EntryChange] = []
        if not all(map(is_name, names)):
            return compared, out
        # Directories come and go with the first and the last key below them.
        existence = change.old is None or change.new is None
        directory = ROOT_ID
        for depth, name in enumerate(names, 1):
            key, is_last = entry_key(directory, name), depth == len(names)
            if (existence or is_last) and key not in self._seen:
                old, new = _find(self._old, key), _find(self._new, key)
                if old != new:
                    out.append(EntryChange(directory, name, old, new))
                if not is_last or any(each is not None and each.is_dir for each in (old, new)):
                    compared.append(key)
            if not is_last:
                directory = self._directories.child(directory, name)
        return compared, out


def _find(view: HyperdriveView, key: bytes) -> Entry | None:
    try:
        return view.find(key)
    except DecodeError:
        return None
