"""The main job, end to end, with the installed `hyperfs` program and two separate stores.

Prints what it does as it goes; the last line of stdout is one line of figures. Exit code 0 means
that everything was as promised.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tools import sample_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

HYPERFS = Path(sys.executable).with_name("hyperfs")
READY_SECONDS = 60
SEEN_SECONDS = 30
EDITS = 20


class DemoError(Exception):
    """Something was not as promised."""


def step(text: str) -> None:
    """Say what comes next."""
    print(f"\n{text}", flush=True)


def shown(*arguments: object) -> list[str]:
    """A command line, printed as a user would type it."""
    words = [str(argument) for argument in arguments]
    print("  $ hyperfs " + " ".join(words), flush=True)
    return [str(HYPERFS), *words]


class Mount:
    """A `hyperfs mount` in a process of its own, with its own store."""

    def __init__(self, store: Path, what: str, folder: Path, *more: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.process = subprocess.Popen(
            shown("--json", "mount", what, folder, *more),
            env={**os.environ, "HYPERFS_STORE": str(store)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise DemoError(f"the mount of {what} ended with code {self.process.wait()}")
        self.ready: dict[str, object] = json.loads(line)

    @property
    def address(self) -> str:
        """Where it listens."""
        listening = self.ready["listening"]
        assert isinstance(listening, list)
        return str(listening[0])

    def peak_memory(self) -> int:
        """The most memory the process has had, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise DemoError("the kernel does not say how much memory the mount had")

    def stop(self) -> None:
        """Ctrl-C, and wait for the clean end."""
        self.process.send_signal(signal.SIGINT)
        if (code := self.process.wait(READY_SECONDS)) != 0:
            raise DemoError(f"the mount on {self.folder} ended with code {code}")
        if self.folder.is_mount():
            raise DemoError(f"{self.folder} is still mounted")


@contextmanager
def cleaned_up(mounts: list[Mount]) -> Iterator[None]:
    """Whatever happens, no process and no mount is left."""
    try:
        yield
    finally:
        for mount in mounts:
            if mount.process.poll() is None:
                mount.process.kill()
                mount.process.wait()
            if os.path.ismount(mount.folder):
                subprocess.run(["fusermount3", "-uz", mount.folder], check=False)


def demo(top: Path, large_bytes: int) -> str:
    """Run it all below *top*; returns the line of figures."""
    source = top / "source"
    step("Make a directory tree like those people have.")
    made = sample_tree.make(source, large_bytes=large_bytes, copies=2)
    print(
        f"  {made.names} names, {made.bytes / 1e6:.0f} MB, the largest file"
        f" {large_bytes >> 20} MiB",
        flush=True,
    )

    step("Create a drive in a first store.")
    alice, bob = top / "alice", top / "bob"
    key = subprocess.run(
        shown("--store", alice, "create", "photos"), check=True, capture_output=True, text=True
    ).stdout.strip()
    print(f"  {key}")

    mounts: list[Mount] = []
    with cleaned_up(mounts):
        step("Mount it, and copy the tree into it with cp.")
        writer = Mount(alice, "photos", top / "writable", "--listen", "127.0.0.1:0")
        mounts.append(writer)
        tree = writer.folder / "tree"
        started = time.monotonic()
        subprocess.run(["cp", "-a", source, tree], check=True)
        copied = time.monotonic() - started
        with os.scandir(writer.folder) as _:
            descriptor = os.open(writer.folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        stored = time.monotonic() - started
        print(
            f"  copied in {copied:.1f} s, {made.bytes / copied / 1e6:.0f} MB/s;"
            f" durable after {stored:.1f} s",
            flush=True,
        )

        step("Mount it by its key in a second process, with a store of its own.")
        started = time.monotonic()
        reader = Mount(bob, key, top / "read-only", "--peer", writer.address)
        mounts.append(reader)
        usable = time.monotonic() - started
        print(f"  usable after {usable * 1000:.0f} ms", flush=True)

        step("Compare the two trees: names, types, modes, times, links, every byte.")
        started = time.monotonic()
        found = sample_tree.differences(source, reader.folder / "tree")
        compared = time.monotonic() - started
        if found:
            raise DemoError("the trees differ:\n  " + "\n  ".join(found[:20]))
        print(
            f"  equal, after {compared:.1f} s: {made.bytes / compared / 1e6:.0f} MB/s fetched,"
            " verified, stored and read",
            flush=True,
        )

        step("Edit a file here, and look how long it takes to be seen there.")
        delays = sorted(edit(writer.folder, reader.folder, number) for number in range(EDITS))
        median = delays[len(delays) // 2]
        print(
            f"  {EDITS} edits: seen after {median:.0f} ms in the middle, {delays[-1]:.0f} ms"
            " at most",
            flush=True,
        )

        step("Take everything down.")
        memory = writer.peak_memory()
        reader.stop()
        writer.stop()
        print("  both unmounted", flush=True)
    return (
        f"demo: {made.names} names, {made.bytes / 1e6:.0f} MB; copied in at"
        f" {made.bytes / copied / 1e6:.0f} MB/s, remote mount usable in {usable * 1000:.0f} ms,"
        f" read there at {made.bytes / compared / 1e6:.0f} MB/s, an edit seen after"
        f" {median:.0f} ms (median of {EDITS}), writer's peak memory {memory / 1e6:.0f} MB"
    )


def edit(here: Path, there: Path, number: int) -> float:
    """Write a file on one side; the milliseconds until a plain read on the other side has it."""
    text = f"edit number {number}, made at {time.time_ns()}\n"
    name = "notes.txt"
    (here / name).write_text(text)
    started = time.monotonic()
    while time.monotonic() - started < SEEN_SECONDS:
        try:
            if (there / name).read_text() == text:
                return (time.monotonic() - started) * 1000
        except FileNotFoundError:
            pass
        time.sleep(0.001)
    raise DemoError(f"an edit was not seen within {SEEN_SECONDS} s")


def main() -> None:
    """Run the demo, tidy up, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=int, default=256, metavar="MIB")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    options = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="hyperfs-demo-"))
    os.environ["HYPERFS_RUNTIME_DIR"] = str(top / "run")
    print(f"Everything happens in {top}")
    try:
        figures = demo(top, options.large << 20)
    except (DemoError, subprocess.CalledProcessError) as error:
        sys.exit(f"demo: {error}")
    finally:
        if not options.keep:
            shutil.rmtree(top, ignore_errors=True)
    print(f"\n{figures}")


if __name__ == "__main__":
    main()
