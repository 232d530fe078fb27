"""What a mount shows below `.hyperfs`: the drive's past, and its state.

    .hyperfs/versions/N/    the tree of version N; a link to the one before where N is none
    .hyperfs/at/DATE        a link to the version of a date, or of a date and time (`dates`)
    .hyperfs/status.json    what the drive is and has, as it is when it is opened

`.hyperfs` is found by its name and not listed, so that nothing that copies or searches a drive goes
down into all it has ever held. A drive that has that name itself is shown with its own.

`History` answers for all inode numbers and handles beyond those of the live tree: the upper 16 bits
say which *view* they belong to, the lower 48 are a file's id there. A past version is a file system
of its own, read-only. A view lasts as long as the kernel knows an inode in it. From a number of
views on the kernel is asked to forget the one that was used least recently, and before a collection
all that it is to give back; whoever works in one goes on, but finds it by its name as a new one.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from hyperfs.dates import parse_date
from hyperfs.errors import VersionCleared
from hyperfs.records import ID_BYTES, MAX_ID, ROOT_ID
from hyperfs.vfs import rules
from hyperfs.vfs.handles import Handles
from hyperfs.vfs.tree import InvalidateEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hyperfs.drive import Drive
    from hyperfs.vfs.filesystem import FileSystem
    from hyperfs.vfs.listings import Listed
    from hyperfs.vfs.rules import Credentials

# How many past versions are shown at once before the kernel is asked to forget one, and how many
# of the newest are listed.
MOST_VIEWS: Final = 16

_SHIFT: Final = 8 * ID_BYTES
_CONTROL: Final = 0xFFFF << _SHIFT
_TOP: Final = _CONTROL | 1
_VERSIONS: Final = _CONTROL | 2
_AT: Final = _CONTROL | 3
_STATUS: Final = _CONTROL | 4
_FIRST_LINK: Final = _CONTROL | 5
_TOP_NAMES: Final = {b"versions": _VERSIONS, b"at": _AT, b"status.json": _STATUS}


S = TypeVar("S")


class Past(Generic[S]):
    """One past version. `known` is how often the kernel was told of inodes in it; `leaving` says
    that it was asked to forget them."""

    def __init__(self, view: int, version: int, fs: FileSystem[S]) -> None:
        self.view = view
        self.version = version
        self.fs = fs
        self.known = 0
        self.leaving = False


class _Link:
    """A symbolic link; `known` as in `Past`."""

    def __init__(self, ino: int, target: bytes) -> None:
        self.ino = ino
        self.target = target
        self.known = 0


class History(Generic[S]):
    """See the module. *open_past* makes the file system of a past version of the drive, which adds
    a number to the ids of its files.

    Methods are those of `FileSystem` that change nothing, and raise the same; whoever calls decides
    by number whom to ask.
    """

    def __init__(
        self, live: FileSystem[S], open_past: Callable[[Drive, int], FileSystem[S]]
    ) -> None:
        self._live = live
        self._drive = live.drive
        self._open_past = open_past
        # By view, the least recently used first.
        self._views: dict[int, Past[S]] = {}
        self._view_of: dict[int, Past[S]] = {}
        self._last_view = 0
        self._links: dict[int, _Link] = {}
        self._link_to: dict[bytes, _Link] = {}
        self._last_link = _FIRST_LINK
        self._texts: Handles[bytes] = Handles()
        self._listings: Handles[list[Listed[S]]] = Handles()
        self._drive.tree.before_collection = self._leave_before

    # -- what there is ----------------------------------------------------------------------------

    @property
    def versions(self) -> list[int]:
        """The versions shown at present, the least recently used first."""
        return [past.version for past in self._views.values()]

    def top(self) -> S:
        """The attributes of `.hyperfs`."""
        return self._directory(_TOP)

    def _directory(self, ino: int) -> S:
        return self._control(ino, stat.S_IFDIR | 0o555)

    def _control(self, ino: int, mode: int, size: int = 0) -> S:
        shown = self._live.presentation
        uid = os.getuid() if shown.uid is None else shown.uid
        gid = os.getgid() if shown.gid is None else shown.gid
        time = self._drive.time_ns if self._drive.version else 0
        # Only what never changes is worth remembering for the kernel.
        timeout = shown.timeout if stat.S_ISDIR(mode) else 0.0
        return self._live.show(ino, mode, 1, uid, gid, 0, size, 0, time, time, time, timeout)

    def _status(self) -> bytes:
        drive = self._drive
        numbers, content = drive.statistics(), drive.content
        blocks = None if content is None else content.statistics()
        status = {
            "key": str(drive.key),
            "version": numbers.version,
            "time_ns": drive.time_ns if numbers.version else None,
            "writable": not self._live.read_only,
            "files": numbers.files,
            "byte_length": numbers.byte_length,
            "staged": numbers.staged,
            "dirty_bytes": numbers.dirty_bytes,
            "blocks": 0 if blocks is None else blocks.length,
            "blocks_stored": 0 if blocks is None else blocks.blocks_held,
            "peers": len(drive.metadata.peers),
        }
        return json.dumps(status, indent=2).encode() + b"\n"

    def _past(self, number: int) -> tuple[Past[S], int]:
        """The view that an inode number or a handle belongs to, and the number in it."""
        past = self._views.get(number >> _SHIFT)
        if past is None:
            raise OSError(errno.ESTALE, "unknown inode")
        return past, number & MAX_ID

    async def _open(self, version: int) -> Past[S] | int:
        """The view of a version, or the version that was there then; 0 for none."""
        past = self._view_of.get(version)
        if past is None:
            if not 0 < version <= self._drive.version:
                return 0
            try:
                drive = await self._drive.checkout(version)
            except (ValueError, VersionCleared):
                return 0
            if drive.version != version:
                return drive.version
            # Somebody else may have asked for it meanwhile.
            past = self._view_of.get(version) or self._add(drive)
        past.leaving = False
        self._views[past.view] = self._views.pop(past.view)
        self._make_room()
        return past

    def _add(self, drive: Drive) -> Past[S]:
        view = self._last_view
        while True:
            view = view % (_CONTROL - 1 >> _SHIFT) + 1
            if view not in self._views:
                break
        self._last_view = view
        past = Past(view, drive.version, self._open_past(drive, view << _SHIFT))
        self._views[view] = self._view_of[drive.version] = past
        return past

    def _make_room(self) -> None:
        """Have the kernel forget the views that were not used lately, but for the newest ones."""
        staying = [past for past in self._views.values() if not past.leaving]
        self._leave(staying[:-MOST_VIEWS])

    def _leave_before(self, oldest: int) -> None:
        """Have the kernel forget what it knows of versions before *oldest* and nobody uses."""
        self._leave([past for past in self._views.values() if past.version < oldest])

    def _leave(self, views: Sequence[Past[S]]) -> None:
        for past in views:
            past.leaving = True
            self._live.invalidations.put(InvalidateEntry(_VERSIONS, b"%d" % past.version))
            self._drop_unknown(past)

    def _drop_unknown(self, past: Past[S]) -> None:
        if past.known <= 0 and self._views.get(past.view) is past:
            del self._views[past.view], self._view_of[past.version]
            self._drive.tree.checkouts.discard(past.fs.drive.tree)

    def _link(self, target: bytes) -> S:
        link = self._link_to.get(target)
        if link is None:
            self._last_link += 1
            link = self._links[self._last_link] = self._link_to[target] = _Link(
                self._last_link, target
            )
        link.known += 1
        return self._link_attributes(link)

    def _link_attributes(self, link: _Link) -> S:
        return self._control(link.ino, stat.S_IFLNK | 0o777, len(link.target))

    # -- names and attributes ---------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes, who: Credentials) -> S | None:
        """As `FileSystem.lookup`; ENOENT for a version that may yet come, and is not remembered."""
        rules.check_name(name)
        if parent < _CONTROL:
            past, ino = self._past(parent)
            found = await past.fs.complete(past.fs.lookup, ino, name, who)
            past.known += found is not None
            return found
        if parent == _TOP:
            ino = _TOP_NAMES.get(name, 0)
            return self._top_entry(ino) if ino else None
        if parent == _VERSIONS:
            return await self._version_entry(name)
        if parent == _AT:
            return await self._date_entry(name)
        raise OSError(errno.ENOTDIR, "not a directory")

    def _top_entry(self, ino: int) -> S:
        return self._status_attributes() if ino == _STATUS else self._directory(ino)

    async def _version_entry(self, name: bytes) -> S:
        found: Past[S] | int = 0
        if name.isdigit() and not name.startswith(b"0"):
            found = await self._open(int(name))
        if isinstance(found, Past):
            found.known += 1
            return await self._past_root(found)
        if not found:
            raise OSError(errno.ENOENT, "no such version")
        return self._link(b"%d" % found)

    async def _date_entry(self, name: bytes) -> S:
        try:
            time_ns = parse_date(name.decode())
        except ValueError:
            raise OSError(errno.ENOENT, "no date") from None
        version = await self._drive.version_at(time_ns)
        if not version:
            raise OSError(errno.ENOENT, "before the first version")
        return self._link(b"../versions/%d" % version)

    @staticmethod
    async def _past_root(past: Past[S]) -> S:
        return await past.fs.complete(past.fs.getattr, ROOT_ID)

    def _status_attributes(self) -> S:
        return self._control(_STATUS, stat.S_IFREG | 0o444, len(self._status()))

    async def getattr(self, ino: int) -> S:
        """As `FileSystem.getattr`."""
        if ino < _CONTROL:
            past, inside = self._past(ino)
            return await past.fs.complete(past.fs.getattr, inside)
        if ino == _STATUS:
            return self._status_attributes()
        if ino in (_TOP, _VERSIONS, _AT):
            return self._directory(ino)
        return self._link_attributes(self._link_of(ino))

    def _link_of(self, ino: int) -> _Link:
        link = self._links.get(ino)
        if link is None:
            raise OSError(errno.EINVAL if ino <= _FIRST_LINK else errno.ESTALE, "no symbolic link")
        return link

    async def readlink(self, ino: int) -> bytes:
        """As `FileSystem.readlink`."""
        if ino < _CONTROL:
            past, inside = self._past(ino)
            return await past.fs.complete(past.fs.readlink, inside)
        return self._link_of(ino).target

    async def access(self, ino: int, mask: int, who: Credentials) -> bool:
        """As `FileSystem.access`."""
        if ino < _CONTROL:
            past, inside = self._past(ino)
            return await past.fs.complete(past.fs.access, inside, mask, who)
        if mask & rules.WRITE:
            raise OSError(errno.EROFS, "the past cannot be changed")
        await self.getattr(ino)
        return not mask & rules.EXECUTE or ino != _STATUS

    def forget(self, ino: int, count: int) -> None:
        """As `FileSystem.forget`."""
        if ino >= _CONTROL:
            link = self._links.get(ino)
            if link is not None:
                link.known -= count
                if link.known <= 0:
                    del self._links[ino], self._link_to[link.target]
            return
        past = self._views.get(ino >> _SHIFT)
        if past is not None:
            inside = ino & MAX_ID
            if inside != ROOT_ID:
                past.fs.forget(inside, count)
            past.known -= count
            self._drop_unknown(past)

    # -- files ------------------------------------------------------------------------------------

    @staticmethod
    def is_computed(number: int) -> bool:
        """Whether a handle is of a file whose bytes are made up as it is opened: no page of it may
        be kept, nor its size believed."""
        return number >= _CONTROL

    async def open(self, ino: int, flags: int, who: Credentials) -> int:
        """As `FileSystem.open`."""
        if ino < _CONTROL:
            past, inside = self._past(ino)
            return past.view << _SHIFT | await past.fs.complete(past.fs.open, inside, flags, who)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "the state cannot be written")
        return _CONTROL | self._texts.add(self._status())

    async def read(self, number: int, offset: int, size: int) -> bytes:
        """As `FileSystem.read`."""
        if number < _CONTROL:
            past, inside = self._past(number)
            return await past.fs.read(inside, offset, size)
        return self._texts[number & MAX_ID][offset : offset + size]

    def flush(self, number: int) -> None:
        """Nothing was written."""

    async def fsync(self, number: int, *, data_only: bool) -> None:
        """Nothing was written."""

    def release(self, number: int) -> None:
        """As `FileSystem.release`."""
        if number < _CONTROL:
            past, inside = self._past(number)
            past.fs.release(inside)
        else:
            self._texts.pop(number & MAX_ID)

    # -- directories ------------------------------------------------------------------------------

    async def opendir(self, ino: int, who: Credentials) -> int:
        """As `FileSystem.opendir`."""
        if ino < _CONTROL:
            past, inside = self._past(ino)
            return past.view << _SHIFT | await past.fs.complete(past.fs.opendir, inside, who)
        return _CONTROL | self._listings.add(await self._listing(ino))

    async def _listing(self, ino: int) -> list[Listed[S]]:
        found = [(b".", ino, self._directory(ino)), (b"..", _TOP, self._directory(_TOP))]
        if ino == _TOP:
            found += [(name, at, self._top_entry(at)) for name, at in _TOP_NAMES.items()]
        elif ino == _VERSIONS:
            for past in await self._newest():
                root = past.view << _SHIFT | ROOT_ID
                found.append((b"%d" % past.version, root, await self._past_root(past)))
        return [(name, shown, at, id) for at, (name, id, shown) in enumerate(found, 1)]

    async def _newest(self) -> list[Past[S]]:
        """The newest versions, as many as are shown at once."""
        found: list[Past[S]] = []
        version = self._drive.version
        while version and len(found) < MOST_VIEWS:
            past = await self._open(version)
            if not isinstance(past, Past):
                break
            found.append(past)
            version = past.fs.drive.previous()
        return found

    async def readdir(self, number: int, position: int) -> list[Listed[S]]:
        """As `FileSystem.readdir`."""
        if number < _CONTROL:
            past, inside = self._past(number)
            return await past.fs.complete(past.fs.readdir, inside, position)
        return [each for each in self._listings[number & MAX_ID] if each[2] > position]

    def remember(self, number: int, listed: Sequence[Listed[S]]) -> None:
        """As `FileSystem.remember`."""
        if number < _CONTROL:
            past, inside = self._past(number)
            past.fs.remember(inside, listed)
            past.known += sum(position > 2 for _, _, position, _ in listed)
            return
        for _, _, _, id in listed:
            # A listed version that had to make room already will be looked up by its name.
            version = self._views.get(id >> _SHIFT)
            if version is not None:
                version.known += 1

    def releasedir(self, number: int) -> None:
        """As `FileSystem.releasedir`."""
        if number < _CONTROL:
            past, inside = self._past(number)
            past.fs.releasedir(inside)
        else:
            self._listings.pop(number & MAX_ID)

    async def fsyncdir(self, number: int, *, data_only: bool) -> None:
        """Nothing was written."""

    # -- extended attributes ----------------------------------------------------------------------

    async def getxattr(self, ino: int, name: bytes, who: Credentials) -> bytes:
        """As `FileSystem.getxattr`."""
        if ino >= _CONTROL:
            raise OSError(errno.ENODATA, "no such attribute")
        past, inside = self._past(ino)
        return await past.fs.getxattr(inside, name, who)

    async def listxattr(self, ino: int) -> list[bytes]:
        """As `FileSystem.listxattr`."""
        if ino >= _CONTROL:
            return []
        past, inside = self._past(ino)
        return await past.fs.complete(past.fs.listxattr, inside)
