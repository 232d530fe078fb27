"""The Noise handshake that begins every stream: both sides learn each other's static key.

The pattern is XX: neither side knows the other beforehand. Three messages are exchanged,

```
-> e                 32 bytes    the initiator's ephemeral key
<- e, ee, s, es      96 bytes    the responder's ephemeral key, its static key encrypted, a tag
-> s, se             64 bytes    the initiator's static key encrypted, a tag
```

and each side has two keys (one for each direction) and a hash of everything that was said, which
later binds capabilities to this stream. A `Handshake` is a state machine over these messages: the
side whose turn it is calls `send`, the other `receive`. Nobody's identity is judged here.

Noise_XX_Ed25519_ChaChaPoly_BLAKE2b differs from the registered Noise suites in one point: the
Diffie-Hellman function multiplies Edwards points, and keys travel as Ed25519 keys.

Format: noise-handshake 4.2.0, @hyperswarm/secret-stream 6.9.2; the Noise Protocol Framework 34.
"""

from __future__ import annotations

from typing import Final

from corestore import crypto
from corestore.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from corestore.keys import KeyPair

MESSAGE_BYTES: Final = (32, 96, 64)

_PROTOCOL_NAME: Final = b"Noise_XX_Ed25519_ChaChaPoly_BLAKE2b"
_SEALED_KEY_BYTES: Final = crypto.PUBLIC_KEY_BYTES + crypto.AEAD_TAG_BYTES
_CIPHER_KEY_BYTES: Final = 32


class _SymmetricState:
    """The running hash, the chaining key and the cipher of a handshake."""

    __slots__ = ("_cipher_key", "_counter", "chaining_key", "hash")

    def __init__(self) -> None:
        self.hash = _PROTOCOL_NAME.ljust(crypto.NOISE_HASH_BYTES, b"\x00")
        self.chaining_key = self.hash
        self._cipher_key = b""
        self._counter = 0
        # The prologue is empty, and mixed all the same.
        self.mix_hash(b"")

    def mix_hash(self, data: bytes) -> None:
        self.hash = crypto.noise_hash(self.hash, data)

    def mix_key(self, secret: bytes) -> None:
        self.chaining_key, key = self.derive(secret)
        self._cipher_key = key[:_CIPHER_KEY_BYTES]
        self._counter = 0

    def derive(self, secret: bytes) -> tuple[bytes, bytes]:
        """HKDF with two outputs of 64 bytes."""
        extracted = crypto.noise_hmac(self.chaining_key, secret)
        first = crypto.noise_hmac(extracted, b"\x01")
        return first, crypto.noise_hmac(extracted, first + b"\x02")

    def seal(self, plain: bytes) -> bytes:
        cipher = crypto.aead_encrypt(self._cipher_key, self._counter, plain, self.hash)
        self._counter += 1
        self.mix_hash(cipher)
        return cipher

    def unseal(self, cipher: bytes) -> bytes:
        plain = crypto.aead_decrypt(self._cipher_key, self._counter, cipher, self.hash)
        self._counter += 1
        self.mix_hash(cipher)
        return plain


