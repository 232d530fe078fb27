"""The command line: `hyperfs VERB ...`.

One module per group of verbs; `main`, in `program`, runs them. Only this package reads the
environment, prints, and knows exit codes.
"""

from hyperfs.cli.program import main

__all__ = ["main"]
