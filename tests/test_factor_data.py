"""Grids of factors, what goes together in them, and the published sets of them, read from small files in their formats."""

import dataclasses
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.data import gridded
from workbench.data.gridded import Undrawn
from workbench.spec import build, describe

COARSE = {"scales": 3, "orientations": 4, "positions": 3, "hues": 2, "background_hues": 2}


def plain(counts, **columns):
    """Images of nothing on the full grid of factors with so many values each."""
    at = np.meshgrid(*[np.arange(c) for c in counts.values()], indexing="ij")
    table = pd.DataFrame({name: a.ravel() for name, a in zip(counts, at, strict=True)}).assign(**columns)
    return wb.Images(torch.zeros(len(table), 1, 1, 1, dtype=torch.uint8), table, "plain")


# Grids


def test_a_full_grid_has_factors_as_whole_numbers():
    images = wb.sprites(None, size=8, **COARSE)
    numbers = wb.factor_numbers(images)
    assert numbers.nunique().to_dict() == {
        "label": 5,
        "scale": 3,
        "orientation": 4,
        "x": 3,
        "y": 3,
        "hue": 2,
        "background_hue": 2,
    }
    assert len(numbers) == len(images) == 2160 and not numbers.duplicated().any() and (numbers.dtypes == np.int64).all()
    counts = np.array(list(numbers.nunique()))
    assert (np.ravel_multi_index(numbers.to_numpy().T, counts) == np.arange(2160)).all()  # in order, the last fastest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = wb.disentanglement(numbers.to_numpy(float), numbers, measures=(wb.mig, wb.irs))
    assert (table["value"] > 0.99).all() and (table["warnings"] == "").all()


def test_numbers_are_those_of_the_grid_where_values_are_missing():
    images = wb.sprites(None, size=8, **COARSE).where("x > 0 and scale > 0.5")
    assert set(wb.factor_numbers(images)["scale"]) == {1, 2} and "x" not in wb.factor_numbers(images)
    twice = wb.correlate(wb.sprites(None, size=8, **COARSE), "x", "y", sigma=1e-3)
    assert {"x", "y"} <= set(wb.factor_numbers(twice))  # a factor that goes wholly with another is still one
    assert list(wb.factor_numbers(images, ["orientation", "label"])) == ["orientation", "label"]


def test_numbers_of_any_images_leave_out_what_is_no_factor():
    images = plain({"label": 3, "size": 4}, still=1.5)
    named = dataclasses.replace(images, factors=images.factors.assign(kind=np.array(list("zxy"))[images.factors["label"]]))
    named.factors["path"] = [f"{i}.png" for i in range(12)]
    named.factors["material"] = ["wool", "silk"] * 6
    numbers = wb.factor_numbers(named)
    assert list(numbers) == ["label", "size", "material"] and numbers["material"].tolist() == [1, 0] * 6
    with pytest.raises(KeyError, match="no factor 'colour'"):
        wb.factor_numbers(named, ["colour"])
    with pytest.raises(ValueError, match=r"no factor of \['still'\] varies in plain"):
        wb.factor_numbers(named, ["still"])


def test_large_grids_are_drawn_when_they_are_looked_at(monkeypatch):
    drawn = wb.sprites(None, size=8, **COARSE)
    monkeypatch.setattr(gridded, "AT_ONCE", 1000)
    undrawn = wb.sprites(None, size=8, **COARSE)
    assert isinstance(undrawn.pixels, Undrawn) and undrawn.pixels.shape == drawn.pixels.shape
    assert torch.equal(undrawn.to("cpu").pixels, drawn.pixels)
    assert torch.equal(undrawn[5:90:7].at([3, 3, 0]), drawn[5:90:7].at([3, 3, 0]))
    assert torch.equal(undrawn.where("label == 2").split(0.3)[0].to("cpu").pixels, drawn.where("label == 2").split(0.3)[0].pixels)
    assert wb.digest(undrawn) == wb.digest(drawn)
    for i in range(0, 2160, 97):  # to the bit, whatever is drawn beside it
        assert torch.equal(undrawn.at([i])[0], drawn.pixels[i])


