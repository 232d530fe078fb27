"""Random operations on a mount and on a plain directory: same results, same errors, same tree."""

from __future__ import annotations

import contextlib
import os
import random
import stat

import pytest

from tests.support.mounts import mounted

pytestmark = pytest.mark.fuse

NAMES = [b"a", b"b", b"c", b"d\xff", b"e e"]


class Both:
    """One sequence of operations, done in two places."""

    def __init__(self, seed, mount, plain) -> None:
        self.rng = random.Random(seed)
        self.tops = [os.fsencode(mount), os.fsencode(plain)]
        self.open = {}

    def path(self):
        return b"/".join(self.rng.choice(NAMES) for _ in range(self.rng.randint(1, 3)))

    def do(self, function):
        """Call *function* with each top; the outcomes, errors as their errno, must be equal."""
        found = []
        for place, top in enumerate(self.tops):
            try:
                found.append(function(top, place))
            except OSError as error:
                found.append(("error", error.errno))
        assert found[0] == found[1]
        return found[0]

    def step(self):
        action = self.rng.choice(ACTIONS)
        action(self)

    def close_all(self):
        for files in self.open.values():
            for descriptor in files:
                os.close(descriptor)
        self.open.clear()


def at(top, path):
    return os.path.join(top, path)


def write_whole(both):
    path, data = both.path(), both.rng.randbytes(both.rng.choice([0, 10, 200, 5000, 70_000]))

    def do(top, _):
        with open(at(top, path), "wb") as file:
            file.write(data)

    both.do(do)


def open_file(both):
    path, key = both.path(), both.rng.randrange(4)
    if key in both.open:
        for descriptor in both.open.pop(key):
            os.close(descriptor)
    flags = os.O_RDWR | both.rng.choice([0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC])
    opened = [None, None]

    def do(top, place):
        opened[place] = os.open(at(top, path), flags, 0o644)

    if both.do(do) is None:
        both.open[key] = opened


def change_open(both):
    if not both.open:
        return
    files = both.open[both.rng.choice(sorted(both.open))]
    offset, data = both.rng.randrange(100_000), both.rng.randbytes(both.rng.randrange(1, 9000))
    kind = both.rng.randrange(4)

    def do(_, place):
        descriptor = files[place]
        if kind == 0:
            return os.pwrite(descriptor, data, offset)
        if kind == 1:
            return os.ftruncate(descriptor, offset)
        if kind == 2:
            return os.pread(descriptor, 20_000, offset)
        return os.fstat(descriptor).st_size, os.fstat(descriptor).st_nlink

    both.do(do)


def two_paths(function):
    def action(both):
        old, new = both.path(), both.path()
        both.do(lambda top, _: function(at(top, old), at(top, new)))

    return action


def one_path(function):
    def action(both):
        path = both.path()
        both.do(lambda top, _: function(at(top, path)))

    return action


def chmod(both):
    path, mode = both.path(), both.rng.choice([0o644, 0o755, 0o4711, 0o1777])
    both.do(lambda top, _: os.chmod(at(top, path), mode))


def utime(both):
    path, times = both.path(), (both.rng.randrange(10**18), both.rng.randrange(10**18))
    both.do(lambda top, _: os.utime(at(top, path), ns=times))


def truncate(both):
    path, size = both.path(), both.rng.randrange(50_000)
    both.do(lambda top, _: os.truncate(at(top, path), size))


def look(path):
    found = os.lstat(path)
    links = 0 if stat.S_ISDIR(found.st_mode) else found.st_nlink
    return found.st_mode, links, 0 if stat.S_ISDIR(found.st_mode) else found.st_size


ACTIONS = [
    write_whole,
    write_whole,
    open_file,
    open_file,
    change_open,
    change_open,
    change_open,
    two_paths(os.rename),
    two_paths(os.rename),
    two_paths(os.link),
    one_path(os.unlink),
    one_path(os.rmdir),
    one_path(os.mkdir),
    one_path(os.mkdir),
    one_path(lambda path: os.symlink(b"a", path)),
    one_path(look),
    one_path(lambda path: sorted(os.listdir(path))),
    chmod,
    utime,
    truncate,
]


def tree(top):
    """Everything below *top*: path to (mode, links, size, content)."""
    top = os.fsencode(top)
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            shown = look(path)
            content = None
            if stat.S_ISREG(shown[0]):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(shown[0]):
                content = os.readlink(path)
            found[path[len(top) :]] = (*shown, content)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_mount_behaves_as_a_plain_directory(tmp_path, seed):
    plain = tmp_path / "plain"
    plain.mkdir()
    for round in range(2):
        with mounted(tmp_path / "m", store=tmp_path / "store") as mount:
            assert tree(mount.path) == tree(plain)
            both = Both(seed * 10 + round, mount.path, plain)
            with contextlib.closing(contextlib.ExitStack()) as stack:
                stack.callback(both.close_all)
                for _ in range(1500):
                    both.step()
            assert tree(mount.path) == tree(plain)
    with mounted(tmp_path / "m", store=tmp_path / "store") as mount:
        assert tree(mount.path) == tree(plain)
