"""The program: its overview, and the one place where errors become a sentence and a code."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Final

import click
from click.core import ParameterSource

from hyperfs.cli import (
    drives,
    files,
    flags,
    fstab,
    keys,
    log,
    mount,
    recover,
    seed,
    space,
    status,
    transfer,
    umount,
    verify,
)
from hyperfs.cli.failures import Exit, explain
from hyperfs.cli.output import Output

# The verbs in the order people meet them, with what the overview says of each.
_SECTIONS: Final = (
    (
        "Drives",
        (
            (drives.create, "Make a drive and print its key"),
            (drives.drives, "List the drives that have a name here; rename, remove"),
            (recover.recover, "Bring an old copy of a drive up to date, and write it again"),
            (keys.export_key, "Print a drive's secret key, to write it elsewhere"),
            (keys.import_key, "Write a drive here whose secret key was exported"),
        ),
    ),
    (
        "Mounting and sharing",
        (
            (mount.mount, "Mount a drive on a folder and share it"),
            (umount.umount, "Make everything durable and unmount"),
            (seed.seed, "Hold whole drives for others, without mounting"),
            (status.status, "Show what runs, versions and peers"),
            (log.log, "List the versions of a drive"),
        ),
    ),
    (
        "Space",
        (
            (space.gc, "Give back what no kept version of a drive needs"),
            (space.compact, "Write what is scattered anew, then give back"),
            (space.evict, "Forget what was fetched of somebody else's drive"),
            (verify.verify, "Prove again what lies on the disk, and have damage fetched again"),
        ),
    ),
    (
        "Files in drives, without a mount (DRIVE:/path)",
        (
            (files.ls, "List a folder"),
            (files.cat, "Write files to stdout"),
            (files.stat, "Show what is known of a file"),
            (transfer.put, "Copy local files into a drive"),
            (transfer.get, "Copy files out of a drive"),
            (files.rm, "Remove files"),
        ),
    ),
)


class Overview(click.Group):
    """Shows the verbs in sections."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in _SECTIONS:
            with formatter.section(title):
                formatter.write_dl([(verb.name or "", text) for verb, text in verbs])


def program_version() -> str:
    """The version of the installed distribution."""
    try:
        return metadata.version("hyperfs")
    except metadata.PackageNotFoundError:
        return "unknown (run from its sources, not installed)"


@click.group(
    cls=Overview,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""A drive is called by its NAME in this store, its KEY, or its link (hyper://...).
    DRIVE:/path is a place in it, DRIVE+N its version N.

    Every flag has a variable: --read-timeout is HYPERFS_READ_TIMEOUT. Data goes to stdout,
    everything else to stderr. `hyperfs VERB --help` tells more.

    Exit codes: 0 done, 1 error, 2 wrong usage, 3 some files could not be copied, 4 no peers, 10 not
    found, 11 written by another process, 12 no key to write or to read it with, 13 verification
    failed, 14 two histories were signed, 20 no FUSE, 130 interrupted.""",
)
@click.version_option(program_version(), prog_name="hyperfs")
def cli() -> None:
    """A peer-to-peer file system.

    Make a drive, mount it, save files into it with any program; every machine that has the
    drive's key mounts it read-only, live, with every byte verified.

    \b
      hyperfs create photos               prints the drive's KEY
      hyperfs mount photos ~/photos --listen :4000
      hyperfs mount KEY ~/theirs --peer HOST:4000
    """


for _, _verbs in _SECTIONS:
    for _verb, _text in _verbs:
        _verb.short_help = _text
        cli.add_command(_verb)
        flags.equip(_verb)
cli.params += flags.common(shown=True)


def main() -> None:
    """Run the program with the process's arguments and leave with the exit code."""
    _open_standard_files()
    output = Output()
    try:
        cli.main(fstab.translate(sys.argv[1:], cli.commands), standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(Exit.INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        output.error(error.format_message().rstrip(".") + _origin(error))
        if isinstance(error, click.UsageError) and error.ctx is not None:
            output.say(f"Try '{error.ctx.command_path} --help'.")
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except BaseException as error:
        failure = explain(error)
        if failure is None:
            raise
        if failure.code != Exit.OK:
            output.error(str(failure))
        _drop_unwritten()
        sys.exit(failure.code)


def _origin(error: click.ClickException) -> str:
    """Where a wrong value comes from, if it was not typed."""
    match error:
        case click.BadParameter(ctx=click.Context() as context, param=click.Option() as option):
            source = context.get_parameter_source(option.name or "")
            return f" (from {option.envvar})" if source is ParameterSource.ENVIRONMENT else ""
    return ""


def _open_standard_files() -> None:
    """Put /dev/null where stdin, stdout or stderr are closed.

    The next file opened would take that place otherwise, and a message end up in the store.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for the whole process)


def _drop_unwritten() -> None:
    """Let what stdout could not take not fail again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