def test_correlated_draws_train_without_a_warning(monkeypatch, tmp_path):
    for at_once in (2**28, 1000):
        monkeypatch.setattr(gridded, "AT_ONCE", at_once)
        grid = wb.sprites(None, size=8, **COARSE)
        images = wb.correlate(grid, {"x": "y", "label": "scale"}, sigma=0.1, holes=["label == 1 and hue == 0"], n=64)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trainer = wb.Trainer(epochs=1, batch_size=32, device="cpu")
            model = wb.build_encoder("convnet", "8", width=4)
            run = trainer.fit(model, wb.SimCLR(), images, wb.Augment(size=8), out=tmp_path / str(at_once), progress=False)
            again = run.images()
        assert torch.equal(again.to("cpu").pixels, images.to("cpu").pixels) and again.factors.equals(images.factors)


# Factors that go together


def uniform_correlation(sigma, k):
    """Returns the correlation of the density exp(-(a - b)^2 / (2 sigma^2)) on k x k points of the unit square."""
    total = mean = square = product = 0.0
    for x in np.linspace(0, 1, k):
        for y in np.linspace(0, 1, k):
            w = np.exp(-((x - y) ** 2) / (2 * sigma**2))
            total, mean, square, product = total + w, mean + w * x, square + w * x * x, product + w * x * y
    mean, square, product = mean / total, square / total, product / total
    return (product - mean**2) / (square - mean**2)


@pytest.mark.parametrize("sigma, stated", [(0.4, 0.43), (0.2, 0.77), (0.1, 0.94), (0.04, 0.99)])
def test_the_paper_s_strengths_give_the_known_correlations(sigma, stated):
    grid = plain({"a": 20, "b": 20, "c": 3})
    got = wb.correlate(grid, "a", "b", sigma=sigma, n=20_000, seed=1).factors.corr()
    assert got.loc["a", "b"] == pytest.approx(stated, abs=0.03)
    assert got.loc["a", "b"] == pytest.approx(uniform_correlation(sigma, 20), abs=0.02)
    assert abs(got.loc["a", "c"]) < 0.03 and abs(got.loc["b", "c"]) < 0.03
    inverse = wb.correlate(grid, "a", "b", sigma=sigma, inverse=True, n=20_000, seed=1).factors.corr()
    assert inverse.loc["a", "b"] == pytest.approx(-uniform_correlation(sigma, 20), abs=0.02)


def test_many_values_give_the_correlation_of_a_density():
    for sigma, stated in ((0.4, 0.40), (0.2, 0.77), (0.1, 0.94)):
        assert uniform_correlation(sigma, 200) == pytest.approx(stated, abs=0.005)


def test_weights_of_several_pairs_are_the_equation():
    grid = plain({"a": 3, "b": 4, "c": 5, "d": 2})
    got = wb.correlation_weights(grid.factors, {"a": "b", "c": ["d", "a"]}, sigma=0.3, holes=["a == 1 and d == 0", "b == 3"])
    for w, (a, b, c, d) in zip(got, grid.factors.to_numpy(), strict=True):
        u = {"a": a / 2, "b": b / 3, "c": c / 4, "d": d}
        expected = 1.0
        for one, other in (("a", "b"), ("c", "d"), ("c", "a")):
            expected *= np.exp(-((u[one] - u[other]) ** 2) / (2 * 0.3**2))
        assert w == pytest.approx(0 if (a == 1 and d == 0) or b == 3 else expected, rel=1e-12)


def test_no_tie_is_uniform():
    grid = plain({"a": 6, "b": 5})
    for how in ({"a": {}}, {"a": "a", "b": "b", "sigma": 1e4}):
        drawn = wb.correlate(grid, **how, n=30_000, seed=2).factors
        counts = drawn.value_counts().to_numpy()
        assert len(counts) == 30
        assert ((counts - 1000) ** 2 / 1000).sum() < 60  # chi^2 of 29 degrees: above with probability 6e-4


