"""What users type to name drives, and what is refused with which words."""

from __future__ import annotations

import pytest

from corestore import Key
from hyperfs.cli.address import Address, AddressError, parse, parse_endpoint, parse_name

KEY = Key(bytes(range(32)))
SECRET = Key(bytes(range(1, 33)))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("photos", Address(name="photos")),
        ("photos:", Address(name="photos")),
        ("photos:/2026/a b", Address(name="photos", path=b"/2026/a b")),
        ("photos:/a:b", Address(name="photos", path=b"/a:b")),
        ("photos://a", Address(name="photos", path=b"//a")),
        ("photos:/caf\udce9", Address(name="photos", path=b"/caf\xe9")),
        (str(KEY), Address(key=KEY)),
        (str(KEY).upper(), Address(key=KEY)),
        (KEY.hex(), Address(key=KEY)),
        (f"{KEY}:/x", Address(key=KEY, path=b"/x")),
        ("photos+12", Address(name="photos", version=12)),
        ("photos+12:/a+b", Address(name="photos", version=12, path=b"/a+b")),
        (f"{KEY}+12:/x", Address(key=KEY, version=12, path=b"/x")),
        (f"{KEY}+12#{SECRET}", Address(key=KEY, version=12, encryption_key=SECRET)),
        (f"hyper://{KEY}", Address(key=KEY)),
        (f"hyper://{KEY}/x/y", Address(key=KEY, path=b"/x/y")),
        (f"hyper://{KEY}+12/x", Address(key=KEY, version=12, path=b"/x")),
        (f"pear://{KEY}", Address(key=KEY)),
        (f"HYPER://{KEY}", Address(key=KEY)),
        (f"hyper://{KEY}:", Address(key=KEY)),
        (f"hyper://{KEY}:/x", Address(key=KEY, path=b"/x")),
        (f"hyper://{KEY}#{SECRET}", Address(key=KEY, encryption_key=SECRET)),
        (f"hyper://{KEY}#{SECRET}/x#y", Address(key=KEY, path=b"/x#y", encryption_key=SECRET)),
        (f"hyper://{KEY}#{SECRET}:/x", Address(key=KEY, path=b"/x", encryption_key=SECRET)),
        (f"hyper://{KEY}+12#{SECRET}/", Address(key=KEY, version=12, encryption_key=SECRET)),
        (f"{KEY}#{SECRET.hex()}:/x", Address(key=KEY, path=b"/x", encryption_key=SECRET)),
    ],
)
def test_drives_are_named_in_these_ways(text, address):
    assert parse(text) == address


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (str(KEY)[:-1], "this has 51"),
        (str(KEY) + "y", "this has 53"),
        ("l" + str(KEY)[1:], "no character 'l'"),
        (str(KEY)[:-1] + "9", "last character"),
        ("g" * 64, "hexadecimal"),
        ("hyperfs-secret-" + str(KEY), "secret, not a key"),
        (f"hyper://{KEY}+one", "must be a number"),
        ("photos+one:/", "must be a number"),
        ("hyper://abc", "this has 3"),
        (f"hyper://{KEY}#", "this has 0"),
        (f"{KEY}#{SECRET}y", "this has 53"),
        ("", "cannot be a drive's name"),
        ("a b", "cannot be a drive's name"),
        ("..", "cannot be a drive's name"),
        ("photos:2026", "photos:/2026"),
        ("photos/2026/a:b", "photos:/2026/a"),
        (f"{KEY}/2026", f"{KEY}:/2026"),
        ("/home/ann/photos", "names no drive"),
        ("./photos", "names no drive"),
        ("HYPERFS-SECRET-" + str(KEY), "secret, not a key"),
        ("hyper://hyperfs-secret-" + str(KEY), "secret, not a key"),
        ("https://example.org/", "names no drive"),
    ],
)
def test_what_cannot_be_a_drive_is_refused_with_the_reason(text, told):
    with pytest.raises(AddressError, match=told):
        parse(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (str(KEY), "the name a drive has"),
        (f"hyper://{KEY}", "the name a drive has"),
        ("hyperfs-secret-" + str(KEY), "secret, not a key"),
        ("hyper://hyperfs-secret-" + str(KEY), "secret, not a key"),
        ("photos/x", "cannot be a drive's name"),
        ("x" * 41, "cannot be a drive's name"),
    ],
)
def test_what_cannot_be_a_name_is_refused_with_the_reason(text, told):
    with pytest.raises(AddressError, match=told):
        parse_name(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (":0", ("127.0.0.1", 0)),
        ("127.0.0.1:4000", ("127.0.0.1", 4000)),
        ("host.example:1", ("host.example", 1)),
        ("[::1]:4000", ("::1", 4000)),
    ],
)
def test_endpoints_are_host_and_port(text, endpoint):
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize("text", ["", "4000", "host", "host:", "host:-1", "host:65536", "host:x"])
def test_what_is_no_endpoint_is_refused(text):
    with pytest.raises(AddressError, match="HOST:PORT"):
        parse_endpoint(text)
