"""Hashes, keys and ciphers against the reference's vectors."""

from __future__ import annotations

import pytest

from corestore import crypto
from corestore.replication.messages import capability
from tests.support.vectors import load, unhex

VECTORS = load("crypto")
STREAM = load("secret-stream")
KEY = bytes(range(32))


def test_namespaces_match_the_reference():
    for name, values in VECTORS["namespaces"].items():
        for index, value in enumerate(values):
            assert crypto.namespace(name, index).hex() == value


@pytest.mark.parametrize("vector", VECTORS["blake2b"])
def test_hashes_match_the_reference(vector):
    assert crypto.hash_bytes(unhex(vector["in"])).hex() == vector["out"]


@pytest.mark.parametrize("vector", VECTORS["blake2bKeyed"])
def test_keyed_hashes_match_the_reference(vector):
    assert crypto.keyed_hash(unhex(vector["key"]), unhex(vector["in"])).hex() == vector["out"]


@pytest.mark.parametrize("vector", VECTORS["leaf"])
def test_leaves_match_the_reference(vector):
    data = unhex(vector["data"])
    assert crypto.leaf_hash(data).hex() == crypto.leaf_hash(memoryview(data)).hex()
    assert crypto.leaf_hash(data).hex() == vector["hash"]


@pytest.mark.parametrize("vector", VECTORS["parent"])
def test_parents_match_the_reference(vector):
    left, right = (unhex(vector[side]["hash"]) for side in ("left", "right"))
    assert crypto.parent_hash(vector["size"], left, right).hex() == vector["hash"]


@pytest.mark.parametrize("vector", VECTORS["capability"])
def test_capabilities_match_the_reference(vector):
    shown = capability(
        unhex(vector["key"]), unhex(vector["handshakeHash"]), initiator=vector["isInitiator"]
    )
    assert shown.hex() == vector["capability"]


def test_the_shared_secret_matches_the_reference():
    dh = STREAM["dh"]
    shared = crypto.diffie_hellman(unhex(dh["secretKey"]), unhex(dh["publicKey"]))
    assert shared.hex() == dh["shared"]


@pytest.mark.parametrize("point", [b"", b"\x01" + bytes(31), b"\xff" * 32, bytes(33)])
def test_what_is_no_point_has_no_shared_secret(point):
    with pytest.raises(crypto.DecryptionError):
        crypto.diffie_hellman(unhex(STREAM["dh"]["secretKey"]), point)


def test_any_bytes_are_a_wrong_signature():
    public, secret = crypto.key_pair_from_seed(KEY)
    signature = crypto.sign(secret, b"message")
    assert crypto.verify(public, b"message", signature)
    for wrong in (b"", signature[:-1], signature + b"x", bytes(64), signature[::-1]):
        assert not crypto.verify(public, b"message", wrong)
    assert not crypto.verify(public, b"another", signature)
    assert not crypto.verify(b"", b"message", signature)


@pytest.mark.parametrize("cipher", [b"", bytes(15), bytes(16), bytes(40)])
def test_a_sealed_message_opens_only_as_it_was(cipher):
    sealed = crypto.aead_encrypt(KEY, 3, b"plain", b"associated")
    assert crypto.aead_decrypt(KEY, 3, sealed, b"associated") == b"plain"
    for key, counter, associated in ((KEY, 4, b"associated"), (KEY, 3, b""), (KEY[::-1], 3, b"")):
        with pytest.raises(crypto.DecryptionError):
            crypto.aead_decrypt(key, counter, sealed, associated)
    with pytest.raises(crypto.DecryptionError):
        crypto.aead_decrypt(KEY, 3, cipher, b"associated")


def decrypted(pull, cipher):
    return pull.pull_in_place(memoryview(bytearray(cipher)))


@pytest.mark.parametrize("size", [0, 1, 17, 65536, 131072, 131073, 1 << 20])
def test_streams_carry_messages_of_every_size_in_order(size):
    push = crypto.SecretstreamPush(KEY)
    pull = crypto.SecretstreamPull(KEY, push.header)
    plain = bytes([5]) * size
    first = push.push(plain, prefix=b"abc")
    assert first[:3] == b"abc"
    assert len(first) == 3 + size + crypto.SECRETSTREAM_OVERHEAD
    second = push.push(memoryview(plain))
    assert decrypted(pull, first[3:]) == plain
    assert decrypted(pull, second) == plain


def test_a_stream_refuses_messages_out_of_order_and_goes_on_after():
    push = crypto.SecretstreamPush(KEY)
    pull = crypto.SecretstreamPull(KEY, push.header)
    first, second = push.push(b"first"), push.push(b"second")
    for wrong in (second, b"", bytes(16), bytes(17), first + b"x"):
        with pytest.raises(crypto.DecryptionError):
            decrypted(pull, wrong)
    assert decrypted(pull, first) == b"first"
    assert decrypted(pull, second) == b"second"


@pytest.mark.parametrize(("key", "header"), [(KEY[:-1], bytes(24)), (KEY, bytes(23))])
def test_streams_need_keys_and_headers_of_the_right_size(key, header):
    with pytest.raises(ValueError, match="has"):
        crypto.SecretstreamPull(key, header)
    with pytest.raises(ValueError, match="has"):
        crypto.SecretstreamPush.from_header(key, header)
