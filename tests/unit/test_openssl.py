"""Long messages through OpenSSL are those of libsodium, bit by bit."""

from __future__ import annotations

import random

import pytest
from nacl import bindings

from corestore import crypto, openssl

KEY = bytes(range(32))
SIZES = [
    openssl.LEAST_BYTES,
    *(openssl.LEAST_BYTES + n for n in (1, 15, 16, 17, 31, 63, 64, 65)),
    65536,
    65550,
    1 << 20,
]


def reference_pull(header):
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    bindings.crypto_secretstream_xchacha20poly1305_init_pull(state, header, KEY)
    return lambda data: bindings.crypto_secretstream_xchacha20poly1305_pull(state, bytes(data))


def reference_push():
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    header = bindings.crypto_secretstream_xchacha20poly1305_init_push(state, KEY)
    push = bindings.crypto_secretstream_xchacha20poly1305_push
    return header, lambda plain, tag=0: push(state, plain, tag=tag)


def messages(seed):
    rng = random.Random(seed)
    sizes = [*SIZES, 0, 1, 100, 16383 - 17, 16383]
    rng.shuffle(sizes)
    return [rng.randbytes(size) for size in sizes]


@pytest.mark.parametrize("seed", range(5))
def test_what_we_encrypt_libsodium_decrypts_long_and_short_in_turn(seed):
    push = crypto.SecretstreamPush(KEY)
    pull = reference_pull(push.header)
    for plain in messages(seed):
        assert pull(push.push(plain)) == (plain, 0)


@pytest.mark.parametrize("seed", range(5))
def test_what_libsodium_encrypts_we_decrypt_in_place(seed):
    header, push = reference_push()
    pull = crypto.SecretstreamPull(KEY, header)
    for plain in messages(seed):
        cipher = bytearray(push(plain))
        assert pull.pull_in_place(memoryview(cipher)) == plain


@pytest.mark.parametrize("tag", [1, 2, 3])
def test_other_tags_and_new_keys_are_followed(tag):
    header, push = reference_push()
    pull = crypto.SecretstreamPull(KEY, header)
    plain = bytes(65536)
    for each in (0, tag, 0, tag, 0):
        assert pull.pull(push(plain, each)) == plain


@pytest.mark.parametrize("at", [0, 1, 40000, 65536, 65537, 65552])
def test_a_changed_byte_is_noticed_and_changes_nothing(at):
    header, push = reference_push()
    pull = crypto.SecretstreamPull(KEY, header)
    plain = random.Random(1).randbytes(65536)
    first, second = bytearray(push(plain)), push(plain)
    damaged = bytearray(first)
    damaged[at] ^= 1
    before = bytes(damaged)
    with pytest.raises(crypto.DecryptionError):
        pull.pull_in_place(memoryview(damaged))
    assert damaged == before
    # The state is as it was: what was sent still decrypts.
    assert pull.pull(first) == plain
    assert pull.pull(second) == plain


def test_the_last_message_of_a_key_is_left_to_libsodium():
    push = crypto.SecretstreamPush(KEY)
    pull = crypto.SecretstreamPull(KEY, push.header)
    for state in (push._state, pull._state):
        crypto.ffi.buffer(state)[32:36] = b"\xfe\xff\xff\xff"
    plain = bytes(65536)
    for _ in range(4):
        assert pull.pull(push.push(plain)) == plain


def test_without_openssl_it_works_as_well(monkeypatch):
    push = crypto.SecretstreamPush(KEY)
    pull = crypto.SecretstreamPull(KEY, push.header)
    plain = random.Random(2).randbytes(70000)
    for available in (True, False, False, True):
        monkeypatch.setattr(openssl, "available", available)
        cipher = push.push(plain)
        monkeypatch.setattr(openssl, "available", not available)
        assert pull.pull(cipher) == plain
