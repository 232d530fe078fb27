"""The vectors made by the reference implementation, in `tests/vectors`."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent.parent / "vectors"


@functools.cache
def load(topic: str) -> Any:
    """The parsed vectors of one topic; byte strings are hexadecimal in them."""
    return json.loads((_FOLDER / f"{topic}.json").read_text())


def unhex(text: str) -> bytes:
    """The bytes that a vector's hexadecimal string stands for."""
    return bytes.fromhex(text)
