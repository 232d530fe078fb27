"""Runs the benches turn by turn and prints the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TOP = HERE.parent.parent
NODE_MODULES = Path(
    os.environ.get("HYPERFS_NODE_MODULES") or TOP / "tests" / "interop" / "node_modules"
)
# Every bench is a module here; those listed with a script have the same job in Node.
BENCHES = {
    "append": "append.js",
    "get": "get.js",
    "ingest": "ingest.js",
    "manycores": "manycores.js",
    "replicate": "replicate.js",
    "swarm": None,
    "mount": None,
    "loop": None,
    "latency": None,
    "scale": None,
    "latency_link": None,
    "interactive": None,
}
# What else a bench of ours is told on its command line.
MORE: dict[str, list[str]] = {name: [] for name in BENCHES}
Row = dict[str, float]
RUN_SECONDS = 900


def run_python(name: str, folder: Path, large: int) -> dict[str, Row]:
    """One run of ours: measurement -> {"value", "unit" as in the line it printed}."""
    return _run([sys.executable, "-m", f"tools.bench.{name}", str(folder), str(large), *MORE[name]])


def run_node(script: str, folder: Path, large: int) -> dict[str, Row]:
    """One run of the Node packages doing the same."""
    return _run(["node", str(HERE / "node" / script), str(folder), str(large)])


def _run(command: list[str]) -> dict[str, Row]:
    done = subprocess.run(
        command,
        cwd=TOP,
        env={**os.environ, "HYPERFS_NODE_MODULES": str(NODE_MODULES)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=RUN_SECONDS,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {f"{row['name']} [{row['unit']}]": row for row in rows}


def main() -> None:
    """Parse, run turn by turn, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=256, metavar="MIB")
    parser.add_argument("--files", type=int, help="how many the drive of 'scale' has")
    parser.add_argument("--dir", type=Path, help="where the stores are made")
    options = parser.parse_args()
    if options.files is not None:
        MORE["scale"] += ["--files", str(options.files)]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}; large runs {options.large} MiB; medians of"
        f" {options.rounds} rounds, turn by turn"
    )
    print(f"{'':58} {'hyperfs':>12} {'Node':>12} {'ratio':>7}")
    for name in options.names or BENCHES:
        ours: dict[str, list[float]] = {}
        theirs: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for results, runner, what in (
                (ours, run_python, name),
                (theirs, run_node, BENCHES[name]),
            ):
                if what is None:
                    continue
                folder = Path(tempfile.mkdtemp(prefix="hyperfs-bench-", dir=options.dir))
                try:
                    for label, row in runner(what, folder, options.large).items():
                        results.setdefault(label, []).append(row["value"])
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
        for label, values in ours.items():
            mine = statistics.median(values)
            if label in theirs:
                other = statistics.median(theirs[label])
                # Times and sizes are better small, rates large: the ratio says "times as good".
                better = other / mine if label.endswith(("us]", "ms]", "MiB]")) else mine / other
                print(f"{label:58} {mine:12,.1f} {other:12,.1f} {better:6.1f}x", flush=True)
            else:
                print(f"{label:58} {mine:12,.1f} {'-':>12}", flush=True)


main()
