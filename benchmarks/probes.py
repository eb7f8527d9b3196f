"""What it costs to read a label from every layer, beside scikit-learn's logistic regression, layer by layer.

The features are those of a small SimCLR network, trained for a minute on garments: four stages of the backbone and three
layers of the projector, float32. Rounds alternate between the contenders and medians are shown: seconds of the processor's
own clock, on one thread unless told otherwise. ``off`` is the largest difference of a layer's accuracy, in points, to that of a
fit to full convergence.

- ``workbench``: ``probe_layers`` as it comes.
- ``scikit-learn``: ``StandardScaler`` and ``LogisticRegression(max_iter=1000)`` (fewer iterations stop early, with a warning).
- with ``--grid``: five penalties, the best on a fifth of the training rows fitted to all, by both.

    python benchmarks/probes.py
    python benchmarks/probes.py --quick
"""

import argparse
import itertools
import os
import statistics
import sys
import time

GRID = (0.001, 0.01, 0.1, 1.0, 10.0)


def features(n: int, steps: int):
    """Returns the training and the test features."""
    import workbench as wb

    train, test = wb.garments(n, split="train"), wb.garments(2000, split="test")
    net = wb.ConvNet(width=32)
    model = wb.Encoder(net, wb.Projector([net.out, 512, 512, 128]))
    training = wb.Trainer(epochs=1000, lr=2e-3).steps(model, wb.SimCLR(), train, wb.Augment(n=2))
    for _ in itertools.islice(training, steps):
        pass
    layers = ["backbone.stage1", "backbone.stage2", "backbone.stage3", "backbone", "projector.0", "projector.1", "projector"]
    return (wb.extract(model, images, layers, progress=False) for images in (train, test))


def by_workbench(train, test, *, grid: bool) -> dict[str, float]:
    """Returns the accuracy of every layer."""
    import workbench as wb

    probe = wb.LinearProbe(C=GRID) if grid else None
    table = wb.probe_layers(train, test, factor="label", probe=probe)
    return dict(zip(table["layer"], table["value"], strict=True))


def by_sklearn(train, test, *, grid: bool, tol: float = 1e-4) -> dict[str, float]:
    """Returns the accuracy of every layer."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, ShuffleSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y, truth = train.factors["label"].to_numpy(), test.factors["label"].to_numpy()
    found = {}
    for layer in train:
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=tol))
        if grid:
            once = ShuffleSplit(1, test_size=0.2, random_state=0)
            fitted = GridSearchCV(fitted, {"logisticregression__C": GRID}, cv=once)
        found[layer] = fitted.fit(train[layer].numpy(), y).score(test[layer].numpy(), truth)
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=100, help="of training the network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--quick", action="store_true", help="2,000 rows, five steps, one round")
    a = parser.parse_args()
    if a.quick:
        a.rows, a.steps, a.rounds = 2000, 5, 1
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(name) != str(a.threads):  # read when the libraries load
            os.environ |= {k: str(a.threads) for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
            os.execv(sys.executable, [sys.executable, *sys.argv])
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(a.threads)
    train, test = features(a.rows, a.steps)
    contenders = {"workbench": by_workbench, "scikit-learn": by_sklearn}
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    accuracy = {}
    by_workbench(train, test, grid=False)  # thread pools and imports
    for _ in range(a.rounds):
        for name, contender in contenders.items():
            cpu, wall = time.process_time(), time.perf_counter()
            accuracy[name] = contender(train, test, grid=a.grid)
            took[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    exact = accuracy["scikit-learn"] if a.grid else by_sklearn(train, test, grid=False, tol=1e-6)
    print(f"{a.rows:,} rows, {len(train)} layers of {', '.join(str(z.shape[1]) for z in train.values())}, {a.threads} thread(s)")
    print(f"{'':<16}{'processor s':>12}{'wall s':>9}{'times faster':>14}{'off':>8}")
    slow = statistics.median(cpu for cpu, _ in took["scikit-learn"])
    for name, rows in took.items():
        cpu, wall = (statistics.median(column) for column in zip(*rows, strict=True))
        off = max(abs(accuracy[name][layer] - exact[layer]) for layer in exact) * 100
        print(f"{name:<16}{cpu:>12.2f}{wall:>9.2f}{slow / cpu:>14.1f}{off:>8.2f}")
    for layer in exact:
        print(f"  {layer:<18}" + "".join(f"{name} {100 * accuracy[name][layer]:.2f}  " for name in contenders))


if __name__ == "__main__":
    main()
