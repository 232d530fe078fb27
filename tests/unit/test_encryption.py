"""Block encryption against the reference, by libsodium's cipher and by the one that needs less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore import crypto, encryption
from corestore.encryption import (
    PADDING_BYTES,
    BlockCipher,
    block_key,
    portable_xsalsa20_xor,
    xsalsa20_xor,
)
from corestore.errors import DecodeError
from tests.support.vectors import load, unhex

VECTORS = load("block-encryption")["vectors"]
KEYS = st.binary(min_size=32, max_size=32)


def vector_id(vector):
    kind = "block key" if vector["isBlockKey"] else "compat" if vector["compat"] else "core"
    return f"{kind} {vector['index']}"


def cipher_of(vector) -> BlockCipher:
    encryption_key, key = unhex(vector["encryptionKey"]), unhex(vector["coreKey"])
    if vector["isBlockKey"]:
        return BlockCipher(encryption_key)
    assert block_key(encryption_key, key, compat=vector["compat"]) == unhex(vector["blockKey"])
    return BlockCipher.of_core(encryption_key, key, compat=vector["compat"])


@pytest.mark.parametrize("xor", [xsalsa20_xor, portable_xsalsa20_xor])
@pytest.mark.parametrize("vector", VECTORS, ids=vector_id)
def test_stored_blocks_match_the_reference(vector, xor, monkeypatch):
    monkeypatch.setattr(encryption, "xsalsa20_xor", xor)
    cipher = cipher_of(vector)
    plain, stored = unhex(vector["plaintext"]), unhex(vector["stored"])
    assert cipher.encrypt(vector["index"], vector["fork"], plain) == stored
    assert cipher.decrypt(vector["index"], stored) == plain
    assert cipher.fork(vector["index"], stored) == vector["fork"]
    assert BlockCipher(b"w" * 32).fork(vector["index"], stored) > 1 << 40


def test_libsodium_s_own_cipher_is_reached():
    """If this fails with a new PyNaCl, the portable cipher does the work, 0.1 ms a block slower."""
    assert xsalsa20_xor is not portable_xsalsa20_xor


@given(KEYS, st.binary(min_size=24, max_size=24), st.binary(max_size=200))
def test_both_ciphers_are_the_same(key, nonce, data):
    assert portable_xsalsa20_xor(key, nonce, data) == xsalsa20_xor(key, nonce, data)


@given(KEYS, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), st.binary(max_size=100))
def test_blocks_read_back_without_knowing_the_fork(key, index, fork, block):
    cipher = BlockCipher(key)
    stored = cipher.encrypt(index, fork, block)
    assert len(stored) == len(block) + PADDING_BYTES
    assert cipher.decrypt(index, stored) == block
    assert cipher.decrypt(index, memoryview(stored)) == block


def test_a_block_written_again_on_another_fork_meets_another_stream():
    cipher = BlockCipher(bytes(32))
    first, second = (cipher.encrypt(7, fork, bytes(64))[PADDING_BYTES:] for fork in (0, 1))
    assert first != second


def test_keys_and_nonces_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        BlockCipher(bytes(31))
    xor = crypto.load_xsalsa20()
    assert xor is not None
    with pytest.raises(ValueError, match="nonce of 24"):
        xor(bytes(32), bytes(23), b"x")


@given(st.binary(max_size=PADDING_BYTES - 1))
def test_what_is_too_short_to_be_encrypted_is_refused(stored):
    with pytest.raises(DecodeError):
        BlockCipher(bytes(32)).decrypt(0, stored)


def test_a_library_without_the_cipher_is_no_error(monkeypatch):
    monkeypatch.setattr(crypto._sodium, "__file__", "/nonexistent/library.so")
    assert crypto.load_xsalsa20() is None
