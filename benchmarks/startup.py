"""What it costs to start: ``import workbench`` (aim: below 50 ms) and ``workbench --help`` (aim: below 500 ms).

Each is run in fresh processes, beside an empty Python and beside what the peers' packages cost to import; the time of the
import itself is the process less the empty one. Run it as ``python benchmarks/startup.py``.
"""

import importlib.util
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 9


def seconds(*command: str) -> float:
    """Returns the median time of a process over fresh runs, the first (cold files) left out."""
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    """Prints the table."""
    empty = seconds(sys.executable, "-c", "")
    print(f"{'':<28}{'process':>10}{'beyond an empty Python':>26}")
    print(f"{'python -c pass':<28}{empty * 1e3:>7.0f} ms")
    rows = {"import workbench": [sys.executable, "-c", "import workbench"]}
    rows["workbench --help"] = [str(Path(sys.executable).with_name("workbench")), "--help"]
    for peer in ("torch", "lightly", "kornia", "stable_pretraining"):
        if importlib.util.find_spec(peer):
            rows[f"import {peer}"] = [sys.executable, "-c", f"import {peer}"]
    for name, command in rows.items():
        took = seconds(*command)
        print(f"{name:<28}{took * 1e3:>7.0f} ms{(took - empty) * 1e3:>23.0f} ms")


if __name__ == "__main__":
    main()
