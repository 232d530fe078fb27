"""What the mount is measured against: a file system in memory, libfuse's passthrough in C.

Each is a context manager that mounts below a folder and gives the mount point.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP: Final = Path(__file__).parent.parent.parent
# Of Debian's package libfuse3-dev.
EXAMPLES: Final = Path("/usr/share/doc/libfuse3-dev/examples")
_READY_SECONDS: Final = 10.0


@contextmanager
def memory(folder: Path, *more: str) -> Iterator[Path]:
    """`tools.bench.memfs`, with *more* on its command line."""
    point = folder / "-".join(["memory", *(word.strip("-") for word in more)])
    point.mkdir()
    command = [sys.executable, "-m", "tools.bench.memfs", str(point), *more]
    process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield point
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def passthrough(folder: Path) -> Iterator[Path | None]:
    """libfuse's example passthrough_ll on a folder of the disk, the kernel trusting it for as long
    as it does us; None where it cannot be built."""
    program = _build(folder / "passthrough_ll")
    if program is None:
        yield None
        return
    source, point = folder / "passthrough-source", folder / "passthrough"
    source.mkdir()
    point.mkdir()
    options = f"source={source},cache=always,timeout=3600"
    command = [str(program), "-f", "-o", options, str(point)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _READY_SECONDS
        while not os.path.ismount(point):
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError("passthrough_ll does not mount")
            time.sleep(0.01)
        yield point
    finally:
        process.terminate()
        process.wait()
        subprocess.run(["fusermount3", "-uzq", point], check=False)


def _build(program: Path) -> Path | None:
    """The example, compiled; None, and a line that says why, if that does not work."""
    try:
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "fuse3"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        source = str(EXAMPLES / "passthrough_ll.c")
        words = ["cc", "-O2", "-D_FILE_OFFSET_BITS=64", "-w", source, "-o", str(program)]
        subprocess.run([*words, *shlex.split(flags)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no passthrough in C: {error} (apt install libfuse3-dev pkg-config gcc)")
        return None
    return program
