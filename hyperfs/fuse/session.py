"""pyfuse3's one session per process, as an object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from hyperfs.fuse import loop
from hyperfs.fuse.operations import Operations

if TYPE_CHECKING:
    from hyperfs.vfs.filesystem import FileSystem
    from hyperfs.vfs.history import History
    from hyperfs.vfs.options import MountOptions

# Requests in work at once. One that waits for the network holds its place as long as that takes.
MAX_TASKS: Final = 64


class Session:
    """A mounted file system from its construction on, until `close`.

    Requests wait until `run` serves them. `failed` says that `run` raised. Raises RuntimeError when
    the mount is refused.
    """

    def __init__(self, fs: FileSystem, history: History, point: str, options: MountOptions) -> None:
        self._ended = trio.Event()
        self.failed = False
        self._operations = Operations(fs, history, xattrs=options.xattrs)
        loop.install(fast=options.fast_loop)
        pyfuse3.init(self._operations, point, _arguments(options, read_only=fs.read_only))
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


def _arguments(options: MountOptions, *, read_only: bool) -> set[str]:
    if "," in options.fsname or "\\" in options.fsname:
        raise ValueError("fsname has no commas and backslashes")
    chosen = {
        f"fsname={options.fsname}",
        "subtype=hyperfs",
        "dev" if options.dev else "nodev",
        "suid" if options.suid else "nosuid",
    }
    if read_only:
        chosen.add("ro")
    if options.noexec:
        chosen.add("noexec")
    if options.allow_other:
        chosen.add("allow_other")
    if options.kernel_checks:
        chosen.add("default_permissions")
    return chosen
