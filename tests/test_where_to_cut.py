"""The papers on where to cut and what to choose: each runs as a sweep at smoke scale, and reads planted tables rightly."""

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.papers import duality, expand_or_narrow, guillotine, projection_head, rankme


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Guillotine


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    out = tmp_path_factory.mktemp("guillotine")
    settings = {"scale": "smoke", "seeds": [0], "conditions": ["SimCLR", "same class, redrawn"], "workers": 0, "progress": False}
    return out, settings, guillotine.reproduce(out, **settings)


def test_every_layer_is_asked_every_task_beside_the_controls(cuts):
    _, _, table = cuts
    assert list(dict.fromkeys(table["condition"])) == ["raw pixels", "untrained", "SimCLR", "same class, redrawn"]
    trained = table[table["condition"] == "SimCLR"]
    layers = [f"backbone.stage{i}" for i in (1, 2, 3)] + ["backbone", "projector.0", "projector.1", "projector"]
    assert list(dict.fromkeys(trained["layer"])) == layers
    asked = trained.groupby(["layer", "probe"])["task"].apply(set)
    for layer in layers:
        assert asked[layer, "LinearProbe"] == asked[layer, "KNNProbe"] == {"label", "plain garments", "sprites"}
        assert asked[layer, "RidgeProbe"] == set(guillotine.DRAWN)
    assert set(table[table["condition"] == "raw pixels"]["layer"]) == {"pixels"}
    assert not trained.duplicated(["layer", "task", "probe"]).any()


