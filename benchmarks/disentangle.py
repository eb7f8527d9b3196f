"""What factorised support and the suite of disentanglement cost, beside the plain forms.

- ``loss``: value and gradient of the factorised support of a batch of 64, 25 pairs (float32), by ``hausdorff_loss`` and by
  the paper's equation over all 4,096 product points, differentiated through everything; both give the same gradient.
- ``suite``: each measure of 10,000 rows of a noisy code of six factors (10, 10, 10, 8, 4, 15 values: 57 classes) and four
  codes of noise, as the literature's setting has it. ``dci scikit-learn`` is its 100 boosted trees a class, two minutes.

Seconds of the processor's own clock and of the wall's, medians of the rounds (the suite: one). With ``--device cuda`` the
loss alone is timed, there, by the wall's clock, each form twenty times in a row.

    python benchmarks/disentangle.py
    python benchmarks/disentangle.py --quick
    python benchmarks/disentangle.py --scikit-learn
    python benchmarks/disentangle.py --device cuda
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from workbench.measures.importances import dci
from workbench.measures.suite import SUITE, disentanglement
from workbench.measures.support import hausdorff_loss


def took(call: Callable) -> tuple[float, float, object]:
    """Returns processor seconds, wall seconds and the result."""
    cpu, wall = time.process_time(), time.perf_counter()
    got = call()
    return time.process_time() - cpu, time.perf_counter() - wall, got


def plainly(z: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """Returns the paper's equation as it stands: each product point's distance to each row."""
    total = z.new_zeros(())
    for p, q in pairs:
        product = torch.cartesian_prod(z[:, p], z[:, q])
        total = total + (product[:, None] - z[None, :, [p, q]]).square().sum(-1).min(1).values.max()
    return total


def loss(rounds: int, device: str) -> None:
    """Prints both forms of the loss, alternating."""
    z = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    pairs = list(itertools.combinations(range(10), 2))[:25]
    forms = {"hausdorff_loss": lambda: hausdorff_loss(z, pairs=pairs, standardise=False), "plainly": lambda: plainly(z, pairs)}
    seen, gradients = {name: [] for name in forms}, {}
    for _ in range(rounds + 1):
        for name, form in forms.items():
            seconds, gradients[name] = timed(lambda form=form: torch.autograd.grad(form(), z)[0], device)
            seen[name].append(seconds)
    middle = {name: statistics.median(times[1:]) for name, times in seen.items()}
    off = float((gradients["plainly"] - gradients["hausdorff_loss"]).abs().max())
    ratio = middle["plainly"] / middle["hausdorff_loss"]
    for name, seconds in middle.items():
        print(f"{name:<28}{1000 * seconds:>10.2f} ms")
    print(f"{ratio:.1f} times; gradients differ by {off:.1g}\n")


def timed(call: Callable, device: str) -> tuple[float, torch.Tensor]:
    """Returns the seconds of a call, on a GPU the mean of twenty that do not wait for each other, and its result."""
    if device == "cpu":
        cpu, _, got = took(call)
        return cpu, got

    def several() -> torch.Tensor:
        got = [call() for _ in range(20)][-1]
        torch.cuda.synchronize()
        return got

    torch.cuda.synchronize()
    _, wall, got = took(several)
    return wall / 20, got


def world(n: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Returns codes (N, 10) and their factors."""
    rng, sizes = np.random.default_rng(0), np.array([10, 10, 10, 8, 4, 15])
    f = np.stack([rng.integers(0, k, n) for k in sizes], 1)
    z = f / (sizes - 1) * 2 - 1 + 0.05 * rng.normal(size=f.shape)
    return np.hstack([z, 0.2 * rng.normal(size=(n, 4))]), pd.DataFrame(f, columns=[f"f{k}" for k in range(6)])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where the loss is timed")
    parser.add_argument("--quick", action="store_true", help="1,000 rows, three rounds")
    parser.add_argument("--scikit-learn", action="store_true", help="its boosted trees too")
    a = parser.parse_args()
    if a.quick:
        a.rows, a.rounds = 1000, 3
    torch.set_num_threads(a.threads)
    loss(a.rounds, a.device)
    if a.device != "cpu":
        return
    codes, factors = world(a.rows)
    disentanglement(codes[:200], factors[:200])  # imports
    print(f"{a.rows:,} rows, 10 codes, 57 classes\n{'':<28}{'processor s':>12}{'wall s':>9}")
    total = np.zeros(2)
    for measure in SUITE:
        cpu, wall, table = took(lambda measure=measure: disentanglement(codes, factors, measures=(measure,)))
        said = ", ".join(f"{name} {value:.3f}" for name, value in zip(table["measure"], table["value"], strict=True))
        print(f"{measure.__name__:<28}{cpu:>12.2f}{wall:>9.2f}  {said}")
        total += cpu, wall
    print(f"{'all':<28}{total[0]:>12.2f}{total[1]:>9.2f}")
    if a.scikit_learn:
        cpu, wall, got = took(lambda: dci(codes, factors, backend="scikit-learn"))
        print(f"{'dci scikit-learn':<28}{cpu:>12.2f}{wall:>9.2f}  {got}")


if __name__ == "__main__":
    main()
