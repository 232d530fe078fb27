"""Two people and a drive: a writer who has mounted it, and a reader who has mounted it by key."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, TypeVar

from tools.crash_disk import DISK_BYTES, Disk
from tools.crash_rounds import free_ports
from tools.program import ProgramError, people

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tools.program import Person

W = TypeVar("W", bound="World")


class World:
    """A writer and a reader below *top*; `here` and `there` are their mounts.

    `disks`, by the store's name, are what stores with a disk of their own lie on.
    """

    def __init__(self, top: Path, people: list[Person], seed: int) -> None:
        self.top = top
        self.writer, self.reader = people
        self.random = random.Random(seed)
        self.disks: dict[str, Disk] = {}
        self.number = 0

    def add_disks(self, size: int = DISK_BYTES) -> None:
        """Give both stores a disk of *size* bytes; before `begin`. Needs root."""
        for person in (self.writer, self.reader):
            self.disks[person.store.name] = Disk(person.store, self.random, size=size)

    def begin(self) -> None:
        """Make the drive and mount it twice."""
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        (self.top / "journals").mkdir()
        self.key = self.writer.ask("create", "photos").strip()
        self.mount_writer()
        self.mount_reader()

    def end(self) -> None:
        """Leave no process and no mount."""
        for person in (self.writer, self.reader):
            for mount in person.mounts:
                mount.clean_up()
        for disk in self.disks.values():
            with contextlib.suppress(ProgramError):
                disk.unmount()

    def mount_writer(self, *options: str) -> None:
        """Mount read-write, at the address the reader dials."""
        more = ("--listen", self.address, *options)
        self.here = self.writer.mount("photos", self.top / "here", *more)

    def mount_reader(self, *options: str) -> None:
        """Mount by key, connected unless *options* say something else."""
        options = options or ("--peer", self.address)
        self.there = self.reader.mount(self.key, self.top / "there", *options)


@contextlib.contextmanager
def world(top: Path, make: Callable[[list[Person]], W], *, seconds: float) -> Iterator[W]:
    """What *make* makes of two people below *top*, begun; everything is taken down at the end, or
    after *seconds*."""
    with people(top, "alice", "bob", seconds=seconds) as persons:
        made = make(persons)
        try:
            made.begin()
            yield made
        finally:
            made.end()
