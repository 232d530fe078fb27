"""Values in blocks: what turns an application's values into the bytes of a block, and back.

A log holds bytes. A handle opened with an encoding takes and gives values instead, and may have
another one than the next handle on the same core: the log does not know.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast

from corestore.errors import DecodeError

if TYPE_CHECKING:
    # Only the checker needs the default, by which a plain `Hypercore` means one of bytes.
    from typing_extensions import TypeVar

    Value = TypeVar("Value", default=bytes)
else:
    from typing import TypeVar

    Value = TypeVar("Value")


class Codec(Protocol[Value]):
    """Turns values into blocks and back. Keeps no state between calls."""

    def encode(self, value: Value) -> bytes | memoryview:
        """The block that stands for *value*.

        Raises:
          ValueError, TypeError: this codec cannot express it.
        """
        ...

    def decode(self, block: bytes) -> Value:
        """The value that *block* stands for. The block may come from anybody's log.

        Raises:
          DecodeError: it stands for none.
        """
        ...


EncodingName = Literal["binary", "utf-8", "json"]


class _Binary:
    """Blocks as they are."""

    def encode(self, value: bytes | memoryview) -> bytes | memoryview:
        return value

    def decode(self, block: bytes) -> bytes:
        return block


class _Text:
    """UTF-8."""

    def encode(self, value: str) -> bytes:
        # Bytes have no `encode`; that is the caller's mistake and no missing attribute of ours.
        if not isinstance(value, str):
            raise TypeError(f"text is expected, not {type(value).__name__}")
        return value.encode()

    def decode(self, block: bytes) -> str:
        try:
            return block.decode()
        except UnicodeDecodeError as error:
            raise DecodeError("UTF-8 text", error.start) from None


class _Json:
    """JSON as JavaScript writes it: no spaces, characters as themselves."""

    def encode(self, value: object) -> bytes:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # A lone surrogate is no UTF-8; both backslashreplace and JSON write it as \udXXX.
        return text.encode(errors="backslashreplace")

    def decode(self, block: bytes) -> object:
        try:
            return cast("object", json.loads(block.decode(), parse_constant=_refuse))
        except UnicodeDecodeError as error:
            raise DecodeError("JSON", error.start) from None
        except json.JSONDecodeError as error:
            raise DecodeError("JSON", error.pos) from None
        # Nested too deeply, or a number of too many digits.
        except (RecursionError, ValueError):
            raise DecodeError("JSON") from None


def _refuse(constant: str) -> object:
    raise ValueError(f"JSON has no {constant}")


BINARY: Final[Codec[bytes]] = _Binary()
TEXT: Final[Codec[str]] = _Text()
JSON: Final[Codec[object]] = _Json()

_BY_NAME: Final[dict[str, Codec[bytes] | Codec[str] | Codec[object]]] = {
    "binary": BINARY,
    "utf-8": TEXT,
    "json": JSON,
}


def find_codec(encoding: str | Codec[Value]) -> Codec[Value]:
    """The codec called *encoding*, or *encoding* itself if it is one.

    Raises:
      ValueError: there is none of that name.
    """
    if not isinstance(encoding, str):
        return encoding
    try:
        return cast("Codec[Value]", _BY_NAME[encoding])
    except KeyError:
        names = ", ".join(_BY_NAME)
        raise ValueError(f"no encoding is called {encoding!r}; there are {names}") from None