class Handshake:
    """One side of the handshake. *ephemeral* is random unless a test needs known bytes.

    `done` turns true with the last message sent or received; `tx_key`, `rx_key` (32 bytes each),
    `handshake_hash` (64 bytes) and `remote_public_key` (32 bytes) are there from then on.
    """

    def __init__(
        self, initiator: bool, key_pair: KeyPair, *, ephemeral: KeyPair | None = None
    ) -> None:
        self.initiator = initiator
        self.done = False
        self.tx_key = b""
        self.rx_key = b""
        self.handshake_hash = b""
        self.remote_public_key = b""
        self._static = key_pair
        self._ephemeral = ephemeral or KeyPair.generate()
        self._remote_ephemeral = b""
        self._state = _SymmetricState()
        self._next = 0

    @property
    def sends_next(self) -> bool:
        """Whether `send` is the next call (false once `done`)."""
        return not self.done and self.initiator == (self._next != 1)

    @property
    def expected_bytes(self) -> int:
        """The size of the next message, sent or received. Not to be asked when `done`."""
        return MESSAGE_BYTES[self._next]

    def send(self) -> bytes:
        """The next message to the peer.

        Raises:
          LocalProtocolError: it is the peer's turn, or the handshake is over.
          RemoteProtocolError: the key the peer sent before is no point of the group.
        """
        if not self.sends_next:
            raise LocalProtocolError("it is not our turn in the handshake")
        try:
            if self._next == 0:
                return self._send_ephemeral()
            if self._next == 1:
                return self._send_keys()
            return self._send_static()
        except crypto.DecryptionError as error:
            raise RemoteProtocolError(f"the peer's handshake failed: {error}") from error

    def receive(self, message: bytes | memoryview) -> None:
        """Take the peer's next message.

        Raises:
          LocalProtocolError: it is our turn, or the handshake is over.
          DecodeError: the message has the wrong size.
          RemoteProtocolError: a key is no point of the group, or a tag does not match.
        """
        if self.done or self.sends_next:
            raise LocalProtocolError("it is not the peer's turn in the handshake")
        if len(message) != self.expected_bytes:
            raise DecodeError(f"handshake message of {self.expected_bytes} bytes")
        data = bytes(message)
        try:
            if self._next == 0:
                self._receive_ephemeral(data)
            elif self._next == 1:
                self._receive_keys(data)
            else:
                self._receive_static(data)
        except crypto.DecryptionError as error:
            raise RemoteProtocolError(f"the peer's handshake failed: {error}") from error

    # -- e ---------------------------------------------------------------------------------------

    def _send_ephemeral(self) -> bytes:
        self._state.mix_hash(self._ephemeral.public_key)
        self._state.mix_hash(b"")  # the payload, empty and not yet encrypted
        self._next = 1
        return self._ephemeral.public_key

    def _receive_ephemeral(self, message: bytes) -> None:
        self._remote_ephemeral = message
        self._state.mix_hash(message)
        self._state.mix_hash(b"")
        self._next = 1

    # -- e, ee, s, es ------------------------------------------------------------------------------

    def _send_keys(self) -> bytes:
        state = self._state
        state.mix_hash(self._ephemeral.public_key)
        state.mix_key(self._shared(self._ephemeral, self._remote_ephemeral))
        sealed = state.seal(self._static.public_key)
        state.mix_key(self._shared(self._static, self._remote_ephemeral))
        self._next = 2
        return self._ephemeral.public_key + sealed + state.seal(b"")

    def _receive_keys(self, message: bytes) -> None:
        state = self._state
        self._remote_ephemeral = message[: crypto.PUBLIC_KEY_BYTES]
        sealed = message[crypto.PUBLIC_KEY_BYTES :][:_SEALED_KEY_BYTES]
        state.mix_hash(self._remote_ephemeral)
        state.mix_key(self._shared(self._ephemeral, self._remote_ephemeral))
        self.remote_public_key = state.unseal(sealed)
        state.mix_key(self._shared(self._ephemeral, self.remote_public_key))
        state.unseal(message[crypto.PUBLIC_KEY_BYTES + _SEALED_KEY_BYTES :])
        self._next = 2

    # -- s, se -----------------------------------------------------------------------------------

    def _send_static(self) -> bytes:
        state = self._state
        sealed = state.seal(self._static.public_key)
        state.mix_key(self._shared(self._static, self._remote_ephemeral))
        message = sealed + state.seal(b"")
        self._finish()
        return message

    def _receive_static(self, message: bytes) -> None:
        state = self._state
        self.remote_public_key = state.unseal(message[:_SEALED_KEY_BYTES])
        state.mix_key(self._shared(self._ephemeral, self.remote_public_key))
        state.unseal(message[_SEALED_KEY_BYTES:])
        self._finish()

    def _shared(self, own: KeyPair, remote: bytes) -> bytes:
        return crypto.diffie_hellman(own.secret_key, remote)

    def _finish(self) -> None:
        first, second = (key[:_CIPHER_KEY_BYTES] for key in self._state.derive(b""))
        self.tx_key, self.rx_key = (first, second) if self.initiator else (second, first)
        self.handshake_hash = self._state.hash
        self.done = True