def test_a_confounder_is_tied_to_all_and_they_to_each_other_through_it():
    grid = plain({"a": 10, "b": 10, "c": 10, "d": 10})
    got = wb.correlate(grid, "a", ["b", "c", "d"], sigma=0.2, n=20_000).factors.corr()
    assert got.loc["a", ["b", "c", "d"]].min() > 0.75 and 0.5 < got.loc["b", "c"] < got.loc["a", "b"]


def test_holes_are_never_drawn_and_their_images_are_there_to_test_on():
    grid = wb.sprites(None, size=8, **COARSE)
    hole = "shape == 'arrow' and orientation == 90"
    for method in ("resample", "thin"):
        drawn = wb.correlate(grid, {}, holes=[hole, "scale > 0.6 and x < 0"], method=method)
        assert len(drawn.where(hole)) == len(drawn.where("scale > 0.6 and x < 0")) == 0 < len(drawn.where("scale > 0.6"))
        again = build(json.loads(json.dumps(describe(drawn))))
        assert again.factors.equals(drawn.factors)
    assert len(grid.where(hole)) == 108


def test_the_settings_of_the_paper():
    names = list(wb.correlation_settings(wb.sprites(None, size=8, **COARSE)))
    assert names == [
        "none",
        "label-scale@0.1",
        "x-y@0.1",
        "label-y@0.1",
        *(f"label-x+scale-y@{s}" for s in (0.4, 0.1, 0.04)),
        *(f"label-scale+x-y@{s}" for s in (0.4, 0.1, 0.04)),
        "label-all@0.2",
        "x-all@0.2",
    ]
    scenes = plain({"floor_hue": 3, "wall_hue": 3, "hue": 3, "size": 3, "label": 3, "orientation": 3})
    settings = wb.correlation_settings(scenes)
    assert len(settings) == 1 + 4 + 6 + 2 + 2
    assert settings["label-all@0.2"]["a"] == {"label": ["floor_hue", "wall_hue", "hue", "size", "orientation"]}
    for setting in settings.values():
        for inverse in (False, True):
            drawn = wb.correlate(scenes, **setting, inverse=inverse, n=1500).factors.corr()
            for a, others in setting["a"].items():
                for b in [others] if isinstance(others, str) else others:
                    assert (1 - 2 * inverse) * drawn.loc[a, b] > 0.4
    assert len(wb.correlation_settings(scenes.where("wall_hue == 1"))) == 1 + 2 + 1
    with pytest.raises(ValueError, match=r"plain has the factors \['a', 'b'\]; say by correlate"):
        wb.correlation_settings(plain({"a": 2, "b": 2}))


@pytest.mark.parametrize(
    "how, kind, text",
    [
        ({"a": "a"}, TypeError, "give two factors, or a table"),
        ({"a": {"a": "b"}, "b": "c"}, TypeError, "give two factors, or a table"),
        ({"a": ["a", "b"]}, TypeError, "give two factors, or a table"),
        ({"a": "a", "b": "a"}, ValueError, "'a' cannot be tied to itself"),
        ({"a": {"a": ["b", "z"]}}, KeyError, "no factor 'z'"),
        ({"a": {}, "holes": "a == 1"}, TypeError, r"write \['a == 1'\]"),
        ({"a": {}, "holes": ["a = 1"]}, ValueError, "the query 'a = 1' is not true or false"),
        ({"a": {}, "holes": ["a >= 0"]}, ValueError, "no image of plain is left"),
        ({"a": {}, "n": 0}, ValueError, "n is 0"),
        ({"a": {}, "sigma": -1}, ValueError, "sigma must be positive"),
    ],
)
def test_wrong_ties_are_refused(how, kind, text):
    with pytest.raises(kind, match=text):
        wb.correlate(plain({"a": 3, "b": 3}), **how)
