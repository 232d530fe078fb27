"""Replicate in simulated worlds, on virtual time, and check what everybody has at the end.

    tools/simulate.py [--peers N] [--seeds N] [--first N] [--seconds N] [--add]

Each seed is two worlds of up to a hundred peers (tests/support/scenario.py): one in which nothing
goes wrong, one with lost links, partitions, and peers that lie, stall, flood or are slow. A seed
that fails is printed and can be run again; --add writes it into the corpus that the tests replay.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.scenario import Scenario  # noqa: E402

CORPUS = ROOT / "tests" / "simulation" / "corpus.txt"


def main() -> None:
    """Run the seeds; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(description="Simulate replication among many peers.")
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after so long")
    parser.add_argument("--add", action="store_true", help="failing seeds join the corpus")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    failed = done = 0
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[told]}")) as progress:
        task = progress.add_task("worlds", total=2 * options.seeds, told="")
        for seed in range(options.first, options.first + options.seeds):
            if time.monotonic() > end:
                break
            for faults in (False, True):
                try:
                    told = str(Scenario(seed, options.peers, faults=faults).run())
                # Whatever it is, the seed is what is wanted.
                except Exception as error:
                    failed += 1
                    told = repr(error)
                    progress.console.print(f"FAILED: {seed} {options.peers} {int(faults)}: {told}")
                    if options.add:
                        with CORPUS.open("a") as corpus:
                            corpus.write(f"{seed} {options.peers} {int(faults)}\n")
                done += 1
                progress.update(task, advance=1, told=told)
    print(f"{done} worlds of {options.peers} peers, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
