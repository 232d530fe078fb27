"""How a bench says what it measured: one JSON line a figure."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

MIB = 1 << 20


def report(name: str, value: float, unit: str) -> None:
    """One figure."""
    print(json.dumps({"name": name, "value": value, "unit": unit}), flush=True)


def arguments() -> tuple[Path, int]:
    """(empty folder to work in, size of a large run in bytes)."""
    return Path(sys.argv[1]), int(sys.argv[2]) * MIB


def incompressible(size: int) -> bytes:
    """*size* random bytes; the same block is never made twice in a run."""
    return os.urandom(size)


def peak_memory(process: int | str) -> int:
    """The most bytes of memory a process ever had, by its id or "self"."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) << 10
    raise ValueError(f"process {process} has no memory")
