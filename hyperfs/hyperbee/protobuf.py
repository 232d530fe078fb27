"""As much of the protocol buffers encoding as a Hyperbee needs: fields of bytes, lists of integers.

Everything comes from somebody else: only `DecodeError` is raised, and nothing is allocated beyond
the bytes there are.
"""

from __future__ import annotations

from typing import Final

from corestore import DecodeError

_MAX_INTEGER: Final = (1 << 53) - 1
# What follows a tag of these wire types, in bytes.
_FIXED: Final = {1: 8, 5: 4}


def fields_untrusted(message: bytes) -> list[tuple[int, bytes]]:
    """(number, bytes) of the length-delimited fields, in order; others are passed over.

    Raises:
      DecodeError: it is no protocol buffers message.
    """
    out: list[tuple[int, bytes]] = []
    at, end = 0, len(message)
    while at < end:
        tag, at = _integer(message, at)
        kind = tag & 7
        if kind == 2:
            length, at = _integer(message, at)
            if length > end - at:
                raise DecodeError("field", at)
            out.append((tag >> 3, message[at : at + length]))
            at += length
        elif kind == 0:
            _, at = _integer(message, at)
        elif kind in _FIXED and at + _FIXED[kind] <= end:
            at += _FIXED[kind]
        else:
            raise DecodeError("field of a known wire type", at)
    return out


def integers_untrusted(packed: bytes, limit: int) -> list[int]:
    """A packed list of at most *limit* unsigned integers below 2**53.

    Raises:
      DecodeError: it is none.
    """
    out: list[int] = []
    at, end = 0, len(packed)
    while at < end:
        if len(out) == limit:
            raise DecodeError(f"at most {limit} integers", at)
        value, at = _integer(packed, at)
        out.append(value)
    return out


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """A base-128 integer, and where it ends."""
    value = shift = 0
    end = min(len(data), at + 10)
    while at < end:
        byte = data[at]
        at += 1
        if byte < 0x80:
            value |= byte << shift
            if value > _MAX_INTEGER:
                break
            return value, at
        value |= (byte & 0x7F) << shift
        shift += 7
    raise DecodeError("integer of at most 53 bits", at)
