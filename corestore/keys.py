"""Keys: what names a core, what lets one find it, and what lets one write it.

A `Key` is the read capability of a core and verifies everything in it; its `DiscoveryKey` only
names the core to strangers. As text a key is z-base-32 (52 characters) or 64 hexadecimal digits.

Format: hypercore-id-encoding, hypercore-crypto 3.7.0, corestore 7.12.5 (derivation).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from corestore import crypto

Z32_ALPHABET: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
Z32_KEY_LENGTH: Final = 52
ROOT_NAMESPACE: Final = bytes(32)

_Z32_VALUES: Final = {char: value for value, char in enumerate(Z32_ALPHABET)}
# 52 characters carry 260 bits, a key has 256: the last four must be zero.
_Z32_PADDING_BITS: Final = 4


def z32_encode(data: bytes) -> str:
    """z-base-32 of 32 bytes, most significant bit first, without padding characters."""
    number = int.from_bytes(data, "big") << _Z32_PADDING_BITS
    return "".join(Z32_ALPHABET[number >> shift & 31] for shift in range(255, -1, -5))


def z32_decode(text: str) -> bytes:
    """Undo `z32_encode`.

    Raises:
      ValueError: wrong length, a character outside the alphabet, or padding bits that are set.
    """
    if len(text) != Z32_KEY_LENGTH:
        raise ValueError(f"a key has {Z32_KEY_LENGTH} characters, this has {len(text)}")
    number = 0
    for char in text:
        value = _Z32_VALUES.get(char)
        if value is None:
            raise ValueError(f"a key has no character {char!r}")
        number = number << 5 | value
    if number & (1 << _Z32_PADDING_BITS) - 1:
        raise ValueError("the last character of this key is not one a key can end with")
    return (number >> _Z32_PADDING_BITS).to_bytes(32, "big")


class DiscoveryKey(bytes):
    """32 bytes that name a core to strangers: enough to find it, not to read it."""

    def __new__(cls, value: bytes) -> DiscoveryKey:
        if len(value) != 32:
            raise ValueError(f"a discovery key has 32 bytes, this has {len(value)}")
        return super().__new__(cls, value)

    def __str__(self) -> str:
        return z32_encode(self)

    def __repr__(self) -> str:
        return f"DiscoveryKey({z32_encode(self)!r})"


class Key(bytes):
    """32 bytes that name a core and verify it: whoever holds them can read it."""

    def __new__(cls, value: bytes) -> Key:
        if len(value) != 32:
            raise ValueError(f"a key has 32 bytes, this has {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, value: bytes | str) -> Key:
        """A key from 32 bytes, 64 hexadecimal digits or 52 characters of z-base-32.

        Raises:
          ValueError: it is none of these; the message says what is wrong, in a user's words.
        """
        if isinstance(value, bytes):
            return cls(value)
        if len(value) == 64:
            try:
                return cls(bytes.fromhex(value))
            except ValueError:
                raise ValueError("a key of 64 characters must be hexadecimal") from None
        return cls(z32_decode(value.lower()))

    @property
    def discovery_key(self) -> DiscoveryKey:
        """What names this core to strangers."""
        return DiscoveryKey(crypto.keyed_hash(self, b"hypercore"))

    def __str__(self) -> str:
        return z32_encode(self)

    def __repr__(self) -> str:
        return f"Key({z32_encode(self)!r})"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key pair: 32 bytes of public key, 64 of secret key (never shown).

    `origin`: the namespace (32 bytes) and the name it was derived from, if it was.
    """

    public_key: bytes
    secret_key: bytes = field(repr=False)
    origin: tuple[bytes, bytes] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The pair of a 32-byte seed."""
        return cls(*crypto.key_pair_from_seed(seed))

    @classmethod
    def generate(cls) -> KeyPair:
        """A new random pair."""
        return cls.from_seed(crypto.random_bytes(crypto.SEED_BYTES))

    def sign(self, message: bytes) -> bytes:
        """The detached 64-byte signature of *message*."""
        return crypto.sign(self.secret_key, message)


def derive_namespace(parent: bytes, name: str | bytes) -> bytes:
    """The 32-byte namespace called *name* inside *parent* (`ROOT_NAMESPACE` for a store's own)."""
    return crypto.hash_bytes(parent, name.encode() if isinstance(name, str) else name)


def derive_key_pair(primary_key: bytes, namespace: bytes, name: str | bytes) -> KeyPair:
    """The key pair called *name* in *namespace* of the store whose primary key this is."""
    encoded = name.encode() if isinstance(name, str) else name
    seed = crypto.keyed_hash(primary_key, crypto.CORESTORE, namespace, encoded)
    return replace(KeyPair.from_seed(seed), origin=(namespace, encoded))
