"""What it costs to start: ``import workbench`` (aim: below 50 ms) and ``workbench --help`` (aim: below 500 ms).

Each runs in fresh processes, beside an empty Python and beside the imports of what the library stands on and of its peers. The
processor's own clock counts less of what else the machine does than the clock on the wall; both are shown, medians, the first
run (cold files) left out, and what an empty Python takes is taken off.

    python benchmarks/startup.py
"""

import importlib.util
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 5


def seconds(*command: str) -> tuple[float, float]:
    """Returns the median seconds on the wall and on the processor of a fresh process."""
    wall, processor = [], []
    for _ in range(REPEATS + 1):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - began)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(wall[1:]), statistics.median(processor[1:])


def main() -> None:
    """Prints the table."""
    empty = seconds(sys.executable, "-c", "")
    rows = {"import workbench": [sys.executable, "-c", "import workbench"]}
    rows["workbench --help"] = [str(Path(sys.executable).with_name("workbench")), "--help"]
    for peer in ("torch", "timm", "kornia", "lightly", "stable_pretraining"):
        if importlib.util.find_spec(peer):
            rows[f"import {peer}"] = [sys.executable, "-c", f"import {peer}"]
    print(f"{'':<26}{'wall':>9}{'processor':>15}   beyond an empty Python ({empty[0] * 1e3:.0f} and {empty[1] * 1e3:.0f} ms)")
    for name, command in rows.items():
        wall, processor = (took - base for took, base in zip(seconds(*command), empty, strict=True))
        print(f"{name:<26}{wall * 1e3:>6.0f} ms{processor * 1e3:>12.0f} ms", flush=True)


if __name__ == "__main__":
    main()
