"""Make a directory tree like those people have, and compare two trees.

The tree holds real files of this machine (thousands, of every size) and what real trees surprise
programs with: deep folders, symbolic links (dangling ones too), empty files and
folders, executables, names in UTF-8 with spaces and one that is not UTF-8, a sparse file, odd
modes and times, and one large file of incompressible bytes.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
NOT_UTF8 = b"caf\xe9 \xff.txt"
SPARSE_BYTES = 64 * MIB
# Larger ones are somebody's model or debugger; one large file is made on purpose.
LARGEST_REAL_FILE = 8 * MIB
# Whole seconds hide a lost nanosecond field; these do not.
ODD_TIMES = (1, 1_000_000_001, 1_234_567_890_123_456_789, 4_102_444_800_999_999_999)


@dataclass(frozen=True, slots=True)
class Made:
    """What `make` made: how many names of any type, and how many bytes of content."""

    names: int
    bytes: int


def make(top: Path, *, large_bytes: int = 256 * MIB, real_names: int = 1_000) -> Made:
    """Fill the new directory *top*, with about *real_names* real files and folders."""
    top.mkdir(parents=True)
    _copy_real(top / "real", real_names)
    _make_odd(top / "odd")
    _make_large(top / "large.bin", large_bytes)
    _set_folder_times(top)
    entries = list(walk(top))
    return Made(len(entries), sum(s.st_size for _, s in entries if stat.S_ISREG(s.st_mode)))


def _copy_real(target: Path, names: int) -> None:
    """Files and folders that every machine has, until there are enough of them."""
    for source in (
        Path(sysconfig.get_path("stdlib")),
        Path(sysconfig.get_path("purelib")),
        Path("/usr/share"),
        Path("/usr/include"),
        Path("/usr/lib"),
    ):
        if names > 0 and source.is_dir():
            names -= _copy_some(source, target / source.name, names)


def _copy_some(source: Path, target: Path, names: int) -> int:
    """Copy up to *names* names of a folder; how many it were."""
    target.mkdir(parents=True, exist_ok=True)
    copied = 1
    with os.scandir(source) as scan:
        entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        if copied >= names:
            break
        if entry.is_symlink():
            (target / entry.name).symlink_to(os.readlink(entry.path))
            copied += 1
        elif entry.is_dir():
            copied += _copy_some(Path(entry.path), target / entry.name, names - copied)
        elif entry.is_file() and entry.stat().st_size < LARGEST_REAL_FILE:
            shutil.copy2(entry.path, target / entry.name)
            copied += 1
    return copied


def _make_odd(top: Path) -> None:
    top.mkdir()
    deep = top.joinpath(*(f"level {n}" for n in range(40)))
    deep.mkdir(parents=True)
    (deep / "bottom.txt").write_text("forty folders down\n")
    (top / "empty file").touch()
    (top / "empty folder").mkdir()
    (top / "Grüße aus Århus 漢字 🏖.txt").write_text("UTF-8, spaces, a picture\n")
    Path(os.fsdecode(os.fsencode(top) + b"/" + NOT_UTF8)).write_text("Latin-1 name\n")
    (top / "-starts with a dash").write_text("-\n")
    (top / "line\nbreak").write_text("a name of two lines\n")
    (top / ("n" * 255)).write_text("the longest name\n")
    script = top / "run.sh"
    script.write_text("#!/bin/sh\necho it runs\n")
    script.chmod(0o755)
    secret = top / "secret"
    secret.write_text("mine\n")
    secret.chmod(0o600)
    read_only = top / "read only"
    read_only.write_text("look, don't touch\n")
    read_only.chmod(0o444)
    (top / "link to run").symlink_to("run.sh")
    (top / "link to folder").symlink_to("empty folder")
    (top / "dangling").symlink_to("nowhere/at all")
    (top / "absolute").symlink_to("/etc/hostname")
    with (top / "sparse").open("wb") as file:
        file.truncate(SPARSE_BYTES)
        file.seek(SPARSE_BYTES // 2)
        file.write(b"in the middle of nothing")
    for number, time_ns in enumerate(ODD_TIMES):
        dated = top / f"dated {number}"
        dated.write_text(f"{time_ns}\n")
        os.utime(dated, ns=(time_ns, time_ns))
    os.utime(top / "dangling", ns=(ODD_TIMES[2], ODD_TIMES[2]), follow_symlinks=False)
    # Sizes around every border of the chunker and the kernel's pages.
    for size in (1, 127, 128, 129, 4095, 4096, 4097, 16_384, 65_535, 65_536, 65_537, 300_001):
        (top / f"size {size}").write_bytes(random.Random(size).randbytes(size))


def _make_large(path: Path, size: int) -> None:
    source = random.Random(size)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(source.randbytes(min(MIB, size - start)))


def _set_folder_times(top: Path) -> None:
    for folder in (top / "odd", top / "odd" / "empty folder"):
        os.utime(folder, ns=(ODD_TIMES[2], ODD_TIMES[2]))


def walk(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every name below *top* with its lstat, in name order, folders before what is in them."""
    with os.scandir(top) as scan:
        entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        path = top / entry.name
        yield path, os.lstat(path)
        if entry.is_dir(follow_symlinks=False):
            yield from walk(path)


def differences(left: Path, right: Path) -> list[str]:
    """What differs between two trees: names, types, modes, mtimes in ns, targets, contents."""
    ours = {path.relative_to(left): found for path, found in walk(left)}
    theirs = {path.relative_to(right): found for path, found in walk(right)}
    found = [f"only in {left}: {path}" for path in sorted(ours.keys() - theirs.keys())]
    found += [f"only in {right}: {path}" for path in sorted(theirs.keys() - ours.keys())]
    for path in sorted(ours.keys() & theirs.keys()):
        found += _entry_differences(path, left / path, ours[path], right / path, theirs[path])
    return found


def _entry_differences(
    name: Path, left: Path, ours: os.stat_result, right: Path, theirs: os.stat_result
) -> list[str]:
    if ours.st_mode != theirs.st_mode:
        return [f"{name}: mode {ours.st_mode:o} and {theirs.st_mode:o}"]
    found = []
    if ours.st_mtime_ns != theirs.st_mtime_ns:
        found.append(f"{name}: mtime {ours.st_mtime_ns} and {theirs.st_mtime_ns}")
    if stat.S_ISLNK(ours.st_mode) and os.readlink(left) != os.readlink(right):
        found.append(f"{name}: target {os.readlink(left)!r} and {os.readlink(right)!r}")
    if stat.S_ISREG(ours.st_mode):
        if ours.st_size != theirs.st_size:
            found.append(f"{name}: size {ours.st_size} and {theirs.st_size}")
        elif not _same_content(left, right):
            found.append(f"{name}: content")
    return found


def _same_content(left: Path, right: Path) -> bool:
    with left.open("rb") as ours, right.open("rb") as theirs:
        while True:
            one, other = ours.read(MIB), theirs.read(MIB)
            if one != other:
                return False
            if not one:
                return True


def main() -> None:
    """`sample_tree.py DIR [LARGE_MIB]` makes a tree there."""
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    made = make(Path(sys.argv[1]), large_bytes=size * MIB)
    print(f"{made.names} names, {made.bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
