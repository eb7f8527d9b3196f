"""What the CKA of all layers of one model with all layers of another costs, beside torch-cka and pytorch-cka.

Features of two models of 12 layers, 384 wide, of 10,000 images, in batches of 250: what pooled layers of two small vision
transformers give. The peers take models and loaders; here their models look stored features up, which costs next to
nothing, so that CKA alone is timed. Each contender runs in a process of its own, on one thread, and reports its processor
time and the largest difference of its map from that of pytorch-cka.

- ``workbench``: ``cka_map`` in the same batches, without a null; ``with null``: with 200 permutations. That is how it comes:
  it chooses such batches itself.
- ``all rows``: without batches, each pair of images once, which the peers cannot do at this size.

    python benchmarks/similarity.py
    python benchmarks/similarity.py --quick
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

CONTENDERS = ["pytorch-cka", "torch-cka", "workbench", "workbench with null", "workbench all rows"]


def features(seed: int, rows: int, layers: int, width: int):
    """Returns layer names to features that share the images and grow apart with depth."""
    import torch

    shared = torch.randn(rows, 64, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    mixed = [torch.randn(64, width, generator=draw) / 8 for _ in range(layers)]
    return {f"layer{i}": shared @ m + 0.1 * i * torch.randn(rows, width, generator=draw) + 1 for i, m in enumerate(mixed)}


def looking_up(stored):
    """Returns a model whose layers give the stored rows that its input names."""
    import torch

    class Layer(torch.nn.Module):
        def __init__(self, z):
            super().__init__()
            self.z = z

        def forward(self, rows):
            return self.z[rows]

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, z in stored.items():
                self.add_module(name, Layer(z))

        def forward(self, rows):
            return [layer(rows) for layer in self.children()]

    return Layers()


def measure(name: str, one: dict, other: dict, batch: int):
    """Returns the map, by the contender's way."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    import workbench as wb

    rows, names = len(next(iter(one.values()))), list(one)
    if name.startswith("workbench"):
        size = None if "all rows" in name else batch
        table = wb.cka_map(one, other, batch_size=size, permutations=200 if "null" in name else 0)
        return torch.from_numpy(table["value"].to_numpy(copy=True)).reshape(len(one), len(other))
    loader = DataLoader(TensorDataset(torch.arange(rows)), batch_size=batch)
    models = looking_up(one), looking_up(other)
    if name == "torch-cka":
        from torch_cka import CKA

        peer = CKA(*models, "one", "other", names, names, device="cpu")
        peer.compare(loader, loader)
        return peer.hsic_matrix
    from cka import compute_cka

    return compute_cka(*models, loader, layers=names, model2_layers=names, device="cpu", progress=False)[0]


def once(name: str, a: argparse.Namespace) -> None:
    """Prints what one call took, in this process."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(a.threads)
    one, other = (features(seed, a.rows, a.layers, a.width) for seed in (1, 2))
    measure(name, *({k: z[: 2 * a.batch] for k, z in m.items()} for m in (one, other)), a.batch)  # imports and thread pools
    cpu, wall = time.process_time(), time.perf_counter()
    value = measure(name, one, other, a.batch)
    took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    kept = Path(a.kept)
    if name == "pytorch-cka":
        torch.save(value, kept)
    off = float((value - torch.load(kept)).abs().max()) if kept.exists() else float("nan")
    print(json.dumps(took | {"off": off, "least": float(value.min()), "most": float(value.max())}))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="2,000 images, 4 layers, one round")
    parser.add_argument("--only", nargs="*", default=CONTENDERS)
    parser.add_argument("--once", help=argparse.SUPPRESS)
    parser.add_argument("--kept", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.quick:
        a.rows, a.layers, a.rounds = 2000, 4, 1
    if a.once:
        return once(a.once, a)
    threads = {k: str(a.threads) for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    given = [f"--{k}={getattr(a, k)}" for k in ("rows", "layers", "width", "batch", "threads")]
    results: dict[str, list[dict]] = {name: [] for name in a.only}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(a.rounds):
            for name in a.only:
                command = [sys.executable, __file__, *given, "--kept", f"{folder}/map.pt", "--once", name]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | threads)
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    middle = {name: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for name, rows in results.items()}
    slow = middle.get("torch-cka", {"cpu": float("nan")})["cpu"]
    print(f"{a.layers} x {a.layers} layers, {a.rows:,} x {a.width}, batches of {a.batch}, threads {a.threads}, rounds {a.rounds}")
    print(f"{'':<22}{'processor s':>12}{'torch-cka /':>13}{'off pytorch-cka':>17}{'least':>8}{'most':>8}")
    for name, m in middle.items():
        ratio = slow / m["cpu"]
        print(f"{name:<22}{m['cpu']:>12.2f}{ratio:>13.1f}{m['off']:>17.1e}{m['least']:>8.3f}{m['most']:>8.3f}")
    return None


if __name__ == "__main__":
    main()
