"""Start a command again in the background, and return when it is ready.

The background process is a fresh one (no fork of a running trio or of threads). It reports through
a pipe: one JSON line, either what it serves or why it could not; after that nobody waits for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from hyperfs.cli.failures import Exit, Failure

if TYPE_CHECKING:
    from hyperfs.cli.output import JsonValue

READY_VARIABLE = "HYPERFS_READY_FD"


def start(arguments: list[str]) -> dict[str, JsonValue]:
    """Run `hyperfs ARGUMENTS` in the background and return what it says when it is ready.

    Raises:
      Failure: it could not start; the message and the code are its own.
    """
    log = log_file()
    try:
        sink = log.open("ab")
    except OSError as error:
        raise _no_log(error, log) from None
    reading, writing = os.pipe()
    with sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "hyperfs", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=sink,
            pass_fds=(writing,),
            env={**os.environ, READY_VARIABLE: str(writing)},
            start_new_session=True,
        )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            line = pipe.readline()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if not line:
        process.wait()
        raise Failure(f"it ended before it was ready; {log} may say why")
    answer: dict[str, JsonValue] = json.loads(line)
    if "error" in answer:
        process.wait()
        code = answer["code"]
        raise Failure(str(answer["error"]), Exit(code) if isinstance(code, int) else Exit.ERROR)
    return answer


def log_file() -> Path:
    """Where background processes write what they have to say. Raises Failure: nowhere."""
    folder = Path(platformdirs.user_log_dir("hyperfs"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _no_log(error, folder) from None
    return folder / "daemon.log"


def _no_log(error: OSError, path: Path) -> Failure:
    return Failure(
        f"a background process cannot write its log {path}: {error.strerror}; have XDG_STATE_HOME"
        " name a folder that can be written, or leave out --daemon",
        Exit.NOT_PERMITTED,
    )


def report_ready(fields: dict[str, JsonValue]) -> None:
    """Tell the command that started this process that it is ready; does nothing in others."""
    _report(fields)


def report_failure(failure: Failure) -> None:
    """Tell the command that started this process why it is not."""
    _report({"error": str(failure), "code": int(failure.code)})


def _report(fields: dict[str, JsonValue]) -> None:
    number = os.environ.pop(READY_VARIABLE, None)
    if number is None:
        return
    try:
        with os.fdopen(int(number), "w") as pipe:
            pipe.write(json.dumps(fields) + "\n")
    except BrokenPipeError:
        # Whoever started us has been interrupted; that is not our end.
        return
