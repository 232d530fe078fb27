"""`Watch`: tells when something at or below a path has become another, with the versions before and
after.

Local commits and what others publish are told alike, once look-ups show them. Versions that come
while the last change is being looked at are told as one: the old version of a change is the new one
of the change before. Nothing is told of versions that changed nothing there.

Whether something changed below a path is found by comparing the two versions, at a cost that
follows the change; the first time, except for the root, also the number of directories there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import trio

from corestore import DecodeError, SnapshotNotAvailable
from hyperfs.versions import Below

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from typing import Self

    from hyperfs.changes import PathChange
    from hyperfs.live import LiveTree
    from hyperfs.view import Format, TreeView

logger: Final = logging.getLogger("hyperfs")


class Version(Protocol):
    """A drive as of one version."""

    def diff(self, other: Self, path: str | bytes = ...) -> AsyncIterator[PathChange]:
        """What changed from another version to this one."""
        ...


Drive = TypeVar("Drive", bound=Version)


@dataclass(frozen=True, slots=True)
class Watched(Generic[Drive]):
    """Something changed: the drive before, and after, both read-only.

    They are readable as any version is: what lies in them is not given back while they are held,
    but has to be fetched if it is not here, and what its writer truncated cannot be.
    """

    old: Drive
    new: Drive
    path: bytes

    def changes(self) -> AsyncIterator[PathChange]:
        """What changed, by path; raises as reads do."""
        return self.new.diff(self.old, self.path)


class Watch(Generic[Drive]):
    """An async iterator of `Watched` for the length of a `with` block, made by `Drive.watch`.

    It begins with the version shown when it was made, or the first one that is.
    """

    def __init__(
        self, tree: LiveTree, names: Sequence[bytes], snapshot: Callable[[TreeView], Drive]
    ) -> None:
        self._tree = tree
        self._names = tuple(names)
        self._snapshot = snapshot
        self._closed = False
        # How versions are compared, in one history of the log.
        self._below: tuple[Format, Below] | None = None
        self._view = tree.view
        # Held so that it is not given back before it is told.
        self._old = None if tree.view is None else snapshot(tree.view)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Watched[Drive]:
        await trio.lowlevel.checkpoint()
        tree = self._tree
        while not self._closed:
            view, before, old = tree.view, self._view, self._old
            if view is None or view is before:
                await tree.shown.park()
                continue
            # Held from here on, whether or not it is told.
            new = self._snapshot(view)
            changed = before is not None and await self._differs(before, view)
            self._view, self._old = view, new
            if changed and old is not None:
                return Watched(old, new, b"/" + b"/".join(self._names))
        raise StopAsyncIteration

    def close(self) -> None:
        """End the iteration, also for who waits for it."""
        self._closed = True
        self._tree.shown.unpark_all()

    async def _differs(self, old: TreeView, new: TreeView) -> bool:
        tree = self._tree
        form = tree.format
        assert form is not None
        if self._below is None or self._below[0] is not form:
            self._below = form, Below(form, tree.metadata_blocks, self._names)
        try:
            return await self._below[1].changed(old, new)
        except (DecodeError, SnapshotNotAvailable, trio.TooSlowError) as error:
            # Who watches will find out what can be read.
            logger.warning("what version %d changed is not readable: %s", new.version, error)
            return True
