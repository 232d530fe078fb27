"""Keys: text forms, and derivation as the reference does it."""

from __future__ import annotations

import pytest

from corestore import keys
from tests.support.vectors import load, unhex


@pytest.mark.parametrize("vector", load("crypto")["discoveryKeys"])
def test_discovery_key_matches_the_reference(vector):
    assert keys.Key(unhex(vector["key"])).discovery_key == unhex(vector["discoveryKey"])


@pytest.mark.parametrize("vector", load("crypto")["discoveryKeys"])
def test_text_of_a_key_reads_back(vector):
    key = keys.Key(unhex(vector["key"]))
    assert keys.Key.parse(str(key)) == key
    assert keys.Key.parse(key.hex()) == key
    assert keys.Key.parse(bytes(key)) == key


def test_z32_matches_the_reference():
    vectors = load("crypto")["discoveryKeys"]
    for vector in vectors:
        encoded = {keys.z32_encode(unhex(vector[name])) for name in ("key", "discoveryKey")}
        assert vector["id"] in encoded


@pytest.mark.parametrize("vector", load("corestore")["vectors"])
def test_key_pair_of_a_name_matches_the_reference(vector):
    namespace = keys.ROOT_NAMESPACE
    for name in vector["namespaces"]:
        namespace = keys.derive_namespace(namespace, name)
    assert namespace == unhex(vector["namespace"])
    pair = keys.derive_key_pair(unhex(vector["primaryKey"]), namespace, vector["name"])
    assert pair.public_key == unhex(vector["publicKey"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "52 characters"),
        ("y" * 51, "52 characters"),
        ("y" * 53, "52 characters"),
        ("y" * 51 + "l", "no character"),
        ("y" * 51 + "b", "last character"),
        ("g" * 64 + "", "hexadecimal"),
        ("z" * 64, "hexadecimal"),
    ],
)
def test_wrong_text_is_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=message):
        keys.Key.parse(text)


def test_secret_keys_are_not_shown():
    pair = keys.KeyPair.generate()
    assert pair.secret_key.hex() not in repr(pair)
    assert repr(pair.secret_key) not in repr(pair)
