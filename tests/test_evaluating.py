"""The protocols side by side are the probes and the fine-tuning that they name, on the same rows."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.papers import cookbook


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stripes(n=120, seed=0):
    """Images bright in one third or another."""
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 3
    pixels = torch.randint(0, 130, (n, 3, 12, 12), generator=g)
    for image, k in zip(pixels, label.tolist(), strict=True):
        image[:, 4 * k : 4 * k + 4] += 100
    return wb.Images(pixels.to(torch.uint8), pd.DataFrame({"label": label.numpy(), "size": torch.rand(n).numpy()}), "stripes")


def test_every_protocol_stands_beside_the_others(tmp_path):
    train, test, model = stripes(), stripes(60, seed=1), wb.build_encoder("convnet", width=4, depth=2)
    how = {"shots": [2, 0.25, math.inf], "draws": 2, "seed": 3, "progress": False}
    tune = {"batch_size": 32, "lr": 0.01, "views": wb.Plain()}  # where a stripe is makes its class
    table = wb.protocols(model, train, test, out=tmp_path / "tuned", epochs=10, tune=tune, **how)
    assert list(table) == ["protocol", "layer", "factor", "shots", "draw", "value", "chance", "n_train", "n_test"]
    counts = table.groupby("protocol", sort=False).size().to_dict()
    assert counts == {"kNN": 5, "linear": 5, "MLP": 5, "fine-tuning": 2}
    assert set(table.groupby(["shots", "n_train"]).size().index) == {(2, 6), (0.25, 30), (math.inf, 120)}
    known, seen = (wb.extract(model, x, "backbone", progress=False) for x in (train, test))
    linear = wb.few_shot(known, seen, factor="label", shots=how["shots"], draws=2, seed=3)
    assert table.loc[table["protocol"] == "linear", "value"].tolist() == linear["value"].tolist()
    tuned = table[table["protocol"] == "fine-tuning"].set_index("shots")
    assert tuned.loc[math.inf, "value"] == wb.head_accuracy(wb.Run(tmp_path / "tuned" / "all"), test) > 0.8
    few = wb.Run(tmp_path / "tuned" / "0.25")
    assert few.spec["trainer"]["epochs"] == 20 and few.spec["images"]["n"] == 30  # twice the passes over a quarter
    rows = wb.draw_shots(train.factors["label"], 0.25, seed=wb.mixed_seed(3, 0))
    assert few.spec["images"]["digest"] == wb.digest(train[rows])


def test_a_run_other_probes_and_no_fine_tuning(tmp_path):
    train, test, model = stripes(), stripes(60, seed=1), wb.build_encoder("convnet", (8,), width=4, depth=2)
    run = wb.Trainer(epochs=1, batch_size=32).fit(model, wb.SimCLR(), train, wb.Augment(), out=tmp_path / "run", progress=False)
    near = {"nearest": wb.KNNProbe(1)}
    table = wb.protocols(run, train, test, layer="projector", probes=near, shots=[math.inf], progress=False)
    assert table[["protocol", "layer"]].to_numpy().tolist() == [["nearest", "projector"]]
    known, seen = (wb.extract(run.model(), x, "projector", progress=False) for x in (train, test))
    want = wb.KNNProbe(1).fit(known["projector"], train.factors["label"]).score(seen["projector"], test.factors["label"])
    assert table["value"].tolist() == [want]


def test_what_cannot_be_evaluated_says_so():
    train, model = stripes(), wb.build_encoder("convnet", width=4, depth=2)
    with pytest.raises(TypeError, match="protocols are of an Encoder or a Run, but got ConvNet"):
        wb.protocols(wb.ConvNet(4), train, train)
    with pytest.raises(ValueError, match="the protocols name classes, but 'size' is a factor of numbers; for those use few_shot"):
        wb.protocols(model, train, train, factor="size")
    with pytest.raises(ValueError, match="class 0 has 40 training rows, but 41 are asked for"):
        wb.protocols(model, train, train, shots=[41], progress=False)
    with pytest.raises(KeyError, match="no factor 'colour'"):
        wb.protocols(model, train, train, factor="colour", progress=False)


# The cookbook


def test_every_setting_of_every_knob_is_a_recipe_and_the_base_is_one_row():
    small = cookbook.Scale({"name": "convnet", "width": 4}, 16, 64, 64, 1, 32, 1e-3, 1, (), 1)
    for knob, settings in cookbook.KNOBS.items():
        assert sum(not changes for changes in settings.values()) == 1, knob  # each holds the base recipe once
        for changes in settings.values():
            parts = cookbook._recipe(small, seed=0, **changes)
            assert set(parts) == {"trainer", "model", "objective", "views"}
    base = {"knob": "batch", "setting": "as it is", "seed": 1}
    assert cookbook._row_of(base) == {"knob": "base", "setting": "base", "seed": 1}
    other = {"knob": "batch", "setting": "a quarter, half the rate", "seed": 1}
    assert cookbook._row_of(other) == other
    quarter = cookbook._recipe(small, seed=0, **cookbook.KNOBS["batch"]["a quarter, half the rate"])["trainer"]
    assert (quarter.batch_size, quarter.lr) == (8, 5e-4)


@pytest.mark.slow
def test_the_cookbook_is_trained_and_measured(tmp_path):
    knobs = {name: cookbook.KNOBS[name] for name in ("projector", "teacher")}
    table = cookbook.reproduce(tmp_path, scale="smoke", seeds=[0], knobs=knobs, workers=0, progress=False)
    assert list(table) == ["knob", "setting", "seed", *cookbook.MEASURES]
    assert table.groupby("knob", sort=False).size().to_dict() == {"projector": 4, "teacher": 3, "control": 2}
    assert table.notna().all(axis=None) and (table["label"] <= 100).all()
    one, two = (
        table[(table["knob"] == k) & (table["setting"] == s)]
        for k, s in (("projector", "two layers"), ("teacher", "no teacher: SimCLR"))
    )
    assert np.array_equal(one[list(cookbook.MEASURES)], two[list(cookbook.MEASURES)])
    none = table[table["setting"] == "none"].iloc[0]
    assert none["head"] == none["label"]  # without a projector z is h


def test_live_training_is_what_it_says():
    table = cookbook.live(steps=12, every=6, projector=(), temperature=0.5)
    assert list(table) == ["step", "loss", "kNN", "RankMe"] and table["step"].tolist() == [1, 6, 12]
    assert table["loss"].iloc[-1] < table["loss"].iloc[0] and table["RankMe"].between(1, 64).all()
