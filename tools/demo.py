"""The main job, end to end, with the installed `hyperfs` program and two separate stores.

Prints what it does as it goes; the last line of stdout is one line of figures. Exit code 0 means
that everything was as promised.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools import sample_tree
from tools.program import ProgramError, people

SEEN_SECONDS = 30
EDITS = 20


class DemoError(Exception):
    """Something was not as promised."""


def step(text: str) -> None:
    """Say what comes next."""
    print(f"\n{text}", flush=True)


def show(line: str) -> None:
    """A command line, as a user would type it."""
    print(f"  {line}", flush=True)


def demo(top: Path, large_bytes: int) -> str:
    """Run it all below *top*; returns the line of figures."""
    source = top / "source"
    step("Make a directory tree like those people have.")
    made = sample_tree.make(source, large_bytes=large_bytes, real_names=5_000)
    print(
        f"  {made.names} names, {made.bytes / 1e6:.0f} MB, the largest file"
        f" {large_bytes >> 20} MiB",
        flush=True,
    )

    with people(top, "alice", "bob", told=show) as (alice, bob):
        step("Create a drive in a first store.")
        key = alice.ask("create", "photos").strip()
        print(f"  {key}")

        step("Mount it, and copy the tree into it with cp.")
        writer = alice.mount("photos", top / "writable", "--listen", "127.0.0.1:0")
        tree = writer.folder / "tree"
        started = time.monotonic()
        subprocess.run(["cp", "-a", source, tree], check=True)
        copied = time.monotonic() - started
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
        reader = bob.mount(key, top / "read-only", "--peer", writer.address)
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
        reader.interrupt()
        writer.interrupt()
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
    print(f"Everything happens in {top}")
    try:
        figures = demo(top, options.large << 20)
    except (DemoError, ProgramError, subprocess.CalledProcessError) as error:
        sys.exit(f"demo: {error}")
    finally:
        if not options.keep:
            shutil.rmtree(top, ignore_errors=True)
    print(f"\n{figures}")


if __name__ == "__main__":
    main()
