"""What the scalar spectral measures of 25,600 x 2,048 features cost, beside a singular value decomposition.

The features are float32 with variances 1/j and a mean, as layers have them; ``collapsed`` ones have rank 300. Each call is
made in a fresh process, rounds alternate between the contenders, and medians are shown: seconds of the processor's own clock,
on one thread unless told otherwise, and the memory needed beyond the features.

- ``rankme`` ...: one number; ``seven measures``: RankMe, effective rank (both), participation ratio, stable rank, NESum
  and alpha-ReQ by ``over_layers``, which need two spectra, centred and not (with numpy, two decompositions); ``float64``: of
  features stored so.
- ``numpy svd values``: ``numpy.linalg.svd(z, compute_uv=False)``, the fair one, of which the ratios are; ``numpy svd thin`` with
  the vectors (``full_matrices=False``), as public codes call it; ``torch svdvals float64`` is the workbench's precision.

    python benchmarks/measures.py
    python benchmarks/measures.py --quick
    python benchmarks/measures.py --device cuda --only rankme "seven measures" "torch svdvals float64"

With ``--device cuda`` the features lie on a GPU, the second call is timed, by the wall's clock, and the memory is the GPU's.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONTENDERS = [
    "rankme",
    "seven measures",
    "rankme float64",
    "rankme collapsed",
    "spectrum",
    "numpy svd values",
    "numpy svd values float64",
    "numpy svd thin",
    "torch svdvals float64",
]


def features(name: str, n: int, d: int):
    """Returns what the contender is given."""
    import torch

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, d, generator=generator)
    if "collapsed" in name:
        z[:, 300:] = z[:, :300] @ torch.randn(300, d - 300, generator=generator) / 300**0.5
    else:
        z = z * torch.arange(1.0, d + 1) ** -0.5 + 0.1
    return z.double() if "float64" in name else z


def measure(name: str, z) -> float:
    """Returns RankMe by the contender's way, so that all can be seen to agree."""
    import numpy as np
    import torch

    import workbench as wb

    if name.startswith("rankme"):
        return float(wb.rankme(z))
    if name == "spectrum":
        wb.spectrum(z)
        return float("nan")
    if name == "seven measures":
        chosen = {
            n: getattr(wb, n) for n in ("rankme", "participation_ratio", "stable_rank", "nesum", "alpha_req", "effective_rank")
        }
        table = wb.over_layers({"layer": z}, **chosen, variance=lambda z: wb.effective_rank(z, of="eigenvalues"))
        return float(table["value"][0])
    if name.startswith("torch"):
        s = torch.linalg.svdvals(z.double() if z.is_cuda else z).cpu().numpy()
    elif name == "numpy svd thin":
        s = np.linalg.svd(z.numpy(), full_matrices=False)[1]
    else:
        s = np.linalg.svd(z.numpy(), compute_uv=False)
    p = s / s.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def on_gpu(name: str, n: int, d: int) -> None:
    """Prints what a call took whose features lie on a GPU."""
    import torch

    z = features(name, n, d).cuda()
    measure(name, z)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, wall = torch.cuda.memory_allocated(), time.perf_counter()
    value = measure(name, z)
    torch.cuda.synchronize()
    took = time.perf_counter() - wall
    print(json.dumps({"cpu": took, "wall": took, "value": value, "memory": (torch.cuda.max_memory_allocated() - before) / 2**20}))


def once(name: str, n: int, d: int, threads: int) -> None:
    """Prints what one call took, in this process."""
    import torch

    torch.set_num_threads(threads)
    z = features(name, n, d)
    measure(name, z[: 2 * d, :64].contiguous())  # imports and thread pools
    before = memory(peak=False)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the features
    cpu, wall = time.process_time(), time.perf_counter()
    value = measure(name, z)
    took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "value": value}
    print(json.dumps(took | {"memory": memory(peak=True) - before}))


def memory(*, peak: bool) -> float:
    """Returns the megabytes that this process holds, or the most it held since the peak was last forgotten (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM" if peak else "VmRSS")) / 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=25_600)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="5,120 x 512, one round")
    parser.add_argument("--only", nargs="*", default=CONTENDERS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.quick:
        a.rows, a.columns, a.rounds = 5120, 512, 1
    if a.once:
        return on_gpu(a.once, a.rows, a.columns) if a.device == "cuda" else once(a.once, a.rows, a.columns, a.threads)
    threads = {k: str(a.threads) for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    size = ["--rows", str(a.rows), "--columns", str(a.columns), "--threads", str(a.threads), "--device", a.device]
    results: dict[str, list[dict]] = {name: [] for name in a.only}
    for _ in range(a.rounds):
        for name in a.only:
            command = [sys.executable, __file__, *size, "--once", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | threads)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    middle = {name: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for name, rows in results.items()}
    fair = middle.get("numpy svd values", {"cpu": float("nan")})["cpu"]
    print(f"{a.rows:,} x {a.columns:,}, {a.device}, {a.threads} thread(s), {a.rounds} round(s)")
    print(f"{'':<28}{'processor s' if a.device == 'cpu' else 'wall s':>12}{'times faster':>14}{'memory MB':>11}{'RankMe':>10}")
    for name, m in middle.items():
        print(f"{name:<28}{m['cpu']:>12.2f}{fair / m['cpu']:>14.1f}{m['memory']:>11.0f}{m['value']:>10.2f}")
    return None


if __name__ == "__main__":
    main()
