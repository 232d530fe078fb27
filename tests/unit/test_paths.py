"""Byte-string paths: normal form, parts, and what is refused."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperfs import paths

NORMAL = [
    ("", b"/"),
    ("/", b"/"),
    ("//", b"/"),
    (".", b"/"),
    ("..", b"/"),
    ("a", b"/a"),
    ("/a/", b"/a"),
    ("a//b/./c", b"/a/b/c"),
    ("/a/../b", b"/b"),
    ("/../../a", b"/a"),
    ("/a/b/..", b"/a"),
    ("é", b"/\xc3\xa9"),
    ("\udcff", b"/\xff"),
    (b"\xff/\xfe", b"/\xff/\xfe"),
    ("/...", b"/..."),
]


@pytest.mark.parametrize(("path", "expected"), NORMAL)
def test_normal_forms_have_single_slashes_and_no_dots(path, expected):
    assert paths.normalise(path) == expected
    assert paths.normalise(expected) == expected


@given(st.binary(max_size=40).filter(lambda path: b"\0" not in path))
def test_bytes_survive_as_text(path):
    assert paths.as_bytes(paths.as_text(path)) == path
    assert paths.normalise(paths.as_text(path)) == paths.normalise(path)


@given(st.lists(st.sampled_from([b"a", b"bc", b".", b"..", b"", b"d"]), max_size=8))
def test_a_path_is_its_parent_and_its_name(names):
    path = paths.normalise(b"/".join(names))
    assert paths.join(paths.parent(path), paths.basename(path)) == path


def test_joining_never_starts_over():
    assert paths.join("/a", "/b", b"c") == b"/a/b/c"


def test_nul_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        paths.split("a\0b")


def test_a_name_of_more_than_255_bytes_is_refused():
    assert paths.split("x" * 255) == (b"x" * 255,)
    with pytest.raises(OSError, match="too long") as caught:
        paths.split("a/" + "x" * 256)
    assert caught.value.errno == errno.ENAMETOOLONG
