"""`ls`, `cat`, `stat` and `rm` on files in drives, without a mount."""

from __future__ import annotations

import os
import stat as st
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import trio

from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.options import ADDRESS, peer_option, timeout_option
from hyperfs.cli.output import JsonValue, Output, size_text, table
from hyperfs.cli.serving import run
from hyperfs.cli.session import Network, open_access
from hyperfs.cli.walk import walk

if TYPE_CHECKING:
    from hyperfs.cli.access import Access, FileInfo
    from hyperfs.cli.address import Address, Endpoint
    from hyperfs.cli.settings import Settings

READ_BYTES = 1 << 20


async def look(access: Access, path: bytes, output: Output) -> FileInfo:
    """The entry that was named on the command line.

    Raises:
      Failure: it is not there; or as `Access`.
    """
    try:
        with output.waiting("looking it up"):
            return await access.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Failure(
            f"{os.fsdecode(path)} is not in this drive; `hyperfs ls` shows what is", Exit.NOT_FOUND
        ) from None


@click.command()
@click.argument("place", type=ADDRESS, metavar="DRIVE[:/PATH]")
@click.option("-l", "--long", is_flag=True, help="Show modes, sizes and times.")
@click.option("-R", "--recursive", is_flag=True, help="List folders' contents too.")
@peer_option
@timeout_option
@pass_settings
def ls(
    settings: Settings,
    place: Address,
    long: bool,
    recursive: bool,
    peers: tuple[Endpoint, ...],
    timeout: float,
) -> None:
    """List a folder of a drive, or show a file's entry."""
    run(_ls, settings, place, long, recursive, Network(peers, timeout))


async def _ls(
    settings: Settings, place: Address, long: bool, recursive: bool, network: Network
) -> None:
    output = settings.output
    async with open_access(settings, place, network) as access:
        info = await look(access, place.path, output)
        if not info.is_directory:
            _show(output, [(place.path.rsplit(b"/", 1)[-1], info)], long)
            return
        if recursive:
            async for path, found in walk(access, place.path):
                _show(output, [(path.removeprefix(place.path.rstrip(b"/") + b"/"), found)], long)
            return
        after = b""
        while page := await access.list(place.path, after):
            _show(output, page, long)
            after = page[-1][0]


def _show(output: Output, entries: list[tuple[bytes, FileInfo]], long: bool) -> None:
    if output.json:
        for name, info in entries:
            output.record(name=os.fsdecode(name), **fields(info))
    elif long:
        rows = [(*_long(info), _arrow(name, info)) for name, info in entries]
        for line in table(rows):
            output.data_name(line)
    else:
        for name, _ in entries:
            output.data_name(os.fsdecode(name))


def _long(info: FileInfo) -> tuple[str, str, str]:
    moment = datetime.fromtimestamp(info.mtime_ns / 1e9)
    return st.filemode(info.mode), size_text(info.size).rjust(8), moment.strftime("%Y-%m-%d %H:%M")


def _arrow(name: bytes, info: FileInfo) -> str:
    text = os.fsdecode(name)
    return f"{text} -> {os.fsdecode(info.target)}" if info.target is not None else text


def fields(info: FileInfo) -> dict[str, JsonValue]:
    """An entry as JSON fields. Bytes that are not UTF-8 appear as lone surrogates (PEP 383)."""
    return {
        "id": info.id,
        "type": kind(info),
        "mode": f"{st.S_IMODE(info.mode):04o}",
        "size": info.size,
        "mtime_ns": info.mtime_ns,
        "uid": info.uid,
        "gid": info.gid,
        "links": info.nlink,
        "target": None if info.target is None else os.fsdecode(info.target),
    }


def kind(info: FileInfo) -> str:
    """The type of an entry in a word."""
    return {
        st.S_IFDIR: "folder",
        st.S_IFREG: "file",
        st.S_IFLNK: "link",
        st.S_IFIFO: "fifo",
        st.S_IFSOCK: "socket",
        st.S_IFCHR: "device",
        st.S_IFBLK: "device",
    }.get(st.S_IFMT(info.mode), "unknown")


@click.command()
@click.argument("places", type=ADDRESS, metavar="DRIVE:/PATH...", nargs=-1, required=True)
@peer_option
@timeout_option
@pass_settings
def cat(
    settings: Settings, places: tuple[Address, ...], peers: tuple[Endpoint, ...], timeout: float
) -> None:
    """Write files of a drive to stdout."""
    run(_cat, settings, places, Network(peers, timeout))


async def _cat(settings: Settings, places: tuple[Address, ...], network: Network) -> None:
    for place in places:
        async with open_access(settings, place, network) as live:
            access = await live.fixed()
            info = await look(access, place.path, settings.output)
            if info.is_directory:
                raise Failure(f"{os.fsdecode(place.path)} is a folder; `hyperfs ls` lists it")
            if info.target is not None:
                raise Failure(
                    f"{os.fsdecode(place.path)} is a link to {os.fsdecode(info.target)}; name the"
                    " file itself"
                )
            if not info.is_file:
                raise Failure(f"{os.fsdecode(place.path)} is a {kind(info)}, it has no content")
            offset = 0
            while offset < info.size:
                await trio.lowlevel.checkpoint()
                data = await access.read(place.path, offset, READ_BYTES)
                if not data:
                    break
                settings.output.data_bytes(data)
                offset += len(data)


@click.command()
@click.argument("place", type=ADDRESS, metavar="DRIVE:/PATH")
@peer_option
@timeout_option
@pass_settings
def stat(settings: Settings, place: Address, peers: tuple[Endpoint, ...], timeout: float) -> None:
    """Show what is known of one file or folder."""
    run(_stat, settings, place, Network(peers, timeout))


async def _stat(settings: Settings, place: Address, network: Network) -> None:
    async with open_access(settings, place, network) as access:
        info = await look(access, place.path, settings.output)
    if settings.output.json:
        settings.output.record(path=os.fsdecode(place.path), **fields(info))
        return
    moment = datetime.fromtimestamp(info.mtime_ns // 10**9, UTC)
    rows = [
        ("path", os.fsdecode(place.path)),
        ("type", kind(info)),
        ("size", f"{info.size} bytes"),
        ("mode", st.filemode(info.mode)),
        ("owner", f"{info.uid}:{info.gid}"),
        ("links", str(info.nlink)),
        ("modified", f"{moment:%Y-%m-%d %H:%M:%S}.{info.mtime_ns % 10**9:09d} UTC"),
        ("id", str(info.id)),
    ]
    if info.target is not None:
        rows.append(("target", os.fsdecode(info.target)))
    for line in table(list(rows)):
        settings.output.data_name(line)


@click.command()
@click.argument("places", type=ADDRESS, metavar="DRIVE:/PATH...", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Remove folders with all that is in them.")
@pass_settings
def rm(settings: Settings, places: tuple[Address, ...], recursive: bool) -> None:
    """Remove files from a drive of this store, each argument in one version."""
    run(_rm, settings, places, recursive)


async def _rm(settings: Settings, places: tuple[Address, ...], recursive: bool) -> None:
    for place in places:
        if not place.path.strip(b"/"):
            raise Failure(
                "name what to remove; a whole drive goes with `hyperfs drives remove`", Exit.USAGE
            )
        async with open_access(settings, place, Network((), 0.0), write=True) as access:
            info = await look(access, place.path, settings.output)
            if info.is_directory and not recursive:
                raise Failure(f"{os.fsdecode(place.path)} is a folder; -r removes it whole")
            with settings.output.waiting("removing"):
                await access.remove(place.path, recursive=info.is_directory)
                await access.sync()
