"""What a crash must have left: trees that can be read, and heads of logs with one history.

See `tools/crash_mount.py`. Heads are read by a process of their own, beside those that have the
stores open: `crash_checks.py heads STORE KEY [LENGTH...]`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import corestore  # noqa: E402
from tools import sample_tree  # noqa: E402
from tools.crash_rounds import Violation  # noqa: E402

if TYPE_CHECKING:
    from tools.program import Mount, Person


ANSWER_SECONDS = 120.0
EQUAL_SECONDS = 60.0


# -- heads, read beside the processes that have the stores open ------------------------------------


async def _heads(store_path: str, key: str, lengths: list[int]) -> dict[str, object]:
    async with corestore.open(store_path) as store:
        (name,) = (core for core in store.cores() if core == corestore.Key.parse(key).discovery_key)
        found: dict[str, object] = {}
        others = [core for core in store.cores() if core != name]
        for label, discovery_key in (
            ("metadata", name),
            ("content", others[0] if others else None),
        ):
            if discovery_key is None:
                continue
            async with await store.get(discovery_key=discovery_key, create=False) as core:
                at = core.length if not lengths else lengths.pop(0)
                found[label] = {
                    "fork": core.fork,
                    "length": core.length,
                    "at": at,
                    "hash": core.tree_hash(at).hex() if at <= core.length else None,
                }
        return found


def heads(person: Person, key: str, *lengths: int) -> dict[str, dict[str, object]]:
    """The two cores of a drive as a store has them; tree hashes at *lengths*, else at the ends."""
    words = [sys.executable, __file__, str(person.store), key, *map(str, lengths)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise Violation(f"the store {person.store} does not open: {done.stderr}")
    found: dict[str, dict[str, object]] = json.loads(done.stdout)
    return found


def length_of(head: dict[str, object]) -> int:
    """The number of blocks in a head of `heads`."""
    length = head["length"]
    assert isinstance(length, int)
    return length


# -- trees -----------------------------------------------------------------------------------------


def status(person: Person, mount: Mount) -> dict[str, object]:
    """What `status` tells of a mount; a busy one is asked again.

    Raises:
      Violation: it does not answer.
    """
    end = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < end and mount.process.poll() is None:
        for line in person.ask("--json", "status").splitlines():
            report: dict[str, object] = json.loads(line)
            if report["pid"] == mount.process.pid and "version" in report:
                return report
    raise Violation(f"the mount does not answer: {mount.errors.read_text()}")


@dataclass
class Recount:
    """Everything in a mount, read."""

    names: dict[str, tuple[int, int, int, str]] = field(default_factory=dict)
    files: int = 1
    bytes: int = 0


def read_everything(top: Path, below: Path | None = None) -> Recount:
    """Walk and read a tree.

    Raises:
      Violation: something cannot be read, or is not as long as it says.
    """
    found, inodes = Recount(), set()
    try:
        for path, state in sample_tree.walk(below or top):
            name = os.fsdecode(os.fsencode(path.relative_to(top)))
            digest = ""
            if stat.S_ISLNK(state.st_mode):
                digest = os.readlink(path)
            elif stat.S_ISREG(state.st_mode):
                size, digest = read_file(path)
                if size != state.st_size:
                    raise Violation(f"{path} has {size} bytes and says {state.st_size}")
            found.names[name] = (state.st_mode, state.st_size, state.st_mtime_ns, digest)
            if state.st_ino not in inodes:
                inodes.add(state.st_ino)
                found.files += 1
                found.bytes += state.st_size
    except OSError as error:
        raise Violation(f"it cannot be read: {error!r}") from error
    return found


def read_file(path: Path) -> tuple[int, str]:
    """(size, digest) of a file."""
    size, digest = 0, hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            size += len(data)
            digest.update(data)
    return size, digest.hexdigest()


def wait_equal(here: Path, there: Path) -> None:
    """Return when the tree *there*, on a mount by key, is the one *here*.

    What the kernel remembers is taken back a moment after a version is shown, on a busy machine a
    long one; what stays for seconds is wrong.

    Raises:
      Violation: they stay different.
    """
    end = time.monotonic() + EQUAL_SECONDS
    while found := sample_tree.differences(here, there):
        if time.monotonic() > end:
            raise Violation("the reader's tree: " + "\n".join(found[:10]))
        print("late:", found[0], flush=True)
        time.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps(trio.run(_heads, sys.argv[1], sys.argv[2], [int(n) for n in sys.argv[3:]])))
