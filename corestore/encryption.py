"""Optional encryption of blocks, invisible to those who only replicate them.

A stored block is 8 bytes of padding and the encrypted block. The padding is the fork, encrypted
under the block's index; it is also part of the nonce, so that a block written again after a
truncation meets another key stream. There is no tag: the Merkle tree authenticates what is stored.
Whoever replicates needs no key, and nothing on the wire says that a core is encrypted.

The cipher is XSalsa20. libsodium's own is used where it can be reached; else its secretbox, which
is the same stream from byte 32 on, with the 32 bytes before computed here.

Format: hypercore 11.37.1, block encryption version 0.
"""

from __future__ import annotations

from typing import Final

from corestore import crypto
from corestore.errors import DecodeError

PADDING_BYTES: Final = 8
BLOCK_KEY_BYTES: Final = 32


class BlockCipher:
    """Encrypts and decrypts the blocks of one core, by its block key."""

    __slots__ = ("_blinding_key", "_block_key")

    def __init__(self, block_key: bytes) -> None:
        """Raises ValueError unless the key has 32 bytes."""
        if len(block_key) != BLOCK_KEY_BYTES:
            raise ValueError(f"a block key has {BLOCK_KEY_BYTES} bytes, this has {len(block_key)}")
        self._block_key = block_key
        self._blinding_key = crypto.hash_bytes(block_key)

    @classmethod
    def of_core(cls, encryption_key: bytes, key: bytes, *, compat: bool = False) -> BlockCipher:
        """The cipher of the core *key*. One encryption key may serve many cores.

        Args:
          compat: the core is one from before manifests.
        """
        return cls(block_key(encryption_key, key, compat=compat))

    def encrypt(self, index: int, fork: int, block: bytes) -> bytes:
        """What to store for block *index*: 8 bytes more than *block*.

        A second block at the same index and fork would be under the same key stream, so never
        encrypt one: that is what forks are for.
        """
        start = index.to_bytes(8, "little")
        padding = xsalsa20_xor(self._blinding_key, start + bytes(16), fork.to_bytes(8, "little"))
        return padding + xsalsa20_xor(self._block_key, start + padding + bytes(8), bytes(block))

    def fork(self, index: int, stored: bytes) -> int:
        """The fork on which block *index* was encrypted; with a wrong key any number of 64 bits.

        So a number above the core's fork tells that the key is not this core's.

        Raises:
          DecodeError: it is too short to be an encrypted block.
        """
        if len(stored) < PADDING_BYTES:
            raise DecodeError("encrypted block")
        nonce = index.to_bytes(8, "little") + bytes(16)
        padding = bytes(stored[:PADDING_BYTES])
        return int.from_bytes(xsalsa20_xor(self._blinding_key, nonce, padding), "little")

    def decrypt(self, index: int, stored: bytes) -> bytes:
        """Undo `encrypt`. With a wrong key this gives wrong bytes, not an error.

        Raises:
          DecodeError: it is too short to be an encrypted block.
        """
        if len(stored) < PADDING_BYTES:
            raise DecodeError("encrypted block")
        padding = bytes(stored[:PADDING_BYTES])
        nonce = index.to_bytes(8, "little") + padding + bytes(8)
        return xsalsa20_xor(self._block_key, nonce, bytes(stored[PADDING_BYTES:]))


def block_key(encryption_key: bytes, key: bytes, *, compat: bool = False) -> bytes:
    """The key that the blocks of the core *key* are encrypted with."""
    if compat:
        return crypto.keyed_hash(key, encryption_key)
    return crypto.hash_bytes(crypto.DEFAULT_ENCRYPTION, key, encryption_key)


# -- the cipher ----------------------------------------------------------------------------------

_MASK: Final = 0xFFFFFFFF
# "expand 32-byte k" as four words, at the diagonal of Salsa20's state.
_DIAGONAL: Final = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)
# The four words that each quarter of a double round works on: columns, then rows.
_QUARTERS: Final = (
    (0, 4, 8, 12),
    (5, 9, 13, 1),
    (10, 14, 2, 6),
    (15, 3, 7, 11),
    (0, 1, 2, 3),
    (5, 6, 7, 4),
    (10, 11, 8, 9),
    (15, 12, 13, 14),
)


def portable_xsalsa20_xor(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """XSalsa20 without libsodium's symbol for it: 0.1 ms slower a block, and no slower a byte."""
    skipped = crypto.SECRETBOX_SKIPPED
    stream = _first_bytes(key, nonce)
    first = bytes(a ^ b for a, b in zip(data[:skipped], stream, strict=False))
    if len(data) <= skipped:
        return first
    return first + crypto.secretbox_xor(key, nonce, data[skipped:])


xsalsa20_xor: Final = crypto.load_xsalsa20() or portable_xsalsa20_xor


def _first_bytes(key: bytes, nonce: bytes) -> bytes:
    """The first 64 bytes of the XSalsa20 stream."""
    # HSalsa20: the rounds over key and half of the nonce, without the final addition, give the
    # key for Salsa20 under the other half and a block counter of 0.
    words = _rounds(_state(key, nonce[:16]))
    derived = b"".join(words[i].to_bytes(4, "little") for i in (0, 5, 10, 15, 6, 7, 8, 9))
    state = _state(derived, nonce[16:] + bytes(8))
    mixed = _rounds(state)
    return b"".join(
        (a + b & _MASK).to_bytes(4, "little") for a, b in zip(mixed, state, strict=True)
    )


def _state(key: bytes, middle: bytes) -> list[int]:
    """Salsa20's 16 words: constants, key, and 16 bytes of nonce and counter."""
    a = [int.from_bytes(key[i : i + 4], "little") for i in range(0, 32, 4)]
    b = [int.from_bytes(middle[i : i + 4], "little") for i in range(0, 16, 4)]
    c = _DIAGONAL
    return [c[0], *a[:4], c[1], *b, c[2], *a[4:], c[3]]


def _rounds(state: list[int]) -> list[int]:
    """Salsa20's twenty rounds."""
    x = list(state)
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            x[b] ^= _rotated(x[a] + x[d], 7)
            x[c] ^= _rotated(x[b] + x[a], 9)
            x[d] ^= _rotated(x[c] + x[b], 13)
            x[a] ^= _rotated(x[d] + x[c], 18)
    return x


def _rotated(value: int, by: int) -> int:
    value &= _MASK
    return (value << by | value >> (32 - by)) & _MASK
