"""`-o` options as other file systems take them, so that fstab lines work (pure)."""

from __future__ import annotations

from dataclasses import replace

import click

from hyperfs import MountOptions

_FLAGS = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "allow_other": ("allow_other", True),
    "default_permissions": ("default_permissions", True),
    "dev": ("dev", True),
    "nodev": ("dev", False),
    "suid": ("suid", True),
    "nosuid": ("suid", False),
    "exec": ("noexec", False),
    "noexec": ("noexec", True),
    "sync": ("sync", True),
    "async": ("sync", False),
    "dirsync": ("dirsync", True),
}
# Said by mount(8) and fstab, and true or without meaning here.
_IGNORED = {
    *("atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime"),
    *("diratime", "nodiratime", "lazytime", "nolazytime"),
    *("defaults", "auto", "noauto", "nofail", "_netdev"),
    *("user", "nouser", "users", "owner", "group", "comment"),
}
_TEXTS = ("fsname", "subtype")
_NUMBERS = {"uid": 10, "gid": 10, "umask": 8}


def parse_options(texts: tuple[str, ...]) -> MountOptions:
    """The options that all `-o` texts ask for together; later ones win.

    Raises:
      click.UsageError: one of them is unknown or has a wrong value.
    """
    # The tables say which fields there are, and mypy does not read them.
    chosen = MountOptions()
    for option in (part for text in texts for part in text.split(",") if part):
        name, equals, value = option.partition("=")
        if name in _FLAGS and not equals:
            field, setting = _FLAGS[name]
            chosen = replace(chosen, **{field: setting})  # type: ignore[arg-type]
        elif name in _NUMBERS and equals:
            chosen = replace(chosen, **{name: _number(name, value)})  # type: ignore[arg-type]
        elif name in _TEXTS and value:
            chosen = replace(chosen, **{name: value})  # type: ignore[arg-type]
        elif name not in _IGNORED and not name.startswith(("x-", "X-")):
            raise click.UsageError(f"-o {option} is not an option of hyperfs")
    return chosen


def _number(name: str, value: str) -> int:
    try:
        return int(value, _NUMBERS[name])
    except ValueError:
        raise click.UsageError(f"-o {name}= takes a number, not {value!r}") from None
