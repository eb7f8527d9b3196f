"""Little to learn from: the closed form against the loss, the sweep at smoke scale, and which recipe a condition is given."""

import math

import pandas as pd
import pytest
import torch

from workbench.objectives.simclr import nt_xent
from workbench.papers import democratizing as de
from workbench.spec import describe


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("angle", [0.2, 1.0])
def test_pressure_is_the_gradient_of_the_loss(temperature, angle):
    """Images on the axes of a space, the second view turned by an angle into a dimension of its own."""
    n = 4
    axes = torch.eye(2 * n, dtype=torch.float64)
    for count, among in ((2 * n - 2, None), (1, torch.eye(2 * n, dtype=torch.bool).roll(1, 1))):
        more = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        turned = torch.cos(angle + more) * axes[:n] + torch.sin(angle + more) * axes[n:]
        loss = nt_xent(axes[:n], turned, temperature=temperature, among=among)
        (slope,) = torch.autograd.grad(loss, more)  # the positive's cosine itself has the slope -sin(angle)
        expected = de.pressure(math.cos(angle), temperature=temperature, negatives=count)
        assert (temperature * slope / math.sin(angle)).item() == pytest.approx(expected, rel=1e-9)


def test_one_negative_is_done_sooner_and_a_higher_temperature_keeps_it_going():
    assert de.pressure(0.9, temperature=0.2, negatives=510) > 0.8
    assert de.pressure(0.9, temperature=0.2, negatives=1) < 0.02
    assert de.pressure(0.9, temperature=1.0, negatives=1) > 0.2
    assert de.pressure(0.0, temperature=0.3, negatives=1) == 0.5


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("democratizing")
    return folder, de.reproduce(folder, scale="smoke", seeds=[0], workers=0, progress=False)


def test_the_sweep_has_every_condition_and_recipe_beside_its_controls(smoke):
    _, table = smoke
    assert set(table["condition"]) == {*de.CONDITIONS, "untrained", "raw pixels"}
    for data, rows in table.groupby("data"):
        own = {name for name, how in de.CONDITIONS.items() if how.data == data}
        assert set(rows["condition"]) == own | {"untrained", "raw pixels"}
        recipes = rows[rows["condition"].isin(own)].groupby("condition")[["temperature", "lr"]].agg(lambda x: tuple(x.unique()))
        assert (recipes["temperature"] == (0.2, 1.0)).all()
        asked = set(rows["task"])
        assert asked == ({*de.TASKS, "all"} if data == "garments" else {"label", "all"})
    accuracy = table[table["measure"] == "accuracy"]
    assert accuracy["value"].between(0, 1).all() and (accuracy["chance"] < 0.2).all()
    assert (table[table["measure"] == "rankme"]["value"] >= 1).all()


def test_what_was_trained_is_what_the_condition_says(tmp_path):
    run = de.train("one negative", tmp_path / "one", temperature=0.2, lr=2e-3, scale="smoke", progress=False)
    assert run.spec["objective"] == describe(de.SimCLR(temperature=0.2, drawn=1))
    small = de.train("an eighth of the batch", tmp_path / "small", temperature=1.0, lr=1e-3, scale="smoke", progress=False)
    assert small.spec["trainer"]["batch_size"] == 8 and small.spec["objective"] == describe(de.SimCLR(temperature=1.0))
    noise = de.train("noise, photographs", tmp_path / "noise", temperature=0.2, lr=2e-3, scale="smoke", progress=False)
    assert noise.spec["views"] == describe(de.Noise()) and noise.spec["images"]["name"].startswith("fashion")


def test_nothing_is_trained_twice(smoke):
    folder, table = smoke
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/run.json")}
    again = de.reproduce(folder, scale="smoke", seeds=[0], workers=0, progress=False)
    assert len(before) == 2 * len(de.CONDITIONS)
    assert before == {p: p.stat().st_mtime_ns for p in folder.glob("*/run.json")}
    pd.testing.assert_frame_equal(again, table)


def made(values):
    """Accuracies of one condition: seed by seed, recipe by recipe."""
    rows = [
        {"data": "garments", "condition": "c", "temperature": t, "lr": 1e-3, "seed": seed, "task": "label"}
        | {"probe": "LinearProbe", "measure": "accuracy", "value": value, "chance": 0.1}
        for seed, recipes in enumerate(values)
        for t, value in recipes.items()
    ]
    control = {"data": "garments", "condition": "raw pixels", "seed": 0, "task": "label", "probe": "LinearProbe", "value": 0.2}
    return pd.DataFrame([*rows, control])


def test_a_recipe_is_chosen_on_the_other_seeds():
    table = made([{0.1: 0.3, 0.2: 0.9, 0.3: 0.4}, {0.1: 0.3, 0.2: 0.1, 0.3: 0.5}, {0.1: 0.3, 0.2: 0.1, 0.3: 0.6}])
    chosen = de.tuned(table)
    by = chosen.pivot(index="seed", columns="recipe", values="value")
    assert by["carried over"].tolist() == [0.3, 0.3, 0.3]
    assert by["tuned"].tolist() == [0.4, 0.1, 0.1]  # seed 0 alone made 0.2 look good, and it is the others that it chooses for
    assert by["none"].dropna().tolist() == [0.2]


def test_a_single_seed_chooses_for_itself():
    chosen = de.tuned(made([{0.1: 0.3, 0.2: 0.9}]))
    assert chosen[chosen["recipe"] == "tuned"]["value"].tolist() == [0.9]


def test_an_unknown_condition_is_refused(tmp_path):
    with pytest.raises(KeyError, match="no negative"):
        de.train("no negative", tmp_path, temperature=0.2, lr=1e-3)
