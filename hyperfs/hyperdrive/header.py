"""The first block of a Hyperdrive's metadata core: the header of a Hyperbee."""

from __future__ import annotations

from hyperfs.hyperbee.block import decode_header_untrusted


def is_hyperdrive(block: bytes) -> bool:
    """Whether a log that begins with *block* may be a Hyperdrive's.

    Nothing tells it from another Hyperbee, but that it has a place for the key of a content core
    and says nothing else. (Our own drives say what they are.)
    """
    header = decode_header_untrusted(block)
    return header is not None and header.has_metadata and header.user_data is None


def content_key(block: bytes) -> bytes | None:
    """The key of the content core, where the header tells it; else it follows from the manifest."""
    header = decode_header_untrusted(block)
    return None if header is None else header.content_key
