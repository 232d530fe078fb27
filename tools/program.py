"""Run the installed `hyperfs` program as users do: in processes of its own, each with a store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HYPERFS = Path(sys.executable).with_name("hyperfs")
# A hang is told; a slow machine is waited for.
READY_SECONDS = 120.0
_CONNECTIONS = Path("/sys/fs/fuse/connections")


class ProgramError(Exception):
    """The program did not do what it was run for; the message has what it said."""


@dataclass
class Person:
    """Somebody with a store: runs commands, and has mounts that are cleaned up at the end."""

    store: Path
    told: Callable[[str], None] = lambda line: None
    mounts: list[Mount] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """The environment its commands run in."""
        return {
            **os.environ,
            "HYPERFS_STORE": str(self.store),
            "HYPERFS_RUNTIME_DIR": str(self.store.parent / "run"),
            "XDG_STATE_HOME": str(self.store.parent / "state"),
        }

    def command(self, *arguments: object) -> list[str]:
        """The words of a command line, shown to whoever watches."""
        words = [str(argument) for argument in arguments]
        self.told("$ hyperfs " + " ".join(words))
        return [str(HYPERFS), *words]

    def run(
        self, *arguments: object, seconds: float = READY_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit code; output is captured."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=seconds,
            check=False,
        )

    def ask(self, *arguments: object, seconds: float = READY_SECONDS) -> str:
        """A command's stdout.

        Raises:
          ProgramError: its exit code is not 0.
        """
        done = self.run(*arguments, seconds=seconds)
        if done.returncode:
            raise ProgramError(f"{arguments}: exit code {done.returncode}: {done.stderr}")
        return done.stdout

    def mount(self, what: str, folder: Path, *more: object) -> Mount:
        """Mount a drive on *folder* (made if it is missing) in a process of its own."""
        if not is_mounted(folder):  # a dead mount point answers nothing
            folder.mkdir(exist_ok=True)
        mount = Mount(self, what, folder, more)
        self.mounts.append(mount)
        mount.wait_ready()
        return mount


class Mount:
    """A `hyperfs mount` in the foreground of its own process."""

    def __init__(self, person: Person, what: str, folder: Path, more: tuple[object, ...]) -> None:
        self.person = person
        self.folder = folder
        self.errors = person.store.parent / f"stderr-{len(person.mounts)}-{person.store.name}"
        with self.errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                person.command("--json", "mount", what, folder, *more),
                env=person.environment(),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.ready: dict[str, object] = {}

    def wait_ready(self) -> None:
        """Return when the mount answers.

        Raises:
          ProgramError: it ended instead; the message has what it said.
        """
        assert self.process.stdout is not None
        watchdog = threading.Timer(READY_SECONDS, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not line:
            code = self.process.wait(READY_SECONDS)
            raise ProgramError(f"the mount ended with code {code}: {self.errors.read_text()}")
        self.ready = json.loads(line)

    @property
    def address(self) -> str:
        """HOST:PORT of the first socket it listens on."""
        listening = self.ready["listening"]
        assert isinstance(listening, list)
        return str(listening[0])

    def peak_memory(self) -> int:
        """The most memory the process has had, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise ProgramError("the kernel does not say how much memory the mount had")

    def interrupt(self) -> None:
        """Ctrl-C, and wait for the clean end.

        Raises:
          ProgramError: it did not end, ended with an error, or left the mount behind.
        """
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            raise ProgramError("it did not end after Ctrl-C") from None
        if code:
            raise ProgramError(f"it ended with code {code}: {self.errors.read_text()}")
        if os.path.ismount(self.folder):
            raise ProgramError(f"{self.folder} is still mounted")

    def kill(self) -> None:
        """SIGKILL; the mount point stays dead."""
        self.process.kill()
        self.process.wait()

    def clean_up(self) -> None:
        """Leave neither a process nor a mount, whatever state both are in."""
        if self.process.poll() is None:
            abort(self.folder)
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for _ in range(4):
            if not is_mounted(self.folder):
                return
            subprocess.run(["fusermount3", "-uz", self.folder], check=False, capture_output=True)


def is_mounted(folder: Path) -> bool:
    """Whether the kernel lists a mount there; works for dead mounts, and never asks the mount."""
    wanted = os.path.realpath(folder.parent) + "/" + folder.name
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4] == wanted:
            return True
    return False


def abort(folder: Path) -> None:
    """Free everybody who waits for the mount on *folder*: nothing else frees a hung one."""
    wanted = os.path.realpath(folder.parent) + "/" + folder.name
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == wanted:
            minor = fields[2].split(":")[1]
            if not _CONNECTIONS.joinpath(minor).exists():
                subprocess.run(
                    ["mount", "-t", "fusectl", "none", _CONNECTIONS],
                    check=False,
                    capture_output=True,
                )
            switch = _CONNECTIONS / minor / "abort"
            if switch.exists():
                switch.write_text("1")


@contextmanager
def people(
    top: Path,
    *names: str,
    told: Callable[[str], None] = lambda line: None,
    seconds: float = 600.0,
) -> Iterator[list[Person]]:
    """Persons with stores below *top*, whose mounts are cleaned up whatever happens.

    After *seconds* their mounts are aborted: whoever hangs on one gets an error then.
    """
    found = [Person(top / name, told) for name in names]

    def expire() -> None:
        for mount in [mount for person in found for mount in person.mounts]:
            abort(mount.folder)

    watchdog = threading.Timer(seconds, expire)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield found
    finally:
        watchdog.cancel()
        for person in found:
            for mount in person.mounts:
                mount.clean_up()


def wait_until(condition: Callable[[], bool], seconds: float = READY_SECONDS) -> float:
    """Poll until *condition*; the seconds it took.

    Raises:
      ProgramError: it did not come true in time.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise ProgramError(f"it did not come true within {seconds:g} s")
        time.sleep(0.001)
    return time.monotonic() - started
