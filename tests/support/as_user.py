"""Run `hyperfs` as another user, who need not be able to read this interpreter's files.

    python -m tests.support.as_user UID ARGUMENT...

Everything is imported first; then root's rights are dropped.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pkgutil
import sys

import corestore
import hyperfs
from hyperfs.cli import main

_SET_DUMPABLE = 4

if __name__ == "__main__":
    for package in (corestore, hyperfs):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    # Imported by others when they are needed.
    for name in ("difflib", "encodings.idna"):
        importlib.import_module(name)
    user = int(sys.argv.pop(1))
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    # Who has changed users may not look at /proc/self otherwise, as a user's own programs may.
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 1, 0, 0, 0)
    sys.argv[0] = "hyperfs"
    main()
