"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from hyperfs.cli.address import Address, AddressError, parse, parse_endpoint
from hyperfs.cli.settings import DEFAULT_TIMEOUT
from hyperfs.dates import parse_date

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


class AddressType(click.ParamType[Address]):
    """A drive, with a path in it where the command takes one."""

    name = "drive"

    def convert(
        self, value: str | Address, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return parse(value)
        except AddressError as error:
            raise click.UsageError(str(error), ctx) from None


class EndpointType(click.ParamType[tuple[str, int]]):
    """HOST:PORT; an empty host is the loopback interface."""

    name = "host:port"

    def convert(
        self,
        value: str | tuple[str, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_endpoint(value)
        except AddressError as error:
            raise click.UsageError(str(error), ctx) from None


@dataclass(frozen=True, slots=True)
class Moment:
    """A date, or a date and time, as it was typed; and in nanoseconds since 1970."""

    text: str
    time_ns: int


class DateType(click.ParamType[Moment]):
    """ISO 8601; local time unless it has an offset."""

    name = "date"

    def convert(
        self, value: str | Moment, param: click.Parameter | None, ctx: click.Context | None
    ) -> Moment:
        """Parse, or end with a usage error."""
        if isinstance(value, Moment):
            return value
        try:
            return Moment(value, parse_date(value))
        except ValueError:
            self.fail(f"{value} is no date like 2026-05-01 or 2026-05-01T18:30", param, ctx)


class SecondsType(click.ParamType[float]):
    """A time in seconds, from 0 on."""

    name = "seconds"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse, or end with a usage error."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            self.fail(f"{value} is no number of seconds", param, ctx)
        return seconds


class CountType(click.ParamType[int]):
    """A number from 1 on."""

    name = "count"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse, or end with a usage error."""
        text = str(value)
        if not (text.isascii() and text.isdigit() and int(text)):
            self.fail(f"{value} is no number from 1 on", param, ctx)
        return int(text)


ADDRESS = AddressType()
COUNT = CountType()
DATE = DateType()
# Not looked at while words are parsed: of a dead mount stat(2) may still succeed from the kernel's
# memory, and then access(2) fails.
DIRECTORY = click.Path(readable=False, path_type=Path)
ENDPOINT = EndpointType()
SECONDS = SecondsType()


def peer_option(function: Callable[P, R]) -> Callable[P, R]:
    """`--peer HOST:PORT`, several times."""
    return click.option(
        "--peer",
        "peers",
        type=ENDPOINT,
        multiple=True,
        metavar="HOST:PORT",
        help="Connect to this peer, and again whenever the connection is lost. Repeatable.",
    )(function)


def listen_option(function: Callable[P, R]) -> Callable[P, R]:
    """`--listen HOST:PORT`, several times."""
    return click.option(
        "--listen",
        type=ENDPOINT,
        multiple=True,
        metavar="HOST:PORT",
        help="Accept peers here; :PORT means loopback only, port 0 picks one. Repeatable;"
        " without it nothing listens.",
    )(function)


def timeout_option(function: Callable[P, R]) -> Callable[P, R]:
    """`--timeout SECONDS`."""
    return click.option(
        "--timeout",
        type=SECONDS,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help=f"How long to wait for a first peer  [default: {DEFAULT_TIMEOUT:g}].",
    )(function)
