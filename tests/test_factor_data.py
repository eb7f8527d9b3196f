"""Grids of factors, what goes together in them, and the published sets of them, read from small files in their formats."""

import colorsys
import dataclasses
import json
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.data import gridded, stage
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


# Scenes


def inside(name, point, size, turn):
    """Whether points (n, 3) lie in a solid, by what each solid is, in float64."""
    x, y, z = (point / size).T
    if name in ("cube", "pyramid"):
        x, z = x * np.cos(turn) - z * np.sin(turn), x * np.sin(turn) + z * np.cos(turn)
    if name == "cube":
        return (np.maximum(abs(x), abs(z)) < 0.75) & (y > 0) & (y < 1.5)
    if name == "pyramid":
        return (np.maximum(abs(x), abs(z)) < 0.9 * (1 - y / 1.9)) & (y > 0) & (y < 1.9)
    if name == "sphere":
        return x**2 + (y - 1) ** 2 + z**2 < 1
    radius = 0.75 if name == "cylinder" else 1 - y / 2
    return (np.hypot(x, z) < radius) & (y > 0) & (y < (1.7 if name == "cylinder" else 2))


@pytest.mark.parametrize("name", list(wb.SOLIDS))
def test_rays_are_in_a_solid_from_where_they_enter_to_where_they_leave(name):
    rng = np.random.default_rng(0)
    start = rng.uniform([-3, 1.2, -6], [3, 3, -4], (200, 3))
    ray = rng.uniform([-0.6, 0.2, -0.6], [0.6, 1.2, 0.6], (200, 3)) - start
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    size, turn = rng.uniform(0.6, 1.1, 200), rng.uniform(-0.5, 0.5, 200)
    column = [torch.tensor(v, dtype=torch.float64) for v in (*np.repeat([wb.SOLIDS[name][1:]], 200, 0).T, size, turn)]
    solid = stage.Standing(wb.SOLIDS[name].section, *column)
    enter, leave = (v.numpy() * size for v in solid.crossing(torch.tensor(start.T), torch.tensor(ray.T)))
    t = np.linspace(0, 10, 4001)
    found = np.array([inside(name, o + t[:, None] * d, s, a) for o, d, s, a in zip(start, ray, size, turn, strict=True)])
    assert 0.3 < found.any(1).mean() < 1
    for one, a, b in zip(found, enter, leave, strict=True):
        assert one.sum() * 0.0025 == pytest.approx(max(b - a, 0), abs=0.006)
        if one.sum() > 3:
            assert t[one].min() == pytest.approx(a, abs=0.006) and t[one].max() == pytest.approx(b, abs=0.006)
    at = start + enter[:, None] * ray
    normal = torch.stack(solid.normal(torch.tensor(at.T))).numpy().T
    for one, p, n, s, a in zip(found.any(1) & (leave - enter > 0.2), at, normal, size, turn, strict=True):
        if one:  # a step against the normal is inside, one along it outside, and it looks to where the ray comes from
            assert np.linalg.norm(n) == pytest.approx(1)
            assert inside(name, (p - 0.01 * n)[None], s, a)[0] and not inside(name, (p + 0.01 * n)[None], s, a)[0]


def row(**factors):
    plain = {"label": 2, "size": 0.9, "hue": 0.0, "floor_hue": 0.25, "wall_hue": 0.5, "orientation": 0.0, "light": 0.0}
    return pd.DataFrame([plain | factors])


def scene(**factors):
    return wb.draw(wb.SceneRenderer(size=64), row(**factors))[0].float()


def hue_of(pixel):
    return colorsys.rgb_to_hsv(*(pixel / 255).tolist())[0]


@pytest.mark.parametrize("factor, at", [("hue", (36, 32)), ("floor_hue", (60, 5)), ("wall_hue", (3, 5))])
@pytest.mark.parametrize("value", [0.125, 0.375, 0.75])
def test_each_hue_is_that_of_its_surface(factor, at, value):
    before, after = scene(), scene(**{factor: value})
    assert hue_of(after[:, at[0], at[1]]) == pytest.approx(value, abs=0.02)
    elsewhere = [p for p in ((36, 32), (60, 5), (3, 5)) if p != at]
    assert all(torch.equal(before[:, r, c], after[:, r, c]) for r, c in elsewhere)


def solid_of(**factors):
    """Returns where the solid is: where its hue changes the picture."""
    return (scene(**factors) - scene(**factors, hue=0.5)).abs().sum(0) > 120


