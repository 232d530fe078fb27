"""`put` and `get`: copy files and trees into and out of drives, without a mount.

A recursive copy skips files whose size and modification time are the same on both sides, so an
interrupted one goes on where it stopped.
"""

from __future__ import annotations

import errno
import os
import stat as st
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import trio

from hyperfs.cli.failures import Exit, Failure, explain
from hyperfs.cli.files import kind, look
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.options import ADDRESS, peer_option, timeout_option
from hyperfs.cli.output import size_text
from hyperfs.cli.serving import run
from hyperfs.cli.session import Network, open_access
from hyperfs.cli.walk import walk
from hyperfs.records import clamp_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hyperfs.cli.access import Access, FileInfo
    from hyperfs.cli.address import Address, Endpoint
    from hyperfs.cli.output import Meter, Output
    from hyperfs.cli.settings import Settings

CHUNK_BYTES = 1 << 20
# A copy that fails for one reason in ten thousand files must not bury it; --json has them all.
SHOWN_FAILURES = 10


@dataclass(slots=True)
class Tally:
    """How a copy went."""

    copied: int = 0
    skipped: int = 0
    bytes: int = 0
    failed: list[str] = field(default_factory=list)

    def report(self, output: Output, what: str) -> None:
        """Say it, and fail with PARTIAL when something was left out."""
        if output.json:
            output.record(
                copied=self.copied, skipped=self.skipped, bytes=self.bytes, failed=[*self.failed]
            )
        else:
            output.say(
                f"{what}: {self.copied} copied ({size_text(self.bytes)}),"
                f" {self.skipped} the same already"
            )
        for line in self.failed[:SHOWN_FAILURES]:
            output.error(line)
        if len(self.failed) > SHOWN_FAILURES:
            output.error(f"... and {len(self.failed) - SHOWN_FAILURES} more")
        if self.failed:
            raise Failure(
                f"{len(self.failed)} could not be copied, as said above; the same command again"
                " copies only what is missing",
                Exit.PARTIAL,
            )


# What will not go away with the next file.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


# -- put -----------------------------------------------------------------------------------------


@click.command()
@click.argument("sources", type=click.Path(), metavar="SOURCE...", nargs=-1, required=True)
@click.argument("target", type=ADDRESS, metavar="DRIVE:/PATH")
@click.option("-r", "--recursive", is_flag=True, help="Copy folders with all that is in them.")
@pass_settings
def put(settings: Settings, sources: tuple[str, ...], target: Address, recursive: bool) -> None:
    """Copy local files into a drive of this store.

    Into a folder that is there (or a path that ends with /) files keep their names; otherwise the
    one source gets the target's name. With -r, a source that ends with / means its contents.
    """
    run(_put, settings, sources, target, recursive)


async def _put(
    settings: Settings, sources: tuple[str, ...], target: Address, recursive: bool
) -> None:
    for source in sources:
        # With a slash at its end a link to a folder is that folder, as everywhere.
        info = os.lstat(source)
        if st.S_ISDIR(info.st_mode) and not recursive:
            raise Failure(f"{source} is a folder; -r copies it whole")
        if not st.S_ISDIR(info.st_mode) and source.endswith("/"):
            raise Failure(f"{source} is not a folder")
    tally = Tally()
    async with open_access(settings, target, Network((), 0.0), write=True) as access:
        into = target.path.endswith(b"/") or await _is_directory(access, target.path)
        if len(sources) > 1 and not into:
            raise Failure(f"{os.fsdecode(target.path)} is not a folder of the drive")
        await _make_folders(access, target.path if into else target.path.rpartition(b"/")[0])
        total = None
        if settings.output.shows_progress:
            with settings.output.waiting("looking at what is there"):
                total = await trio.to_thread.run_sync(_total_bytes, sources, abandon_on_cancel=True)
        with settings.output.progress("put", total) as meter:
            for source in sources:
                path = Path(source)
                place = target.path.rstrip(b"/")
                contents = source.endswith("/") or path.name in ("", "..")
                if into and not contents:
                    place += b"/" + os.fsencode(path.name)
                if len(sources) == 1 and not recursive:
                    # Alone, its failure is the command's.
                    await _put_one(access, path, path.lstat(), place, tally, meter)
                else:
                    await _put_tree(access, path, place, tally, meter, top=contents)
        with settings.output.waiting("making everything durable"):
            await access.sync()
    tally.report(settings.output, "put")


