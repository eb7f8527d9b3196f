import importlib.util
import sys
from pathlib import Path

import pytest

path = Path(__file__).parents[1] / "benchmarks" / "training.py"
spec = importlib.util.spec_from_file_location("benchmark_training", path)
benchmark = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = benchmark
spec.loader.exec_module(benchmark)


@pytest.mark.parametrize("contender", ["workbench", "workbench no views", "torchvision", "lightly", "lightly equal"])
def test_contender_takes_the_steps_that_are_timed(contender):
    task = benchmark.Task(batch=8, steps=3, warm=1, workers=0)
    clock = benchmark.CONTENDERS[contender](task)
    assert clock.count == 4
    assert 0 < clock.waited <= clock.took
    assert clock.result()["images/s"] == pytest.approx(3 * 8 / clock.took)


def test_all_contenders_have_one_network():
    task = benchmark.Task()
    ours, theirs = task.network(normalise=True), task.network(normalise=False)
    assert (ours.mean, ours.std) == (benchmark.MEAN, benchmark.STD)
    counts = [[tuple(p.shape) for p in net.parameters()] for net in (ours, theirs)]
    assert counts[0] == counts[1]


def test_table_gives_medians_and_ratios():
    speeds = {"workbench": [300, 900, 600], "lightly": [100, 200, 600]}
    rows = [
        {"contender": name, "round": k, "images/s": v, "images/core s": v / 2, "waiting": 0.5, "GiB": float("nan")}
        for name, values in speeds.items()
        for k, v in enumerate(values)
    ]
    table = benchmark.table(rows)
    assert list(table.loc["lightly", ["images/s", "views/s", "from", "to"]]) == [200, 400, 100, 600]
    assert list(table["times slower"]) == [1, 3]
    assert "GiB" not in table
