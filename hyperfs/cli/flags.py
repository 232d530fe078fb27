"""Flags of every command: accepted in front of the verb and behind it, and as variables.

`equip` gives a command what all have in common. `hyperfs --json ls photos:` and
`hyperfs ls --json photos:` are the same. A flag `--read-timeout` has the variable
`HYPERFS_READ_TIMEOUT`; a flag wins over its variable, one behind the verb over one in front.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from hyperfs.cli.output import Output
from hyperfs.cli.settings import Settings, default_store

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

PREFIX = "HYPERFS_"
_META = "hyperfs.flags"
_LOG_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
# What these log is for whoever runs them, and has no other way to be told.
_SERVING = ("mount", "seed")
_EPILOG = "Flags of every command: --store, --json, --quiet, --verbose; `hyperfs --help` explains."


def pass_settings(
    function: Callable[Concatenate[Settings, P], R],
) -> Callable[P, R]:
    """Call the command with the `Settings` that flags and environment make together."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(settings_of(click.get_current_context()), *args, **kwargs)

    return called


def settings_of(context: click.Context) -> Settings:
    """What the flags say, wherever they stood. Sets up logging to match."""
    given = context.meta.get(_META, {})
    verbose, quiet = given.get("verbose", 0), given.get("quiet", False)
    level = logging.ERROR if quiet else _LOG_LEVELS[min(verbose, 2)]
    if not verbose and context.info_name not in _SERVING:
        # What matters of it is the command's own error: one sentence.
        level = logging.CRITICAL
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    store = given.get("store")
    folder = default_store() if store is None else store.expanduser()
    return Settings(
        store=Path(os.path.realpath(folder)),
        output=Output(json=given.get("json", False), quiet=quiet, verbose=verbose),
    )


def equip(command: click.Command) -> None:
    """Give *command*, and those below it, the flags of every command and variables for its own."""
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            option.envvar = variable(option)
    command.params += common(shown=False)
    command.epilog = _EPILOG
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            equip(inner)


def variable(option: click.Option) -> str | None:
    """The environment variable of a flag, after the long form of its name."""
    longest = max(option.opts, key=len)
    if not longest.startswith("--"):
        return None
    return PREFIX + longest.removeprefix("--").replace("-", "_").upper()


def common(*, shown: bool) -> list[click.Parameter]:
    """The flags of every command, for one of them."""
    flags = [
        click.Option(
            ["--store"],
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Folder of the store  [default: hyperfs in the XDG data folder].",
        ),
        click.Option(["--json"], is_flag=True, help="Print JSON lines on stdout."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Say nothing but errors on stderr."),
        click.Option(["-v", "--verbose"], count=True, help="Say more on stderr; twice for all."),
    ]
    for flag in flags:
        flag.expose_value = False
        flag.callback = _remember
        flag.hidden = not shown
        if shown:
            # Once is enough, and there it cannot win over a flag in front of the verb.
            flag.envvar = variable(flag)
    return [*flags]


def _remember(context: click.Context, flag: click.Parameter, value: object) -> None:
    assert flag.name is not None
    if context.get_parameter_source(flag.name) not in (
        ParameterSource.DEFAULT,
        ParameterSource.DEFAULT_MAP,
    ):
        context.meta.setdefault(_META, {})[flag.name] = value
