"""Rounds in which something is made to fail, and how they are run: shared by `crash_*.py`.

A *world* is made in a folder of its own, plays some rounds, and leaves no process and no mount. A
round that finds what must never happen raises; the world's folder is then left to look at.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

W = TypeVar("W")


class Violation(Exception):
    """Something that must never happen; the message has all of it."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has, a moment ago; none that the kernel gives to who dials, and
    who is killed may find gone when it comes back."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = random.randrange(10_000, 32_768)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found


def arguments(description: str, *, rounds: int) -> argparse.ArgumentParser:
    """The options that all have: `run` takes what they parse to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all rounds together")
    parser.add_argument("--keep", type=Path, help="where the worlds are; default: a new folder")
    return parser


def run(
    options: argparse.Namespace,
    world: Callable[[Path, random.Random], AbstractContextManager[W]],
    play: Callable[[W, random.Random], str],
    *,
    rounds_of_a_world: int,
    settle: Callable[[W], None] = lambda made: None,
) -> None:
    """Rounds in as many worlds as it takes; *play* returns a line about one, which is printed.
    *settle* is called at the end of each world. A violation ends the program with exit code 1."""
    top = options.keep or Path(tempfile.mkdtemp(prefix="hyperfs-crash-"))
    top.mkdir(exist_ok=True)
    print(f"seed {options.seed}, in {top}", flush=True)
    source = random.Random(options.seed)
    end = time.monotonic() + options.seconds
    done = worlds = 0
    try:
        while done < options.rounds and time.monotonic() < end:
            folder = top / f"world-{worlds}"
            folder.mkdir()
            worlds += 1
            with world(folder, source) as made:
                for _ in range(rounds_of_a_world):
                    if done == options.rounds or time.monotonic() > end:
                        break
                    try:
                        told = play(made, source)
                    except Exception as error:
                        raise Violation(f"round {done} in {folder}: {error!r}") from error
                    done += 1
                    print(f"{done:4} {told}", flush=True)
                settle(made)
            shutil.rmtree(folder)
    except Violation as violation:
        print(f"VIOLATION, seed {options.seed}: {violation}")
        sys.exit(1)
    top.rmdir()
    print(f"{done} rounds, nothing lost")
