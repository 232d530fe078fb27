"""The link of a drive, as it is printed and as it comes back."""

from __future__ import annotations

import pytest

from corestore import Key
from hyperfs import DriveLink

KEY = Key(bytes(range(32)))
SECRET = bytes(range(1, 33))
PLAIN = DriveLink(KEY)
ENCRYPTED = DriveLink(KEY, SECRET)


@pytest.mark.parametrize(
    ("value", "link"),
    [
        (PLAIN, PLAIN),
        (ENCRYPTED, ENCRYPTED),
        (KEY, PLAIN),
        (bytes(KEY), PLAIN),
        (str(KEY), PLAIN),
        (KEY.hex(), PLAIN),
        (f"hyper://{KEY}", PLAIN),
        (f"pear://{KEY}", PLAIN),
        (f"hyper://{KEY}#{Key(SECRET)}", ENCRYPTED),
        (f"{KEY}#{Key(SECRET)}", ENCRYPTED),
        (f"{KEY.hex()}#{SECRET.hex()}", ENCRYPTED),
    ],
)
def test_a_drive_is_linked_in_these_ways(value, link):
    assert DriveLink.parse(value) == link


@pytest.mark.parametrize("link", [PLAIN, ENCRYPTED])
def test_a_link_reads_back(link):
    assert str(link).startswith("hyper://")
    assert DriveLink.parse(str(link)) == link


@pytest.mark.parametrize("text", ["", f"{KEY}#", f"{KEY}#abc", f"#{KEY}", f"{KEY}/x", "hyper://"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError):
        DriveLink.parse(text)


@pytest.mark.parametrize("value", [None, 5, bytearray(32), DriveLink])
def test_what_is_neither_text_nor_key_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"a key or link is no \w+"):
        DriveLink.parse(value)


def test_the_secret_is_not_shown_by_accident():
    assert "encryption_key" not in repr(ENCRYPTED)
