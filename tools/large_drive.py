"""Make a drive of very many files, through the library.

    python -m tools.large_drive --store DIR [--name NAME] [--files N]

A million takes 10 seconds and 120 MB. The drive has

- N files of 64 bytes, `folder A/B of them/file C.txt`: a hundred to a folder, a hundred of these to
  one above, made in the order in which a program copies a tree;
- `ten-thousand/`: 10,000 files of the same kind;
- `hundred-thousand/`: 100,000 names, empty files.

Every file's content is its own path, repeated, so that whoever reads one can check it.
"""

from __future__ import annotations

import argparse
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

import corestore
import hyperfs
from hyperfs import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FANOUT = 100
LISTED = 10_000
RENAMED = 100_000
CONTENT_BYTES = 64
# What is staged lies in memory: some 1 KB a name.
COMMIT_NAMES = 20_000


def tree_path(number: int) -> str:
    """The path of one of the N files, by its number."""
    folder, file = divmod(number, FANOUT)
    above, folder = divmod(folder, FANOUT)
    return f"folder {above:04}/{folder:02} of them/file {file:02}.txt"


def listed_path(number: int) -> str:
    """The path of one of the 10,000."""
    return f"ten-thousand/file {number:05}.txt"


def content(path: str) -> bytes:
    """The bytes of the file at *path*."""
    return (path.encode() * CONTENT_BYTES)[:CONTENT_BYTES]


def paths(files: int, *, renamed: int = RENAMED) -> Iterator[tuple[str, bytes]]:
    """Every file, in the order of making, with its content."""
    for number in range(files):
        path = tree_path(number)
        yield path, content(path)
    for number in range(LISTED):
        path = listed_path(number)
        yield path, content(path)
    for number in range(renamed):
        yield f"hundred-thousand/{number:06}", b""


async def fill(
    drive: hyperfs.Drive,
    files: int,
    *,
    renamed: int = RENAMED,
    told: Callable[[int], None] = lambda names: None,
) -> int:
    """Make the files; how many. *told* hears how many there are, now and then.

    Goes below paths, which would look each directory up for each file.
    """
    directories = {b"": (await drive.entry("/")).id}
    now = time.time_ns()
    owner = os.getuid(), os.getgid()
    made = 0
    for path, data in paths(files, renamed=renamed):
        parent = b""
        *above, name = path.encode().split(b"/")
        for part in above:
            child = parent + b"/" + part
            if child not in directories:
                directories[child] = drive.tree.new_id()
                entry = Entry(directories[child], stat.S_IFDIR | 0o755, *owner, now, now, 0)
                drive.tree.put(directories[parent], part, entry)
            parent = child
        entry = Entry(
            drive.tree.new_id(),
            stat.S_IFREG | 0o644,
            *owner,
            now,
            now,
            len(data),
            inline=data or None,
        )
        drive.tree.put(directories[parent], name, entry)
        made += 1
        if made % COMMIT_NAMES == 0:
            await drive.commit()
            told(made)
    await drive.commit()
    return made


async def make(store: Path, name: str, files: int, told: Callable[[int], None]) -> str:
    """A new drive in a store; its key."""
    async with corestore.open(store) as opened:
        await hyperfs.create(opened, name)
        async with hyperfs.open(opened, name=name) as drive:
            await fill(drive, files, told=told)
            await drive.sync()
            return str(drive.key)


def main() -> None:
    """Parse, make, say how long it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True, help="folder of the store")
    parser.add_argument("--name", default="large", help="name of the drive (%(default)s)")
    parser.add_argument("--files", type=int, default=1_000_000, help="N (%(default)s)")
    options = parser.parse_args()
    started = time.perf_counter()
    console = Console(stderr=True)
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        total = options.files + LISTED + RENAMED
        task = progress.add_task("", total=total)
        key = trio.run(
            make,
            options.store,
            options.name,
            options.files,
            lambda names: progress.update(task, completed=names),
        )
        progress.update(task, completed=total)
    console.print(f"{total:,} files in {time.perf_counter() - started:.1f} s")
    print(key)


if __name__ == "__main__":
    main()