def _total_bytes(sources: tuple[str, ...]) -> int:
    """How much is to be copied, as far as it can be looked at: only the bar wants to know."""
    total = 0
    for source in sources:
        for folder, _, names in os.walk(source):
            for name in names:
                with suppress(OSError):
                    total += _file_bytes(os.lstat(os.path.join(folder, name)))
        with suppress(OSError):
            total += _file_bytes(os.lstat(source))
    return total


def _file_bytes(info: os.stat_result) -> int:
    return info.st_size if st.S_ISREG(info.st_mode) else 0


async def _make_folders(access: Access, path: bytes) -> None:
    """What is missing of the folder *path* and those above it."""
    parts = [part for part in path.split(b"/") if part]
    for count in range(1, len(parts) + 1):
        folder = b"/" + b"/".join(parts[:count])
        try:
            info = await access.stat(folder)
        except FileNotFoundError:
            await access.mkdir(folder, 0o755)
        else:
            if not info.is_directory:
                raise Failure(
                    f"{os.fsdecode(folder)} in the drive is a {kind(info)}, not a folder; choose"
                    " another place"
                )


async def _is_directory(access: Access, path: bytes) -> bool:
    try:
        return (await access.stat(path)).is_directory
    except FileNotFoundError:
        return False


async def _put_tree(
    access: Access, source: Path, place: bytes, tally: Tally, meter: Meter, *, top: bool = False
) -> None:
    """*top*: the contents of *source* go into what is at *place*."""
    try:
        info = source.stat() if top else source.lstat()
        if not st.S_ISDIR(info.st_mode):
            await _put_one(access, source, info, place, tally, meter)
            return
        # A folder that is there, and gets contents only, keeps its own mode and time.
        ours = not (top and await _is_directory(access, place or b"/"))
        mode = st.S_IMODE(info.st_mode)
        if ours:
            await access.mkdir(place, mode)
        for name in sorted(os.listdir(source)):
            await _put_tree(access, source / name, place + b"/" + os.fsencode(name), tally, meter)
        if ours:
            # After the contents, whose arrival changes the time.
            await access.mkdir(place, mode, clamp_time(info.st_mtime_ns))
    except (OSError, Failure) as error:
        failure = explain(error)
        if failure is None or failure.code in (Exit.LOCKED, Exit.NOT_PERMITTED):
            raise
        if _is_hopeless(error):
            raise
        tally.failed.append(f"{source}: {failure}")


async def _put_one(
    access: Access, source: Path, info: os.stat_result, place: bytes, tally: Tally, meter: Meter
) -> None:
    mtime_ns = clamp_time(info.st_mtime_ns)
    if await _same(access, place, info.st_size, mtime_ns, info.st_mode, source):
        tally.skipped += 1
        meter.add(_file_bytes(info), source.name)
        return
    if st.S_ISLNK(info.st_mode):
        await access.symlink(place, os.readlink(os.fsencode(source)), mtime_ns)
    elif st.S_ISREG(info.st_mode):
        await access.put(
            place,
            _chunks(source, tally, meter),
            mode=st.S_IMODE(info.st_mode),
            mtime_ns=mtime_ns,
        )
    else:
        tally.failed.append(f"{source} is neither file, folder nor link, and was left out")
        return
    tally.copied += 1


async def _same(
    access: Access, place: bytes, size: int, mtime_ns: int, mode: int, source: Path
) -> bool:
    try:
        there = await access.stat(place)
    except FileNotFoundError:
        return False
    if st.S_ISLNK(mode):
        return there.is_symlink and there.target == os.readlink(os.fsencode(source))
    return there.is_file and there.size == size and there.mtime_ns == mtime_ns