@pytest.mark.parametrize("label", range(5))
def test_a_solid_grows_with_its_size_and_stays_in_the_picture(label):
    areas = [solid_of(label=label, size=size) for size in (0.65, 0.8, 1.1)]
    assert areas[0].sum() < 0.8 * areas[1].sum() < 0.6 * areas[2].sum()
    assert not areas[2][0].any() and not areas[2][-1].any() and not areas[2][:, 0].any() and not areas[2][:, -1].any()


def test_light_from_the_right_lights_the_right_and_throws_the_shadow_to_the_left():
    for label in (1, 2, 3):
        solid = solid_of(label=label)
        right, left = scene(label=label, light=60.0), scene(label=label, light=-60.0)
        torch.testing.assert_close(right, left.flip(2), atol=3, rtol=0)  # the room is symmetric, so is the light
        bright = (
            (right.sum(0) * solid)[:, 32:].sum() / solid[:, 32:].sum(),
            (right.sum(0) * solid)[:, :32].sum() / solid[:, :32].sum(),
        )
        assert bright[0] > 1.3 * bright[1]
        floor = torch.zeros_like(solid)
        floor[44:] = True
        beside = floor & ~solid
        assert (right.sum(0) * beside)[:, :26].max() > 0 and (right.sum(0)[44:56, 4:20]).min() < 0.9 * right.sum(0)[
            44:56, 44:60
        ].min()


def test_the_corner_of_the_room_moves_with_the_orientation():
    def corner(orientation):
        walls = scene(orientation=orientation, light=50.0, label=2, size=0.65)[:, 4].sum(0)
        return int((walls[1:] - walls[:-1]).abs().argmax())

    at = [corner(orientation) for orientation in (-20.0, -10.0, 0.0, 10.0, 20.0)]
    assert (np.diff(at) > 3).all() or (np.diff(at) < -3).all()
    assert at[2] == pytest.approx(31.5, abs=1)


def test_scenes_fill_their_grid_with_pictures_all_of_which_differ():
    images = wb.scenes(None, size=32, sizes=3, hues=2, floor_hues=2, wall_hues=2, orientations=2, lights=3)
    assert len(images) == 5 * 3 * 2 * 2 * 2 * 2 * 3 and not images.factors.duplicated().any()
    apart = torch.cdist(images.pixels.flatten(1).float(), images.pixels.flatten(1).float()) + 1e6 * torch.eye(len(images))
    assert apart.min() > 100  # the nearest two differ by 2 of 255 on average
    assert set(images.factors.loc[images.factors["label"] == 3, "solid"]) == {"cone"}
    assert len(images.where("size > 1 and light == 0")) == 80
    whole_grid = wb.scenes(None)
    assert len(whole_grid) == 1_152_000 and isinstance(whole_grid.pixels, Undrawn)
    for rows in ([7], [1_000_000, 7]):
        assert torch.equal(whole_grid.at(rows), wb.draw(whole_grid.renderer, whole_grid.factors.iloc[rows]))


def test_a_picture_is_the_same_whatever_is_drawn_beside_it():
    images = wb.scenes(40, seed=4)
    assert all(torch.equal(wb.draw(images.renderer, images.factors[i : i + 1])[0], images.pixels[i]) for i in range(40))


def test_scenes_are_drawn_again_under_other_circumstances():
    images = wb.scenes(8)
    views = wb.Rerender(images, vary=["orientation", "light", "size"])(images.pixels, torch.arange(8))
    assert len(views.images) == 2 and set(views.actions[0]) == {"orientation", "light", "size"}
    kept = {c: torch.tensor(images.factors[c].to_numpy()) for c in ("label", "hue", "floor_hue", "wall_hue")}
    torch.testing.assert_close(images.renderer({**kept, **views.actions[1]}), views.images[1])


def test_a_thousand_scenes_are_drawn_quickly():
    wb.scenes(16)
    start = time.process_time()
    wb.scenes(1000)
    assert time.process_time() - start < 4  # about .2 s on a free core


@pytest.mark.parametrize(
    "wrong, text",
    [({"solids": ["torus"]}, "the solids are"), ({"lights": 0}, "lights is too small"), ({"n": 10**9}, "1,152,000 points")],
)
def test_scenes_refuse(wrong, text):
    with pytest.raises(ValueError, match=text):
        wb.scenes(**{"n": 4, **wrong})


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
    names = ("object_color", "label", "object_size", "camera_height", "background_color", "horizontal_axis", "vertical_axis")
    arm = wb.correlation_settings(plain(dict.fromkeys(names, 2)))
    assert len(arm) == 1 + 3 + 6 + 2 + 2 and len(arm["horizontal_axis-all@0.2"]["a"]["horizontal_axis"]) == 6
    assert all(
        set(c["a"]) | {b for o in c["a"].values() for b in ([o] if isinstance(o, str) else o)} <= set(names) for c in arm.values()
    )
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
