"""Long messages of a secretstream, through the OpenSSL that Python has for its own `ssl`.

A secretstream is ChaCha20 and Poly1305, put together in libsodium's way. OpenSSL's code for the two
uses what newer processors have: 64 KiB take 17 instead of 37 us, calls and all. Short messages stay
with libsodium, which takes 1 us; so do those that change the key, and everything where OpenSSL is
not to be had. The state of a stream is libsodium's, so that either can go on where the other was.

Format: libsodium's crypto_secretstream_xchacha20poly1305.
"""

from __future__ import annotations

import ctypes
import sys
from hmac import compare_digest
from typing import Final, Protocol

# Below, calling so many functions costs more than they save.
LEAST_BYTES: Final = 16 << 10
_BLOCK: Final = 64
_ZEROS: Final = bytes(_BLOCK)
_MAC_BYTES: Final = 16
_LAST_COUNTER: Final = b"\xff\xff\xff\xff"
_REKEY: Final = 2


class State(Protocol):
    """libsodium's state of 52 bytes: key (32), counter (4), rest of the nonce (8), unused."""

    def __getitem__(self, part: slice) -> bytes: ...
    def __setitem__(self, part: slice, value: bytes) -> None: ...


def _load() -> ctypes.CDLL | None:
    """OpenSSL 3, declared; None if it is not there or lacks something."""
    if not sys.platform.startswith("linux"):
        return None
    address, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    try:
        lib = ctypes.CDLL("libcrypto.so.3")
        for name, result, arguments in (
            ("EVP_CIPHER_CTX_new", address, ()),
            ("EVP_CIPHER_CTX_free", None, (address,)),
            ("EVP_chacha20", address, ()),
            ("EVP_EncryptInit_ex", ctypes.c_int, (address, address, address, text, text)),
            ("EVP_EncryptUpdate", ctypes.c_int, (address, address, address, address, ctypes.c_int)),
            ("EVP_MAC_fetch", address, (address, text, text)),
            ("EVP_MAC_CTX_new", address, (address,)),
            ("EVP_MAC_CTX_free", None, (address,)),
            ("EVP_MAC_init", ctypes.c_int, (address, text, size, address)),
            ("EVP_MAC_update", ctypes.c_int, (address, address, size)),
            ("EVP_MAC_final", ctypes.c_int, (address, address, address, size)),
        ):
            function = getattr(lib, name)
            function.restype = result
            function.argtypes = arguments
    except (AttributeError, OSError):
        return None
    return lib


_lib: Final = _load()
_chacha20: Final = _lib.EVP_chacha20() if _lib is not None else None
_poly1305: Final = _lib.EVP_MAC_fetch(None, b"POLY1305", None) if _lib is not None else None
available: Final = bool(_chacha20 and _poly1305)


class LongMessages:
    """One direction of a stream. *state* is changed as libsodium would change it.

    Raises:
      MemoryError: OpenSSL has none.
    """

    __slots__ = ("_cipher", "_count", "_mac", "_out", "_state")

    def __init__(self, state: State) -> None:
        assert _lib is not None
        self._state = state
        self._cipher: int | None = _lib.EVP_CIPHER_CTX_new()
        self._mac: int | None = _lib.EVP_MAC_CTX_new(_poly1305)
        if not self._cipher or not self._mac:
            raise MemoryError
        self._out = ctypes.create_string_buffer(_BLOCK)
        # Written by every call, as an int or as a size_t.
        self._count = ctypes.byref(ctypes.c_size_t())

    def __del__(self) -> None:
        if _lib is not None:
            _lib.EVP_CIPHER_CTX_free(self._cipher)
            _lib.EVP_MAC_CTX_free(self._mac)

    def push(self, target: int, source: int, size: int) -> bool:
        """Encrypt the *size* bytes at address *source* to *target*, where they take 17 more.

        False, and nothing is done, if that is for libsodium to do.
        """
        nonce = self._state[32:44]
        if nonce[:4] == _LAST_COUNTER:
            return False
        block = self._begin(nonce, _ZEROS)
        ctypes.memmove(target, block, 1)
        self._cross(target + 1, source, size)
        mac = self._authenticate(block, target + 1, size)
        ctypes.memmove(target + 1 + size, mac, _MAC_BYTES)
        self._advance(nonce, mac)
        return True

    def pull(self, address: int, size: int) -> bool | None:
        """Decrypt *size* - 17 bytes where they lie, one byte behind *address*.

        False if it is not the next message of this stream; None if libsodium is to find out. In
        both cases nothing is done.
        """
        nonce = self._state[32:44]
        if nonce[:4] == _LAST_COUNTER:
            return None
        first = ctypes.string_at(address, 1)
        block = self._begin(nonce, first + _ZEROS[1:])
        if block[0] & _REKEY:
            return None
        size -= 1 + _MAC_BYTES
        mac = self._authenticate(first + block[1:], address + 1, size)
        if not compare_digest(mac, ctypes.string_at(address + 1 + size, _MAC_BYTES)):
            return False
        self._cross(address + 1, address + 1, size)
        self._advance(nonce, mac)
        return True

    def _begin(self, nonce: bytes, block: bytes) -> bytes:
        """Key the authentication with the first block of the key stream; *block* under the second.
        The third is where the message goes on."""
        assert _lib is not None
        out = self._out
        # OpenSSL's nonce begins with the number of the first block.
        done = _lib.EVP_EncryptInit_ex(
            self._cipher, _chacha20, None, self._state[0:32], _ZEROS[:4] + nonce
        )
        done &= _lib.EVP_EncryptUpdate(self._cipher, out, self._count, _ZEROS, _BLOCK)
        done &= _lib.EVP_MAC_init(self._mac, out.raw[:32], 32, None)
        done &= _lib.EVP_EncryptUpdate(self._cipher, out, self._count, block, _BLOCK)
        _check(done)
        return out.raw

    def _cross(self, target: int, source: int, size: int) -> None:
        assert _lib is not None
        _check(_lib.EVP_EncryptUpdate(self._cipher, target, self._count, source, size))

    def _authenticate(self, block: bytes, address: int, size: int) -> bytes:
        assert _lib is not None
        # Not the padding that one would expect, and part of the format since the first release.
        tail = bytes((size & 15) + 8) + (_BLOCK + size).to_bytes(8, "little")
        done = _lib.EVP_MAC_update(self._mac, block, _BLOCK)
        done &= _lib.EVP_MAC_update(self._mac, address, size)
        done &= _lib.EVP_MAC_update(self._mac, tail, len(tail))
        done &= _lib.EVP_MAC_final(self._mac, self._out, self._count, _MAC_BYTES)
        _check(done)
        return self._out.raw[:_MAC_BYTES]

    def _advance(self, nonce: bytes, mac: bytes) -> None:
        counter = int.from_bytes(nonce[:4], "little") + 1
        rest = int.from_bytes(nonce[4:], "little") ^ int.from_bytes(mac[:8], "little")
        self._state[32:44] = counter.to_bytes(4, "little") + rest.to_bytes(8, "little")


def _check(done: int) -> None:
    if done != 1:
        raise RuntimeError("OpenSSL refused to go on")
