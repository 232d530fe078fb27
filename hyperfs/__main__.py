"""`python -m hyperfs` is the command line."""

from hyperfs.cli import main

main()
