"""pyfuse3's one session per process, as an object."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from hyperfs.fuse import loop
from hyperfs.fuse.durable import DurableChanges, DurableNames
from hyperfs.fuse.operations import Operations

if TYPE_CHECKING:
    from pyfuse3 import EntryAttributes

    from hyperfs.vfs.filesystem import FileSystem
    from hyperfs.vfs.history import History
    from hyperfs.vfs.options import MountOptions

# Requests in work at once. One that waits for the network holds its place as long as that takes.
MAX_TASKS: Final = 64


class Session:
    """A mounted file system from its construction on, until `close`.

    Requests wait until `run` serves them. `failed` says that `run` raised. Raises OSError (EPERM,
    with the reason) when the mount is refused.
    """

    def __init__(
        self,
        fs: FileSystem[EntryAttributes],
        history: History[EntryAttributes],
        point: str,
        options: MountOptions,
    ) -> None:
        self._ended = trio.Event()
        self.failed = False
        self._operations = _handlers(options, fs.read_only)(fs, history, xattrs=options.xattrs)
        loop.install(fast=options.fast_loop)
        arguments = _arguments(options, read_only=fs.read_only)
        told = _Told()
        try:
            with told:
                pyfuse3.init(self._operations, point, arguments)
        except RuntimeError as error:
            raise OSError(errno.EPERM, refusal(told.text, str(error)), point) from None
        self._scope = trio.CancelScope(shield=True)

    async def run(self) -> None:
        """Serve until the mount is gone or `end` is called: cancelling does not end it."""
        try:
            with self._scope:
                await pyfuse3.main(min_tasks=1, max_tasks=MAX_TASKS)
        except BaseException:
            self.failed = True
            raise
        finally:
            self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether `run` has ended."""
        return self._ended.is_set()

    async def wait_ended(self) -> None:
        """Return when `run` has ended."""
        await self._ended.wait()

    def end(self) -> None:
        """Stop serving. What is being waited for is left unanswered."""
        if not self.ended:
            pyfuse3.terminate()
            self._scope.cancel()

    def close(self, *, unmount: bool) -> None:
        """Close the connection to the kernel: whoever uses the mount still gets errors from now on.

        With *unmount* the mount is taken off, too.
        """
        pyfuse3.close(unmount=unmount)


class _Told:
    """Keeps what is written to stderr during the block: the library and its helper say there, and
    nowhere else, why a mount is refused. Of a mount that is not, it is passed on."""

    def __init__(self) -> None:
        self.text = ""

    def __enter__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", errors="replace")
        self._stderr = os.dup(2)
        os.dup2(self._file.fileno(), 2)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.dup2(self._stderr, 2)
        os.close(self._stderr)
        with self._file as file:
            file.seek(0)
            self.text = file.read()
        if kind is None and self.text:
            with suppress(OSError):
                os.write(2, self.text.encode())


def refusal(told: str, error: str) -> str:
    """Why a mount was refused, and what to do, from what was *told* on stderr."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    if any("user_allow_other" in line for line in lines):
        return (
            "allow_other is for root, unless /etc/fuse.conf has the line user_allow_other; add it,"
            " or leave the option out"
        )
    if any("no write access" in line for line in lines):
        return "you may not write to this folder; mount on a folder of your own"
    # "fusermount3: mount failed: Operation not permitted", and then how the library took it.
    reasons = [line.partition(": ")[2] for line in lines if line.startswith("fuse")]
    reason = next(iter(reasons), error)
    if "Operation not permitted" in reason:
        reason += " (a container needs --device /dev/fuse and --cap-add SYS_ADMIN)"
    return f"the system refuses the mount: {reason}"


def _handlers(options: MountOptions, read_only: bool) -> type[Operations]:
    if read_only:
        return Operations
    return DurableChanges if options.sync else DurableNames if options.dirsync else Operations


def _arguments(options: MountOptions, *, read_only: bool) -> set[str]:
    if any(letter in name for name in (options.fsname, options.subtype) for letter in ",\\"):
        raise ValueError("fsname and subtype have no commas and backslashes")
    chosen = {
        f"fsname={options.fsname}",
        f"subtype={options.subtype}",
        "dev" if options.dev else "nodev",
        "suid" if options.suid else "nosuid",
    }
    if read_only:
        chosen.add("ro")
    if options.sync:
        chosen.add("sync")
    if options.dirsync:
        chosen.add("dirsync")
    if options.noexec:
        chosen.add("noexec")
    if options.allow_other:
        chosen.add("allow_other")
    if options.kernel_checks:
        chosen.add("default_permissions")
    return chosen
