"""Few shots are drawn as they say; views of an image never stand on both sides."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.probes import KNNProbe, LinearProbe, RidgeProbe, probe_layers
from workbench.splits import draw_shots, few_shot, probe_actions, split_sources


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layered(n=300, seed=0):
    """Features whose layer ``told`` shows class and angle, and whose layer ``noise`` shows nothing."""
    rng = np.random.default_rng(seed)
    label, angle = np.arange(n) % 3, rng.uniform(-1, 1, n)
    told = torch.from_numpy(np.stack([*(label == k for k in range(3)), angle], 1)).float() + 0.3 * normal(n, 4, seed=seed)
    return wb.Features({"told": told, "noise": normal(n, 4, seed=seed + 50)}, pd.DataFrame({"label": label, "angle": angle}))


def test_shots_are_so_many_of_each_class_and_contain_fewer():
    factor = pd.Series(["a"] * 50 + ["b"] * 20 + ["c"] * 5, name="kind")
    for seed in range(3):
        one, five = draw_shots(factor, 1, seed=seed), draw_shots(factor, 5, seed=seed)
        assert factor[five].value_counts().to_dict() == {"a": 5, "b": 5, "c": 5}
        assert len(one) == 3 and set(one) < set(five)
        assert len(set(five)) == 15 and (np.diff(five) > 0).all()
    assert factor[draw_shots(factor, 0.1, seed=0)].value_counts().to_dict() == {"a": 5, "b": 2, "c": 1}
    assert not np.array_equal(draw_shots(factor, 5, seed=0), draw_shots(factor, 5, seed=1))
    drawn = np.concatenate([draw_shots(factor, 1, seed=s) for s in range(2000)])
    assert np.bincount(drawn, minlength=75)[:50] == pytest.approx(40, abs=6 * math.sqrt(40))  # none is preferred
    numbers = pd.Series(np.linspace(0, 1, 40))
    assert len(draw_shots(numbers, 7)) == 7 and len(draw_shots(numbers, 0.25)) == 10 and len(draw_shots(numbers, math.inf)) == 40


def test_shots_that_are_not_there_are_named():
    factor = pd.Series(["a"] * 50 + ["c"] * 5, name="kind")
    with pytest.raises(ValueError, match=r"factor 'kind': class 'c' has 5 training rows, but 6 are asked for; ask for fewer"):
        draw_shots(factor, 6)
    with pytest.raises(ValueError, match=r"factor 'x': there are 3 training rows, but 4 are asked for"):
        draw_shots(pd.Series([0.0, 0.1, 0.2], name="x"), 4)
    for wrong in (0, -1, 2.5, math.nan):
        with pytest.raises(ValueError, match="shots are a whole number, a share between 0 and 1 or math.inf"):
            draw_shots(factor, wrong)
    with pytest.raises(ValueError, match="rows are drawn at least once, but draws is 0"):
        few_shot(layered(), layered(seed=1), draws=0)
    with pytest.raises(KeyError, match="no factor 'size'; they have label, angle"):
        few_shot(layered(), layered(seed=1), factor="size")


def test_few_shot_is_the_probe_of_the_drawn_rows():
    train, test = layered(), layered(seed=1)
    table = few_shot(train, test, shots=[2, math.inf], draws=3, seed=5)
    assert list(table) == ["layer", "factor", "shots", "draw", "probe", "measure", "value", "chance", "n_train", "n_test"]
    assert len(table) == 2 * 2 * (3 + 1)
    value = table.set_index(["layer", "factor", "shots", "draw"])["value"]
    rows = draw_shots(train.factors["label"], 2, seed=wb.mixed_seed(5, 1))
    alone = LinearProbe().fit(train["told"][rows], train.factors["label"][rows])
    assert value["told", "label", 2, 1] == alone.score(test["told"], test.factors["label"])
    rows = draw_shots(train.factors["angle"], 2, seed=wb.mixed_seed(5, 2))
    alone = RidgeProbe().fit(train["told"][rows], train.factors["angle"].to_numpy()[rows])
    assert value["told", "angle", 2, 2] == pytest.approx(alone.score(test["told"], test.factors["angle"].to_numpy()))
    whole = probe_layers(train, test).set_index(["layer", "factor"])["value"]
    full = table[table["shots"] == math.inf]
    assert set(full["draw"]) == {0} and set(full["n_train"]) == {300}
    for row in full.itertuples():
        assert row.value == whole[row.layer, row.factor]
    assert set(table.loc[(table["factor"] == "label") & (table["shots"] == 2), "n_train"]) == {6}
    assert set(table.loc[(table["factor"] == "angle") & (table["shots"] == 2), "n_train"]) == {2}


@pytest.mark.parametrize("probe", [LinearProbe(), KNNProbe(), wb.MLPProbe(lr=0.01)], ids=lambda p: type(p).__name__)
def test_more_shots_tell_more_and_noise_tells_nothing(probe):
    table = few_shot(layered(), layered(600, seed=1), factor="label", shots=[1, 5, 0.1, math.inf], probe=probe)
    mean = table.groupby(["layer", "shots"])["value"].mean()
    assert mean["told", 1] < mean["told", 5] <= mean["told", math.inf] + 0.02
    assert mean["told", math.inf] > 0.9 and abs(mean["noise", 5] - 1 / 3) < 0.05
    spread = table.groupby(["layer", "shots"])["value"].std()
    assert spread["told", 1] > spread["told", 0.1]


def test_one_row_of_numbers_gives_its_value():
    table = few_shot(layered(), layered(seed=1), factor="angle", shots=[1], draws=2)
    assert np.isfinite(table["value"]).all() and table["value"].to_numpy() == pytest.approx(table["chance"].to_numpy())


class Lifts:
    """Views that are lit by a number or turned over, and say so; the second view of an image is like its first."""

    def __call__(self, pixels, index):
        n = len(index)
        light, over, image = torch.rand(n), torch.rand(n) < 0.4, torch.arange(n).float()
        x = (pixels.float() / 255 * 0.1 + 0.9 * light[:, None, None, None]).clamp(max=1)
        x[over] = x[over].roll(3, 1)
        action = {"light": light, "over": over, "row": index, "image": image}
        return wb.Views([x, x], index, [action, action])


@pytest.fixture(scope="module")
def views():
    pixels = torch.zeros(200, 3, 4, 4, dtype=torch.uint8)
    images = wb.Images(pixels, pd.DataFrame({"label": np.arange(200) % 4}), "black")
    return wb.extract(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Identity()), images, ["0", "1"], views=Lifts(), progress=False
    )


def test_no_image_has_views_on_both_sides(views):
    train, test = split_sources(views, held_out=0.25, seed=3)
    assert not set(train.factors["source"]) & set(test.factors["source"])
    assert test.factors["source"].nunique() == 50 and len(test.factors) == 100 and len(train.factors) == 300
    assert (
        len(set(split_sources(views, seed=0)[1].factors["source"]) & set(split_sources(views, seed=1)[1].factors["source"])) < 60
    )
    assert split_sources(views.where("source < 2"), held_out=0.01)[1].factors["source"].nunique() == 1
    plain = wb.Features({"a": torch.zeros(4, 2)}, pd.DataFrame({"label": range(4)}))
    with pytest.raises(ValueError, match=r"features of several views of each image are needed: extract\(model"):
        split_sources(plain)
    with pytest.raises(ValueError, match="held_out is a share of at least 2 images, but got held_out=1 of 200"):
        split_sources(views, held_out=1)


def test_what_was_done_is_read_by_r2_and_accuracy(views):
    table = probe_actions(views)
    assert list(table["layer"].unique()) == ["0", "1"]
    by = table[table["layer"] == "0"].set_index("factor")
    assert set(by.index) == {"action.light", "action.over", "action.image"}  # a row number is nobody's class
    assert by.loc["action.light", "measure"] == "r2" and by.loc["action.light", "value"] > 0.999
    assert by.loc["action.over", "measure"] == "accuracy" and by.loc["action.over", "chance"] < 0.7
    assert by.loc["action.image", "value"] < 0.1  # known by heart of the views seen, of other images not
    train, test = split_sources(views)
    want = probe_layers(train, test, factor="action.light")["value"]
    assert probe_actions(views, factor="light")["value"].tolist() == want.tolist()
    assert len(probe_actions(views, factor=["action.over"], probe=KNNProbe())) == 2


def test_actions_that_are_not_there(views):
    with pytest.raises(KeyError, match="there is no action 'action.hue'; recorded were action.light, action.over"):
        probe_actions(views, factor="hue")
    with pytest.raises(KeyError, match="there is no action 'action.label'"):
        probe_actions(views, factor="label")
    bare = wb.Features(dict(views), views.factors[["label", "source", "view"]])
    with pytest.raises(ValueError, match=r"no actions were recorded; .*views=wb.Augment\(4, record=True\)"):
        probe_actions(bare)


def test_pixels_tell_brightness_and_an_untrained_summary_less():
    images = wb.garments(300)
    model = wb.build_encoder("convnet", width=8).eval()
    views = wb.extract(model, images, ["backbone.stage1", "backbone"], views=wb.Augment(2, record=True), progress=False)
    table = probe_actions(views, factor=["brightness", "x", "area", "flip", "grey"])
    assert set(table["measure"]) == {"r2", "accuracy"} and len(table) == 10
    value = table.set_index(["layer", "factor"])["value"]
    assert value["backbone.stage1", "action.brightness"] > 0.3
    assert (table["value"] <= 1).all()