def test_what_stands_is_not_trained_again(cuts, monkeypatch):
    out, settings, table = cuts
    monkeypatch.setattr(guillotine, "train", lambda *a, **k: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(guillotine.reproduce(out, **settings), table)


def test_all_conditions_start_from_the_same_weights():
    a, b = (guillotine.fresh(scale="smoke", seed=3) for _ in range(2))
    other = guillotine.fresh(scale="smoke", seed=4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(next(a.parameters()), next(other.parameters()))


def planted_cuts():
    values = {"backbone": [0.6, 0.5], "projector.0": [0.7, 0.8], "projector": [0.2, 0.4]}
    rows = [
        {
            "condition": "A",
            "seed": s,
            "layer": layer,
            "task": "x",
            "probe": "RidgeProbe",
            "measure": "r2",
            "value": v,
            "chance": 0.0,
        }
        for layer, both in values.items()
        for s, v in enumerate(both)
    ]
    return pd.DataFrame(rows)


def test_the_best_cut_of_a_planted_table():
    found = guillotine.best_cut(planted_cuts()).iloc[0]
    assert found["best"] == "projector.0" and found["best_points"] == pytest.approx(75)
    assert found["backbone"] == pytest.approx(55) and found["head"] == pytest.approx(30)
    assert found["cut"] == pytest.approx(25) and found["cut_std"] == pytest.approx(pd.Series([40, 10]).std())


def test_layers_are_counted_from_the_first():
    wide = guillotine.by_depth(planted_cuts())
    assert wide["depth"].tolist() == [0, 1, 2] * 2 and wide["x"].tolist() == pytest.approx([60, 70, 20, 50, 80, 40])


# RankMe


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    sweeps = {"SimCLR": {"temperature": [0.1, 0.2], "lr": [2e-3, 2e-2]}, "VICReg": {"covariance": [1.0]}}
    settings = {"scale": "smoke", "seeds": [0, 1], "sweeps": sweeps, "workers": 0, "progress": False}
    out = tmp_path_factory.mktemp("rankme")
    return out, rankme.reproduce(out, **settings)


def test_a_row_stands_in_every_sweep_it_belongs_to_and_is_trained_once(runs):
    out, table = runs
    assert table.groupby(["method", "sweep"]).size().to_dict() == {
        ("SimCLR", "lr"): 4, ("SimCLR", "temperature"): 4, ("VICReg", "covariance"): 2,
    }  # fmt: skip
    assert len(list(out.glob("*/run.json"))) == 8
    base = table[(table["method"] == "SimCLR") & (table["setting"].isin([0.2, 2e-3]))]
    per_seed = base.groupby("seed")[[*rankme.BEST, *rankme.TARGETS]].nunique()
    assert (per_seed == 1).all(axis=None)
    assert table[[*rankme.BEST, *rankme.TARGETS]].notna().all(axis=None)


def test_the_measures_are_those_of_the_run(runs):
    import workbench as wb

    out, table = runs
    path = next(p.parent for p in out.glob("*/run.json") if "lr=0.02" in p.parent.name and "seed=1" in p.parent.name)
    model = wb.Run(path).model()
    z = wb.extract(model, wb.garments(512)[:256], "projector", progress=False)["projector"]
    row = table[(table["setting"] == 2e-2) & (table["seed"] == 1)].iloc[0]
    assert row["rankme"] == pytest.approx(float(wb.rankme(z)), rel=1e-6)


@pytest.mark.filterwarnings("ignore:differs less")
def test_regrets_of_every_target(runs):
    found = rankme.regrets(runs[1])
    assert set(found["target"]) == set(rankme.TARGETS) and set(found["measure"]) == {*rankme.BEST, "oracle", "random"}
    assert (found["regret"] >= -1e-9).all()


def test_a_setting_that_the_method_has_not(tmp_path):
    with pytest.raises(KeyError, match="there is no 'covariance'; there are temperature, lr, weight_decay"):
        rankme.train(tmp_path, method="SimCLR", scale="smoke", covariance=1.0)


# Duality


MEASURED = [f"{m} {part}" for part in ("backbone", "projector") for m in ("linear", "knn", "rankme", "gram", "covariance")]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    out = tmp_path_factory.mktemp("duality")
    kept = {name: duality.LOSSES[name] for name in ("VICReg", "SimCLR")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duality, "LOSSES", kept)
        table = duality.reproduce(out, scale="smoke", seeds=[0], studies=["losses", "dimensions"], workers=0, progress=False)
    return out, table


def test_losses_are_trained_and_measured_beside_the_controls(chain):
    _, table = chain
    assert table["loss"].tolist() == ["untrained", "VICReg", "SimCLR", "VICReg", "SimCLR", "raw pixels"]
    assert table["dimensions"].fillna(0).tolist() == [0, 0, 0, 8, 8, 0]
    networks = table[table["loss"] != "raw pixels"]
    assert set(MEASURED) <= set(table) and networks[MEASURED].notna().all(axis=None)
    assert (networks["rankme projector"] <= networks["dimensions"].fillna(16)).all()
    pixels = table.iloc[-1]
    assert pixels[MEASURED[:5]].notna().all() and pixels[MEASURED[5:]].isna().all()


def test_what_is_said_of_pixels_is_what_the_probe_says_of_them(chain):
    import workbench as wb

    known, seen = wb.garments(256), wb.garments(128, split="test")
    flat = [x.at(range(len(x))).flatten(1).float() for x in (known, seen)]
    score = wb.LinearProbe().fit(flat[0], known.factors["label"]).score(flat[1], seen.factors["label"])
    assert chain[1].iloc[-1]["linear backbone"] == pytest.approx(100 * score)


def test_histograms_are_of_the_runs_that_stand_and_have_their_moments(chain):
    out, table = chain
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    found = duality.histograms(out, scale="smoke", losses=["SimCLR"], bins=2_000)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert list(dict.fromkeys(found["loss"])) == ["untrained", "SimCLR"]
    for loss, own in found.groupby("loss"):
        want = table[(table["loss"] == loss) & table["dimensions"].isna()].iloc[0]
        for name in ("gram backbone", "gram projector", "covariance projector"):
            assert own[name].sum() * 2 / 2_000 == pytest.approx(1)
            assert np.sqrt((own[name] * own["cosine"] ** 2).sum() * 2 / 2_000) == pytest.approx(want[name], rel=1e-3)


@pytest.mark.parametrize(("n", "m"), [(40, 24), (12, 40)])
def test_the_identity_holds_at_every_round_and_the_difference_ends_at_its_offset(n, m):
    table = duality.identity(n, m, rounds=400)
    np.testing.assert_allclose(table["L_nc + dimensions"], table["L_c + samples"], rtol=1e-12)
    end = table.iloc[-1]
    assert end["L_nc - L_c"] == pytest.approx(n - n**2 / m, rel=1e-6)
    assert end["L_nc - L_c"] == pytest.approx(end["L_nc"] - end["L_c"])
    assert abs(table["L_nc - L_c"][0] - (n - n**2 / m)) > 0.5 * n


@pytest.mark.parametrize("name", duality.LOSSES)
def test_every_loss_takes_a_temperature_or_none(name):
    assert duality.LOSSES[name](None) is not None
    with_one = duality.LOSSES[name](0.3)
    assert getattr(with_one, "temperature", 0.3) == 0.3


def test_off_diagonals_of_orthogonal_and_equal_samples():
    eye = torch.cat([torch.eye(4), -torch.eye(4)])
    found = duality.off_diagonals(eye)
    assert sorted(found["gram"].tolist()) == [-1] * 4 + [0] * 24
    assert found["covariance"].abs().max() == 0
    equal = torch.randn(6, 1).expand(6, 3)
    torch.testing.assert_close(duality.off_diagonals(equal)["covariance"], torch.ones(3, dtype=torch.float64))


# The projection head

STRENGTH, KEPT = [1, 1, 0.3, 1, 2.0], [1, 0.1, 0.9, 0.5, 0.3]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradient_descent_ends_at_the_closed_form(depth):
    settings = {"steps": 8000, "lr": 0.02} if depth == 3 else {}
    found = projection_head.trained(STRENGTH, KEPT, depth=depth, seed=1, **settings)
    want = projection_head.predicted(STRENGTH, KEPT, depth=depth)
    pd.testing.assert_frame_equal(found, want, rtol=1e-6)


def test_each_layer_makes_weights_more_unequal():
    table = projection_head.predicted(STRENGTH, KEPT).groupby("layer")["weight"]
    spread = (table.max() / table.min()).tolist()
    assert spread[0] == 1 and spread[2] == pytest.approx(spread[1] ** 2) and spread[1] > 1


def test_a_disrupted_feature_is_read_before_the_head_and_a_weak_one_after_it():
    table = projection_head.predicted(STRENGTH, KEPT).pivot(index="layer", columns="feature", values="deviation")
    read = {j: [projection_head.few_shot(table.loc[layer], feature=j) for layer in range(3)] for j in (2, 3)}
    assert read[2][1] > read[2][2] + 0.05 and read[3][2] > read[3][1] + 0.05


def test_few_shots_in_closed_form():
    """A feature alone is read perfectly; one of deviation 0 is read by chance."""
    assert projection_head.few_shot([1.0, 0.0], feature=1) == 1
    assert abs(projection_head.few_shot([0.0, 1.0], feature=1, draws=20_000) - 0.5) < 5 * np.sqrt(0.25 / 20_000)


def test_the_heads_are_trained_and_measured(tmp_path):
    table = projection_head.reproduce(tmp_path, scale="smoke", seeds=[0], workers=0, progress=False)
    assert set(table["condition"]) == {*projection_head.CONDITIONS, "untrained", "raw pixels"}
    assert table.groupby("condition")["layer"].apply(set).map(len).drop("raw pixels").eq(2).all()
    none = table[table["condition"] == "none"].pivot(index="task", columns="layer", values="value")
    assert np.allclose(none["backbone"], none["projector"])
    with pytest.raises(ValueError, match=r"a strength above 0 and a kept share in \(0, 1\]"):
        projection_head.predicted([1.0], [0.0])


# Expand or narrow


def test_widths_and_projectors_are_trained_and_measured(tmp_path):
    table = expand_or_narrow.reproduce(tmp_path, scale="smoke", seeds=[0], workers=0, progress=False)
    assert table.groupby("objective")["width"].apply(set).to_dict() == {
        "raw pixels": {3072}, "untrained": {4, 16}, "SimCLR": {4, 16}, "supervised": {4, 16},
    }  # fmt: skip
    assert set(table["linear"].dropna()) == {2, 8} and table.drop(columns="linear").notna().all(axis=None)
    assert table["sparsity"].between(0, 100).all() and (table["rankme"] <= table["width"] + 0.01).all()
