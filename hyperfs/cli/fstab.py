"""The command line of mount(8): what a line of type `fuse.hyperfs` in /etc/fstab becomes (pure).

    photos  /mnt/photos  fuse.hyperfs  store=/srv/hyperfs,listen=:4000,allow_other  0  0

runs `hyperfs photos /mnt/photos -o rw,store=/srv/hyperfs,listen=:4000,allow_other` and waits for
its end. A verb of that name would win: such a drive is named by its key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

# Options of ours that have a place in fstab only between commas.
_FLAGS: Final = {
    "store": "--store",
    "listen": "--listen",
    "peer": "--peer",
    "timeout": "--timeout",
    "read_timeout": "--read-timeout",
    "cache_max": "--cache-max",
    "keep_last": "--keep-last",
    "keep_within": "--keep-within",
}
_SWITCHES: Final = {"verify_reads": "--verify-reads"}


def translate(words: Sequence[str], verbs: Container[str]) -> list[str]:
    """The arguments that *words* mean: `mount --daemon` if they are mount(8)'s, else the same."""
    match words:
        case [source, directory, "-o", options] if source not in verbs and source[:1] != "-":
            pass
        case _:
            return list(words)
    arguments = ["mount", "--daemon"]
    others = []
    for option in options.split(","):
        name, equals, value = option.partition("=")
        if equals and name in _FLAGS:
            arguments += [_FLAGS[name], value]
        elif option in _SWITCHES:
            arguments.append(_SWITCHES[option])
        else:
            others.append(option)
    return [*arguments, "-o", ",".join(others), "--", source, directory]
