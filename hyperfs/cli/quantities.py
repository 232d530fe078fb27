"""Sizes and times as people type them: `500M`, `20GiB`, `30d`, `12h`."""

from __future__ import annotations

import math
import re
from typing import Final

import click

_NUMBER: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*\Z")
_SIZES: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4} | {
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
    "ti": 1024**4,
}
_TIMES: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError, with a sentence."""
    found = _NUMBER.match(text)
    unit = found[2].lower().removesuffix("b") if found else "?"
    if found is None or unit not in _SIZES:
        raise ValueError(f"{text!r} is no size: write 500M, 20G or 20GiB")
    return round(float(found[1]) * _SIZES[unit])


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError, with a sentence."""
    found = _NUMBER.match(text)
    if found is None or found[2].lower() not in _TIMES:
        raise ValueError(f"{text!r} is no time: write 30d, 12h, 90m or 45s")
    return float(found[1]) * _TIMES[found[2].lower()]


class SizeType(click.ParamType[int]):
    """A number of bytes."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            raise click.UsageError(str(error), ctx) from None


class DurationType(click.ParamType[float]):
    """A number of seconds."""

    name = "time"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return value
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise click.UsageError(str(error), ctx) from None
        if not math.isfinite(seconds):
            raise click.UsageError(f"{value!r} is too long a time", ctx)
        return seconds


SIZE = SizeType()
DURATION = DurationType()