async def _chunks(source: Path, tally: Tally, meter: Meter) -> AsyncIterator[bytes]:
    with source.open("rb") as file:
        while data := _read(file, source):
            await trio.lowlevel.checkpoint()
            yield data
            tally.bytes += len(data)
            meter.add(len(data), source.name)


def _read(file: BinaryIO, source: Path) -> bytes:
    try:
        return file.read(CHUNK_BYTES)
    except OSError as error:
        # Only opening says of which file it speaks.
        raise OSError(error.errno, error.strerror, os.fspath(source)) from None


# -- get -----------------------------------------------------------------------------------------


@click.command()
@click.argument("source", type=ADDRESS, metavar="DRIVE:/PATH")
@click.argument("target", type=click.Path(path_type=Path), default=Path())
@click.option("-r", "--recursive", is_flag=True, help="Copy folders with all that is in them.")
@peer_option
@timeout_option
@pass_settings
def get(
    settings: Settings,
    source: Address,
    target: Path,
    recursive: bool,
    peers: tuple[Endpoint, ...],
    timeout: float,
) -> None:
    """Copy files out of a drive.

    Into a local folder that is there, the copy keeps its name; a folder's path that ends with /
    means its contents.
    """
    run(_get, settings, source, target, recursive, Network(peers, timeout))


async def _get(
    settings: Settings, source: Address, target: Path, recursive: bool, network: Network
) -> None:
    tally = Tally()
    async with open_access(settings, source, network) as live:
        # All that is copied is of one version.
        access = await live.fixed()
        info = await look(access, source.path, settings.output)
        if info.is_directory and not recursive:
            raise Failure(f"{os.fsdecode(source.path)} is a folder; -r copies it whole")
        name = source.path.rstrip(b"/").rsplit(b"/", 1)[-1]
        contents_only = source.path.endswith(b"/")
        if target.is_dir() and not contents_only:
            target = target / os.fsdecode(name)
        if not target.parent.is_dir():
            if target.parent.exists():
                raise Failure(f"{target.parent} is not a folder; choose another place")
            raise Failure(
                f"{target.parent} is not there; make it first: mkdir -p {target.parent}",
                Exit.NOT_FOUND,
            )
        reader = Getter(access, tally)
        total = None
        if settings.output.shows_progress:
            with settings.output.waiting("listing what is there"):
                total = await _size(access, source.path, info)
        with settings.output.progress("get", total) as meter:
            if info.is_directory:
                await reader.tree(source.path, info, target, meter)
            else:
                # Alone, its failure is the command's.
                await reader.copy(source.path, info, target, meter)
    tally.report(settings.output, "get")


async def _size(access: Access, path: bytes, info: FileInfo) -> int | None:
    """How many bytes a file or folder has; None if not all of it can be listed."""
    if not info.is_directory:
        return info.size if info.is_file else 0
    total = 0
    try:
        async for _, found in walk(access, path):
            total += found.size if found.is_file else 0
    except (OSError, Failure, trio.TooSlowError):
        # Whoever copies it will say so.
        return None
    return total


