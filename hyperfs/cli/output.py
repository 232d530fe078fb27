"""What commands say: data on stdout, everything else on stderr, JSON lines when asked for."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]
# C0 and C1 controls, and the bytes of C1 in names not UTF-8.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\udc80-\udc9f]")
# Where stderr is no terminal a line this often says how far things are.
PLAIN_PROGRESS_SECONDS = 5.0
# What is over sooner needs no words.
SPINNER_SECONDS = 0.5


class ReaderGone(Exception):
    """Whoever read our stdout has enough (`hyperfs ls | head`): a reason to stop, no error."""


@dataclass(slots=True)
class Output:
    """The three channels of a command, with what the user asked of them."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0

    def data(self, text: str) -> None:
        """One line of what was asked for, on stdout."""
        self.data_bytes(text.encode() + b"\n")

    def data_bytes(self, data: bytes) -> None:
        """Bytes of what was asked for, on stdout, as they are."""
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise ReaderGone from None

    def data_name(self, text: str) -> None:
        """A line with names of files on stdout: their own bytes, whatever they are.

        On a terminal, what would command the terminal is shown as question marks.
        """
        if sys.stdout.isatty():
            text = printable(text)
        self.data_bytes(os.fsencode(text) + b"\n")

    def record(self, **fields: JsonValue) -> None:
        """One JSON line on stdout, in UTF-8."""
        try:
            line = json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            # A name that is not UTF-8, as lone surrogates: only as an escape can they be written.
            line = json.dumps(fields).encode()
        self.data_bytes(line + b"\n")

    def say(self, text: str) -> None:
        """A line for the person, on stderr; `--quiet` silences it."""
        if not self.quiet:
            _tell(text)

    def error(self, text: str) -> None:
        """The one sentence of a failure, on stderr, always."""
        _tell(f"hyperfs: {text}")

    @property
    def shows_progress(self) -> bool:
        """Whether anybody sees how far things are."""
        return not (self.quiet or self.json)

    @contextmanager
    def progress(self, phase: str, total: int | None = None) -> Iterator[Meter]:
        """A bar on stderr while something runs; a line now and then where that is no terminal."""
        if not self.shows_progress:
            yield Meter()
        elif sys.stderr.isatty():
            with _bar() as bar:
                yield BarMeter(bar, bar.add_task(phase, total=total, what=""))
        else:
            yield PlainMeter(self, phase, total)

    @contextmanager
    def waiting(self, phase: str) -> Iterator[None]:
        """Say on stderr that *phase* goes on, as soon as that is worth saying: on a terminal with
        the time it has taken, otherwise in one line."""
        if not self.shows_progress:
            yield
            return
        if sys.stderr.isatty():
            wait, show = SPINNER_SECONDS, _spinner(phase)
        else:
            wait, show = PLAIN_PROGRESS_SECONDS, None
        lock, over = threading.Lock(), False

        def begin() -> None:
            with lock:
                if over:
                    return
                if show is None:
                    self.say(f"{phase} ...")
                else:
                    show.start()

        timer = threading.Timer(wait, begin)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                over = True
            if show is not None:
                show.stop()


class Meter:
    """Told how many bytes are done; this one shows nothing."""

    def add(self, count: int, what: str = "") -> None:
        """*count* more bytes are done; *what* is being worked on."""

    def set_total(self, total: int) -> None:
        """There will be *total* bytes in all."""


class BarMeter(Meter):
    """Draws a bar with rate and time left."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def add(self, count: int, what: str = "") -> None:
        self._bar.update(self._task, advance=count, what=printable(what))

    def set_total(self, total: int) -> None:
        self._bar.update(self._task, total=total)


class PlainMeter(Meter):
    """Says a line every few seconds."""

    def __init__(self, output: Output, phase: str, total: int | None) -> None:
        self._output = output
        self._phase = phase
        self._total = total
        self._done = 0
        self._started = self._told = time.monotonic()

    def add(self, count: int, what: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._told < PLAIN_PROGRESS_SECONDS:
            return
        self._told = now
        rate = size_text(round(self._done / (now - self._started)))
        of = f" of {size_text(self._total)}" if self._total else ""
        on = f", {what}" if what else ""
        self._output.say(f"{self._phase}: {size_text(self._done)}{of}, {rate}/s{on}")

    def set_total(self, total: int) -> None:
        self._total = total


def printable(text: str) -> str:
    """*text* with question marks for what a terminal could take as a command (ESC, BEL, ...)."""
    return _CONTROLS.sub("?", text)


def _tell(text: str) -> None:
    """A line on stderr; nobody to read it is no reason to stop."""
    with suppress(BrokenPipeError):
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", markup=False),
        console=Console(stderr=True, no_color="NO_COLOR" in os.environ or None),
        transient=True,
    )


def _spinner(phase: str) -> Progress:
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True, no_color="NO_COLOR" in os.environ or None),
        transient=True,
    )
    bar.add_task(phase, total=None)
    return bar


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of text as lines with aligned columns; the last column is not padded."""
    if not rows:
        return []
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]


def size_text(count: int) -> str:
    """A number of bytes as people write it: 512 B, 3.4 kB, 268 MB."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 1000 or unit == "TB":
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    raise AssertionError
