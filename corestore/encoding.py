"""Compact encoding: the byte layout of every structure on the wire.

A `Writer` collects; a `Reader` takes apart and raises only `DecodeError`. Integers are little
endian; a `uint` takes 1, 3, 5 or 9 bytes. Integers above 2**53 - 1 are refused both ways, because
the peers' language cannot hold them; non-minimal forms are accepted and never written. What follows
a known structure is ignored by its decoder: that is how the format is extended.

Format: compact-encoding 3.5.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from corestore.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_SAFE_INTEGER: Final = (1 << 53) - 1
# The reference decoder's bound on the items of one array.
MAX_ARRAY_ITEMS: Final = 0x100000

# Most integers are small; looking them up takes half of making them.
_ONE_BYTE: Final = tuple(bytes([value]) for value in range(0xFD))

T = TypeVar("T")


class Writer:
    """Collects encoded fields; `finish` returns them as one bytes object."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []

    def uint(self, value: int) -> Writer:
        """1, 3, 5 or 9 bytes. Raises ValueError outside 0..2**53-1."""
        self._parts.append(encode_uint(value))
        return self

    def fixed(self, value: bytes | memoryview) -> Writer:
        """The bytes as they are, without a length."""
        self._parts.append(value)
        return self

    def buffer(self, value: bytes | memoryview | None) -> Writer:
        """A `uint` length and the bytes; None is the empty buffer."""
        if value is None:
            self._parts.append(b"\x00")
        else:
            self._parts.append(encode_uint(len(value)))
            self._parts.append(value)
        return self

    def string(self, value: str) -> Writer:
        """A `uint` byte length and UTF-8."""
        return self.buffer(value.encode())

    def array(self, items: Sequence[T], write: Callable[[Writer, T], object]) -> Writer:
        """A `uint` count, then each item by *write*."""
        self.uint(len(items))
        for item in items:
            write(self, item)
        return self

    def finish(self) -> bytes:
        """Everything written so far."""
        return b"".join(self._parts)


def encode_uint(value: int) -> bytes:
    """One `uint`. Raises ValueError outside 0..2**53-1."""
    if 0 <= value <= 0xFC:
        return _ONE_BYTE[value]
    if value < 0 or value > MAX_SAFE_INTEGER:
        raise ValueError(f"not an encodable unsigned integer: {value}")
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    if value <= 0xFFFFFFFF:
        return b"\xfe" + value.to_bytes(4, "little")
    return b"\xff" + value.to_bytes(8, "little")


class Reader:
    """Takes encoded fields from bytes that nobody vouches for; raises only `DecodeError`.

    Lengths and counts are checked against what is left before anything is allocated.
    """

    __slots__ = ("_data", "_end", "at")

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self._data = data
        self._end = len(data)
        self.at = at

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return self._end - self.at

    def uint(self) -> int:
        """One `uint` of at most 2**53-1."""
        at = self.at
        try:
            first = self._data[at]
        except IndexError:
            raise DecodeError("integer", at) from None
        if first <= 0xFC:
            self.at = at + 1
            return first
        width = 2 << (first - 0xFD)
        end = at + 1 + width
        if end > self._end:
            raise DecodeError("integer", at)
        value = int.from_bytes(self._data[at + 1 : end], "little")
        if value > MAX_SAFE_INTEGER:
            raise DecodeError("integer of at most 53 bits", at)
        self.at = end
        return value

    def fixed(self, length: int) -> bytes:
        """Exactly *length* bytes."""
        end = self.at + length
        if length < 0 or end > self._end:
            raise DecodeError(f"{length} bytes", self.at)
        value = bytes(self._data[self.at : end])
        self.at = end
        return value

    def buffer(self) -> bytes:
        """A length and that many bytes."""
        return self.fixed(self.uint())

    def optional_buffer(self) -> bytes | None:
        """As `buffer`, where the empty one means None."""
        return self.buffer() or None

    def string(self) -> str:
        """A byte length and UTF-8."""
        at = self.at
        try:
            return self.buffer().decode()
        except UnicodeDecodeError:
            raise DecodeError("UTF-8 text", at) from None

    def array(self, read: Callable[[Reader], T], *, item_bytes: int = 1) -> list[T]:
        """A count and that many items; *item_bytes* is the least size of one."""
        at = self.at
        count = self.uint()
        if count > MAX_ARRAY_ITEMS or count * item_bytes > self.remaining:
            raise DecodeError("array", at)
        return [read(self) for _ in range(count)]

    def uint32_array(self) -> bytes:
        """A count of 32-bit words and the words, as little-endian bytes."""
        at = self.at
        count = self.uint()
        if count * 4 > self.remaining:
            raise DecodeError("array of words", at)
        return self.fixed(count * 4)

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.fixed(self._end - self.at)