class Getter:
    """Copies out of one drive."""

    def __init__(self, access: Access, tally: Tally) -> None:
        self._access = access
        self._tally = tally

    async def tree(self, source: bytes, info: FileInfo, target: Path, meter: Meter) -> None:
        """A folder with everything in it. Nothing is ever written outside *target*: names cannot
        hold slashes, and links are made, never followed."""
        folders = [(target, info)]
        _make_folder(target)
        top = source.rstrip(b"/")
        # Folders that could not be made: nothing below them can be.
        unmade: set[bytes] = set()
        try:
            async for path, found in walk(self._access, source):
                place = target / os.fsdecode(path[len(top) + 1 :])
                if path.rpartition(b"/")[0] in unmade:
                    if found.is_directory:
                        unmade.add(path)
                elif not found.is_directory:
                    await self.one(path, found, place, meter)
                elif self._folder(path, place):
                    folders.append((place, found))
                else:
                    unmade.add(path)
        except (OSError, Failure, trio.TooSlowError) as error:
            # What cannot be listed ends the copy; what is here stays.
            if _is_hopeless(error):
                raise
            self._tally.failed.append(f"the rest was not copied: {explain(error)}")
        for place, found in reversed(folders):
            place.chmod(st.S_IMODE(found.mode) & 0o777)
            os.utime(place, ns=(found.mtime_ns, found.mtime_ns))

    def _folder(self, source: bytes, place: Path) -> bool:
        """Make a folder; whether it could be. If not, that is noted."""
        try:
            _make_folder(place)
        except (OSError, Failure) as error:
            if _is_hopeless(error):
                raise
            text = f"{os.fsdecode(source)}, with all that is in it: {_reason(error)}"
            self._tally.failed.append(text)
            return False
        return True

    async def one(self, source: bytes, info: FileInfo, target: Path, meter: Meter) -> None:
        """As `copy`, but a failure is noted, and the copy goes on with others."""
        try:
            await self.copy(source, info, target, meter)
        except (OSError, Failure, trio.TooSlowError) as error:
            if _is_hopeless(error):
                raise
            self._tally.failed.append(f"{os.fsdecode(source)}: {_reason(error)}")

    async def copy(self, source: bytes, info: FileInfo, target: Path, meter: Meter) -> None:
        """A file or a link. A file appears under its name when it is whole.

        Raises:
          OSError, Failure, trio.TooSlowError: it could not be read there or written here.
        """
        if _same_here(target, info):
            self._tally.skipped += 1
            meter.add(info.size if info.is_file else 0, os.fsdecode(source))
            return
        draft = target.with_name(f".hyperfs-{os.getpid()}-{info.id}")
        try:
            if info.is_symlink:
                os.symlink(info.target or b"", draft)
            elif info.is_file:
                await self._content(source, info, draft, meter)
                # What a drive holds cannot make a program setuid here.
                draft.chmod(st.S_IMODE(info.mode) & 0o777)
            else:
                raise Failure("neither file nor link, left out")
            os.utime(draft, ns=(info.mtime_ns, info.mtime_ns), follow_symlinks=False)
            os.replace(draft, target)
        except OSError as error:
            if error.filename in (draft, os.fspath(draft)):
                error.filename = os.fspath(target)
            raise
        finally:
            draft.unlink(missing_ok=True)
        self._tally.copied += 1

    async def _content(self, source: bytes, info: FileInfo, draft: Path, meter: Meter) -> None:
        with draft.open("xb") as file:
            while file.tell() < info.size:
                # What is local is read without a pause, in which a Ctrl-C would be noticed.
                await trio.lowlevel.checkpoint()
                data = await self._access.read(source, file.tell(), CHUNK_BYTES)
                if not data:
                    raise Failure("it became shorter while it was read; try again")
                file.write(data)
                self._tally.bytes += len(data)
                meter.add(len(data), os.fsdecode(source))


def _reason(error: Exception) -> str:
    """Why a copy failed, where the line names the file already."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "its path would be longer than this system allows"
    return str(explain(error))


def _is_hopeless(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _HOPELESS


def _make_folder(place: Path) -> None:
    # A link where a folder belongs would lead out of the target.
    if place.is_symlink():
        raise Failure(f"{place} is a link; move it away first")
    place.mkdir(exist_ok=True)


def _same_here(target: Path, info: FileInfo) -> bool:
    try:
        here = target.lstat()
    except FileNotFoundError:
        return False
    if info.is_symlink:
        return st.S_ISLNK(here.st_mode) and os.fsencode(os.readlink(target)) == info.target
    return (
        st.S_ISREG(here.st_mode) and here.st_size == info.size and here.st_mtime_ns == info.mtime_ns
    )
