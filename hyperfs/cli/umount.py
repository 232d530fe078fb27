"""`umount`: end a mount so that nothing written is lost, and say who is in the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

import hyperfs
from hyperfs.cli import processes, remote
from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.options import DIRECTORY
from hyperfs.cli.serving import run
from hyperfs.fuse import mountpoint

if TYPE_CHECKING:
    from hyperfs.cli.output import Output
    from hyperfs.cli.processes import ProcessInfo
    from hyperfs.cli.settings import Settings

UNMOUNT_SECONDS = 60.0
# So many programs that are in the way are named.
_NAMED_USERS = 3


@click.command()
@click.argument("directory", type=DIRECTORY, metavar="DIR")
@click.option(
    "--force",
    is_flag=True,
    help="Take it away from the programs that use it; they get errors from then on.",
)
@pass_settings
def umount(settings: Settings, directory: Path, force: bool) -> None:
    """Unmount DIR: what was written is made durable first.

    A folder that programs use (a shell stands in it, a file is open) stays mounted, and the
    programs are named.
    """
    run(_umount, settings.output, directory, force)


async def _umount(output: Output, directory: Path, force: bool) -> None:
    point = os.path.abspath(directory)
    info = next((p for p in processes.running() if p.directory == point), None)
    if info is None:
        point = os.path.realpath(point)
        info = next((p for p in processes.running() if p.directory == point), None)
    if info is None:
        await trio.to_thread.run_sync(_umount_foreign, point, directory, force)
        return
    # However long that takes: it has to get through the disk.
    with output.waiting("making everything durable"):
        await _end(info, point, directory, force)
        with trio.move_on_after(UNMOUNT_SECONDS):
            # Nothing tells when somebody else's process ends.
            while _is_process(info.pid):  # noqa: ASYNC110
                await trio.sleep(0.02)
            return
    raise Failure(
        f"process {info.pid} has not ended after {UNMOUNT_SECONDS:g} s; its log may say why, and"
        f" `kill -9 {info.pid}` ends it as a power cut would"
    )


async def _end(info: ProcessInfo, point: str, directory: Path, force: bool) -> None:
    async with remote.connect(info.socket) as client:
        if not force:
            if info.writable:
                try:
                    await client.call("sync", drive=info.keys[0])
                except (OSError, Failure) as error:
                    raise Failure(
                        f"{directory} stays mounted, since what was written last cannot be stored:"
                        f" {error.strerror if isinstance(error, OSError) else error}; --force loses"
                        " it"
                    ) from None
            # With that the process ends.
            await trio.to_thread.run_sync(_unmount_idle, point, directory)
        else:
            await client.stop()


def _unmount_idle(point: str, directory: Path) -> None:
    """Take a mount off unless it is in use. Raises Failure."""
    try:
        reason = mountpoint.unmount(point, lazy=False)
    except FileNotFoundError:
        raise Failure(
            "unmounting needs fusermount3: apt install fuse3 (or end the process that has it)",
            Exit.NO_FUSE,
        ) from None
    if reason is None:
        return
    users = users_of(point)
    here = os.getcwd()
    if not users and (here == point or here.startswith(point + "/")):
        raise Failure(f"{directory} is in use by your shell, which stands in it: cd out first")
    if not users:
        reason = reason.removeprefix(f"{mountpoint.HELPER}: ")
        raise Failure(f"{directory} cannot be unmounted: {reason}")
    named = ", ".join(f"{name} (process {pid})" for pid, name in users[:_NAMED_USERS])
    more = f" and {len(users) - _NAMED_USERS} more" if len(users) > _NAMED_USERS else ""
    raise Failure(
        f"{directory} is in use by {named}{more}; leave it there, or take it away with"
        " umount --force"
    )


def users_of(point: str) -> list[tuple[int, str]]:
    """(pid, name) of the processes that stand in *point* or below, or have files open there.

    Only others, and those this user may look into. Asks only /proc, never the mount.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            links = [process / "cwd", process / "root", process / "exe"]
            links += (process / "fd").iterdir()
        except OSError:
            continue
        if any(_leads_below(link, point) for link in links):
            try:
                name = (process / "comm").read_text().strip()
            except OSError:
                continue
            found.append((int(process.name), name))
    return sorted(found)


def _leads_below(link: Path, point: str) -> bool:
    try:
        target = os.readlink(link)
    except OSError:
        return False
    return target == point or target.startswith(point + "/")


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


def _umount_foreign(point: str, directory: Path, force: bool) -> None:
    """A mount whose process is gone, or is not this user's to ask."""
    try:
        # Not stat: of that the kernel may have an answer from better days.
        os.statvfs(point)
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            raise Failure(f"{directory}: {error.strerror}", Exit.NOT_FOUND) from None
        hyperfs.recover_mount_point(point)
        return
    if not os.path.ismount(point):
        raise Failure(f"nothing is mounted on {directory}", Exit.NOT_FOUND)
    if force:
        mountpoint.unmount(point, lazy=True)
    else:
        _unmount_idle(point, directory)
