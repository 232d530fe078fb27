"""Real mounts for tests: each in a child process, and none that can hang the test run.

    with mounted(tmp_path / "m") as mount:             # over dictionaries (FakeDrive)
    with mounted(tmp_path / "m", store=tmp_path / "s") as mount:       # a drive of a store
    with mounted(other, key=mount.key, peer=mount.address) as remote:  # somebody else's

A test that deadlocks sits in the kernel, where no signal reaches it, and perhaps with the
interpreter lock held. So the watchdog is a process of its own, which breaks the FUSE connection
when the deadline has passed; every call on the mount then fails, and with it the test.

The child takes commands, one JSON object a line on its standard input, and answers each with one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

from tests.support.limits import HANG_SECONDS, TEST_SECONDS

CONNECTIONS = Path("/sys/fs/fuse/connections")
TOP = Path(__file__).parent.parent.parent

_WATCHDOG = """
import sys, time
path, seconds = sys.argv[1:]
time.sleep(float(seconds))
open(path, "w").write("1")
"""


class Mount:
    """A mount in a child process. `process`, `path`, and what the child told when it was ready."""

    def __init__(self, path, process, told) -> None:
        self.path = path
        self.process = process
        self.connection = told["connection"]
        self.key = told.get("key")
        self.address = told.get("address")
        self.watchdog = None

    def __truediv__(self, name) -> Path:
        return self.path / name

    def ask(self, do, **arguments):
        """Have the child do something; its answer."""
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM, and wait for the end; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=HANG_SECONDS)


@contextlib.contextmanager
def mounted(
    path,
    *,
    deadline=TEST_SECONDS,
    store=None,
    key=None,
    peer=None,
    read_timeout=HANG_SECONDS,
    **options,
):
    """Mount on *path* (made if missing) until the block ends. *options* are `MountOptions`'."""
    # Not `exist_ok`: that would look at what may be a dead mount.
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    arguments = {
        "path": str(path),
        "store": None if store is None else str(store),
        "key": key,
        "peer": peer,
        "read_timeout": read_timeout,
        "options": options,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.mounts", json.dumps(arguments)],
        cwd=TOP,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = None
    try:
        line = process.stdout.readline()
        assert line, "the mount did not start; see its output above"
        mount = Mount(Path(path), process, json.loads(line))
        abort = CONNECTIONS / str(mount.connection) / "abort"
        watchdog = subprocess.Popen([sys.executable, "-c", _WATCHDOG, abort, str(deadline)])
        yield mount
    finally:
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=HANG_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
            if watchdog is not None:
                expired = watchdog.poll() is not None
                watchdog.kill()
                watchdog.wait()
                assert not expired, "the watchdog had to break the mount"
            unmount(path)


def unmount(path):
    """Take off whatever a test left."""
    for _ in range(10):
        with open("/proc/self/mounts") as lines:
            if not any(line.split()[1] == str(path) for line in lines):
                return
        subprocess.run(["fusermount3", "-uz", path], check=False, capture_output=True)


# -- the child -----------------------------------------------------------------------------------


async def _child(arguments):
    from hyperfs.vfs.options import MountOptions

    options = MountOptions(**arguments["options"])
    async with contextlib.AsyncExitStack() as stack:
        drive, told = await _open(stack, arguments)
        await _serve(drive, arguments["path"], options, told)


async def _open(stack, arguments):
    if arguments["store"] is None:
        from tests.support.fakedrive import FakeDrive

        return FakeDrive(), {}
    import corestore
    import hyperfs

    store = await stack.enter_async_context(corestore.open(arguments["store"]))
    key = arguments["key"]
    opening = (
        hyperfs.open(store, name="test", create=True)
        if key is None
        else hyperfs.open(store, key=key, read_timeout=arguments["read_timeout"])
    )
    swarm = await stack.enter_async_context(corestore.open_swarm(store))
    drive = await stack.enter_async_context(opening)
    await swarm.join(drive.discovery_key)
    if arguments["peer"] is not None:
        swarm.connect(*arguments["peer"])
        with trio.fail_after(HANG_SECONDS):
            await drive.ready()
    host, port = await swarm.listen("127.0.0.1", 0)
    return drive, {"key": str(drive.key), "address": [host, port]}


async def _serve(drive, path, options, told):
    from hyperfs.fuse.serve import mount

    async def serve(task_status):
        await mount(drive, path, options=options, task_status=task_status)

    async with trio.open_nursery() as nursery:
        started = await nursery.start(serve)
        say({"connection": started.connection, **told})
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        nursery.start_soon(_obey, drive, started)
        await started.wait_unmounted()
        nursery.cancel_scope.cancel()


async def _stop_on_signal(scope):
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


def say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def _lines(stream):
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line


async def _obey(drive, started):
    """Commands that tests give; see `Mount.ask`."""
    from hyperfs.vfs.tree import InvalidateEntry, InvalidateInode

    gate = trio.Event()
    async for line in _lines(trio.lowlevel.FdStream(os.dup(0))):
        command = json.loads(line)
        match command.pop("do"):
            case "invalidate inode":
                started.file_system.invalidations.put(InvalidateInode(**command))
                say({})
            case "invalidate entry":
                name = os.fsencode(command["name"])
                started.file_system.invalidations.put(InvalidateEntry(command["parent"], name))
                say({})
            case "close gate":
                gate = trio.Event()
                drive.read_gate = gate.wait
                say({})
            case "open gate":
                gate.set()
                drive.read_gate = None
                say({})
            case "break":
                # A bug in what the operations call: each raises what no table knows.
                drive.tree.resolve = _broken
                say({})
            case "mend":
                del drive.tree.resolve
                say({})
            case "counts":
                table = started.file_system.inodes
                files = started.file_system.handles.files
                told = started.file_system.invalidations.done
                say({"inodes": len(table), "files": len(files), "told": told})
            case "views":
                say({"views": len(started.history.versions)})
            case "sync":
                await drive.sync()
                say({"version": drive.version})
            case "wait version":
                with trio.fail_after(HANG_SECONDS), drive.watch_changes() as changes:
                    while drive.version < command["version"]:
                        await anext(changes)
                say({})
            case "write outside":
                path = os.fsencode(command["path"])
                await drive.write(path, os.fsencode(command["text"]))
                started.changed_outside(path)
                say({})


def _broken(*_arguments):
    raise RuntimeError("a bug, on purpose")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    trio.run(_child, json.loads(sys.argv[1]))
