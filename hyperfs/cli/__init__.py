"""The command line: `hyperfs VERB ...`.

One module per group of verbs; `main` is the program. Only this package reads the environment,
prints, and knows exit codes.
"""

from hyperfs.cli.main import main

__all__ = ["main"]
