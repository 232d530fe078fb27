"""The program: global options, and the one place where errors become a sentence and a code."""

from __future__ import annotations

import logging
import os
import sys
from importlib import metadata
from pathlib import Path

import click

from hyperfs.cli import drives, files, mount, seed, status, transfer
from hyperfs.cli.failures import Exit, explain
from hyperfs.cli.output import Output
from hyperfs.cli.settings import Settings, default_store

_LOG_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HYPERFS"}
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Folder of the store [HYPERFS_STORE; default: under the XDG data folder].",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors on stderr.")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for everything.")
@click.version_option(metadata.version("hyperfs"), prog_name="hyperfs")
@click.pass_context
def cli(
    context: click.Context, store: Path | None, as_json: bool, quiet: bool, verbose: int
) -> None:
    """A peer-to-peer file system.

    Make a drive, mount it, save files into it with any program; every machine that has the
    drive's key mounts it read-only, live, with every byte verified.

    \b
      hyperfs create photos               prints the drive's KEY
      hyperfs mount photos ~/photos --listen :4000
      hyperfs mount KEY ~/theirs --peer HOST:4000
    """
    logging.basicConfig(
        level=logging.ERROR if quiet else _LOG_LEVELS[min(verbose, 2)],
        format="%(asctime)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    folder = store.expanduser() if store is not None else default_store()
    context.obj = Settings(
        store=Path(os.path.realpath(folder)),
        output=Output(json=as_json, quiet=quiet, verbose=verbose),
    )


for _command in (
    drives.create,
    drives.drives,
    mount.mount,
    mount.umount,
    seed.seed,
    status.status,
    files.ls,
    files.cat,
    files.stat,
    files.rm,
    transfer.put,
    transfer.get,
):
    cli.add_command(_command)


def main() -> None:
    """Run the program with the process's arguments and leave with the exit code."""
    output = Output()
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(Exit.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has enough (`hyperfs ls | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
    except BaseException as error:
        failure = explain(error)
        if failure is None:
            raise
        output.error(str(failure))
        sys.exit(failure.code)
