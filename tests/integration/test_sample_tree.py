"""The tree that tests and the demo copy is as odd as it says, and its comparison sees every kind
of difference."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tools import sample_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    top = tmp_path_factory.mktemp("sample") / "tree"
    sample_tree.make(top, large_bytes=1 << 20)
    return top


def test_it_has_thousands_of_names(tree):
    assert len(list(sample_tree.walk(tree))) > 1000


def test_a_copy_is_equal(tree, tmp_path):
    subprocess.run(["cp", "-a", tree, tmp_path / "copy"], check=True)
    assert sample_tree.differences(tree, tmp_path / "copy") == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda odd: (odd / "run.sh").chmod(0o700), "mode"),
        (lambda odd: os.utime(odd / "secret", ns=(0, 5)), "mtime"),
        (lambda odd: (odd / "empty folder").rmdir(), "only in"),
        (lambda odd: (odd / "new").touch(), "only in"),
        (lambda odd: _flip_last_byte(odd / "size 65537"), "content"),
        (lambda odd: _retarget(odd / "dangling"), "target"),
    ],
)
def test_every_kind_of_difference_is_seen(tree, tmp_path, change, told):
    copy = tmp_path / "odd"
    subprocess.run(["cp", "-a", tree / "odd", copy], check=True)
    change(copy)
    # A change in the folder may change the folder's time, which is told as well.
    assert any(told in line for line in sample_tree.differences(tree / "odd", copy))
    shutil.rmtree(copy)


def _flip_last_byte(path):
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _retarget(path):
    path.unlink()
    path.symlink_to("elsewhere")
