import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench.objectives.base import Objective
from workbench.papers import hfs


@pytest.mark.parametrize(("sigma", "correlation"), [(None, 0.0), (0.4, 0.40), (0.2, 0.77), (0.1, 0.94)])
def test_pairs_go_together_as_strongly_as_told(sigma, correlation):
    pairs = hfs.drawn_pairs(20_000, sigma=sigma)
    assert pairs.shape == (20_000, 2) and pairs.min() >= 0 and pairs.max() <= 1
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(correlation, abs=0.03)


def test_directions_and_what_is_seen_along_them():
    np.testing.assert_allclose(hfs.directions([0, 90, 45]), [[1, 0], [0, 1], [0.5**0.5, 0.5**0.5]], atol=1e-12)
    x = hfs.drawn_pairs(500)
    table = hfs.support_map(x, step=45)
    assert table[["first", "second"]].to_numpy().tolist() == [[0, 45], [0, 90], [0, 135], [45, 90], [45, 135], [90, 135]]
    own = float(wb.hausdorff_support(x, grid=32))
    assert table.set_index(["first", "second"])["value"][0, 90] == pytest.approx(own)
    assert table["value"].idxmin() == 1


def test_an_error_is_none_of_the_right_axes_in_any_order_and_sign(monkeypatch):
    turn = {}

    def oracle(x, seed):
        angle = np.random.default_rng(seed + 1).uniform(0, 90)
        turn["back"] = hfs.directions(angle + np.array([90, 0])) * [[-3], [2]]
        return turn["back"]

    monkeypatch.setitem(hfs.METHODS, "oracle", oracle)
    assert hfs.recovered("oracle", sigma=0.4, n=50, seed=4)["error"] == pytest.approx(0, abs=1e-6)
    monkeypatch.setitem(hfs.METHODS, "off", lambda x, seed: hfs.directions(np.rad2deg(np.arctan2(*oracle(x, seed).T[::-1])) + 10))
    assert hfs.recovered("off", sigma=None, n=50, seed=4)["error"] == pytest.approx(10)
    with pytest.raises(KeyError, match="FastICA"):
        hfs.recovered("ICA", sigma=None)


def test_support_finds_correlated_factors_where_independence_and_decorrelation_do_not():
    error = hfs.recovery([0.4], seeds=[0, 1]).groupby("method")["error"].mean()
    assert error["factorised support"] < 5 < error["FastICA"] < error["PCA"]
    assert error["PCA"] > 35


def test_the_limit_support_prefers_other_axes_in_small_batches_and_strong_correlations():
    table = hfs.limit([None, 0.4, 0.1], sizes=[64, 1024], seeds=range(6))
    mean = table.fillna({"sigma": 9}).groupby(["sigma", "n", "axes"])["value"].mean()
    for sigma, n, right in ((9, 64, True), (0.4, 64, True), (0.4, 1024, True), (0.1, 64, False), (0.1, 1024, False)):
        assert (mean[sigma, n, "the factors'"] < mean[sigma, n, "turned by 45°"]) == right


TIED = "floor_hue-wall_hue@0.1"


def table(value, **settings):
    """Rows as the sweep gives them, one for each of the values."""
    shared = {"setting": TIED, "method": "beta-VAE", "beta": np.nan, "weight": np.nan, "seed": 0, "judged_on": "uniform"}
    return pd.DataFrame(shared | {"factor": None, "measure": "disentanglement", "value": value, "chance": np.nan} | settings)


def test_every_strength_of_every_scale_makes_its_objective():
    for name, scale in hfs.SCALES.items():
        for method, tried in scale.strengths.items():
            made = [hfs.OBJECTIVES[method]({"pixel_std": scale.pixel_std}, **strengths) for strengths in tried]
            assert made and all(isinstance(one, Objective) for one in made), (name, method)
    assert hfs.OBJECTIVES["HFS"]({}, weight=7).objective.beta == 0


def test_a_perfect_code_is_told_so_and_even_its_classifier_learns_what_goes_together():
    z = wb.factor_numbers(hfs._scenes("smoke")).to_numpy(float)
    found = hfs.judged(z, TIED, scale="smoke", errors=np.arange(len(z)) % 2)
    uniform = found[found["judged_on"] == "uniform"].set_index("measure")["value"]
    assert min(uniform[m] for m in ("disentanglement", "quick disentanglement", "infom", "informativeness")) > 0.95
    assert uniform["active"] == z.shape[1]
    accuracy = found[found["measure"] == "accuracy"].set_index(["factor", "judged_on"])["value"]
    assert accuracy.loc[["label", "size", "hue"]].min() > 0.95 and accuracy["wall_hue", TIED] > 0.95
    assert accuracy["wall_hue", f"{TIED} inverse"] < 0.6
    assert set(found["judged_on"]) == {"uniform", TIED, f"{TIED} inverse"}
    low, high = (found[(found["measure"] == "quick mig") & (found["judged_on"] == j)]["value"].item() for j in (TIED, "uniform"))
    assert low < 0.8 * high
    assert found.loc[found["measure"] == "error", "value"].between(0.3, 0.7).all()


def test_of_a_large_grid_only_scenes_that_are_looked_at_are_judged(monkeypatch):
    """As of the paper's 480,000, to the number: of those not looked at nothing is drawn or encoded."""
    model = hfs.fresh(scale="smoke")
    z, errors = hfs.codes(model, scale="smoke")
    assert len(hfs.looked_at(TIED, scale="smoke")) == len(z)
    components = hfs._principal(TIED, scale="smoke", seed=0)
    shrunk = hfs.SCALES["smoke"]._replace(rows=60)
    monkeypatch.setitem(hfs.SCALES, "smoke", shrunk)
    whole = hfs.judged(z, TIED, scale="smoke", errors=errors)
    monkeypatch.setattr(hfs, "WHOLE", 10)
    rows = hfs.looked_at(TIED, scale="smoke")
    assert 60 < len(rows) < len(z) and (np.diff(rows) > 0).all()
    few, off = hfs.codes(model, scale="smoke", rows=rows)
    assert np.isnan(few).any(1).sum() == np.isnan(off).sum() == len(z) - len(rows)
    np.testing.assert_allclose(few[rows], z[rows], rtol=1e-4, atol=1e-6)
    part = hfs.judged(few, TIED, scale="smoke", errors=off)
    assert part["measure"].tolist() == whole["measure"].tolist() and np.isfinite(part["value"]).all()
    assert np.isfinite(hfs._principal(TIED, scale="smoke", seed=0)).all(1).sum() == len(rows) and np.isfinite(components).all()
    exact = z.copy()
    exact[np.setdiff1d(np.arange(len(z)), rows)] = np.nan
    same = hfs.judged(exact, TIED, scale="smoke", errors=off)
    beside = (whole["measure"] != "active") & (whole["measure"] != "error")
    pd.testing.assert_frame_equal(same[beside], whole[beside])


def test_a_code_of_sum_and_difference_is_misread_where_factors_go_together_the_other_way():
    factors = wb.factor_numbers(hfs._scenes("smoke"))
    z = factors[["floor_hue", "wall_hue"]].sum(axis=1).to_numpy(float)[:, None]
    found = hfs.judged(z, TIED, scale="smoke")
    accuracy = found[(found["measure"] == "accuracy") & (found["factor"] == "wall_hue")].set_index("judged_on")["value"]
    assert accuracy[TIED] > 0.9 and accuracy[f"{TIED} inverse"] < 0.6
    chance = found.loc[found["factor"] == "wall_hue", "chance"].unique()
    assert chance == pytest.approx([1 / factors["wall_hue"].nunique()])


def test_the_strength_that_counts_is_chosen_on_the_other_seeds():
    runs = pd.concat(
        [
            table([0.1], beta=1.0, seed=0), table([0.9], beta=1.0, seed=1), table([0.2], beta=1.0, seed=2),
            table([0.5], beta=4.0, seed=0), table([0.4], beta=4.0, seed=1), table([0.3], beta=4.0, seed=2),
            table([0.7], method="untrained", seed=0),
        ],
        ignore_index=True,
    )  # fmt: skip
    own = hfs.tuned(runs)
    chosen = own[own["method"] == "beta-VAE"].set_index("seed")["beta"]
    assert chosen.to_dict() == {0: 1.0, 1: 4.0, 2: 1.0}
    assert own.loc[own["method"] == "untrained", "value"].tolist() == [0.7]
    one = hfs.tuned(runs[runs["seed"] == 0])
    assert one.loc[one["method"] == "beta-VAE", "beta"].tolist() == [4.0]


def test_a_row_a_run_and_set_of_images_with_tied_and_free_factors_apart():
    accuracy = {"measure": "accuracy"}
    runs = pd.concat(
        [
            table([0.5], measure="quick disentanglement"), table([0.2], measure="quick mig"), table([0.01], measure="error"),
            table([0.8, 0.6, 0.3], factor=["floor_hue", "wall_hue", "size"], **accuracy),
            table([0.4, 0.6], factor=["floor_hue", "size"], setting="none", **accuracy),
            table([0.4, 0.6], factor=["wall_hue", "size"], setting="wall_hue-all@0.2", **accuracy),
        ],
        ignore_index=True,
    )  # fmt: skip
    found = hfs.transferred(runs).set_index("setting")
    wanted = ["disentanglement", "mig", "error", "accuracy of tied", "accuracy of free"]
    assert found.loc[TIED, wanted].tolist() == pytest.approx([0.5, 0.2, 0.01, 0.7, 0.3])
    assert found.loc["none", "accuracy of free"] == pytest.approx(0.5) and np.isnan(found.loc["none", "accuracy of tied"])
    assert found.loc["wall_hue-all@0.2", "accuracy of tied"] == pytest.approx(0.5)


def test_a_row_of_the_sweep_and_what_is_not_there(tmp_path):
    how = {"setting": TIED, "seed": 0, "scale": "smoke"}
    trained = hfs.row(tmp_path / "run", method="beta-VAE + HFS", beta=1, weight=3, **how)
    assert np.isfinite(trained["value"]).all() and wb.Run(tmp_path / "run").spec["objective"]["weight"] == 3
    assert set(hfs.row(tmp_path, method="PCA of pixels", **how)["measure"]) == set(trained["measure"]) - {"error"}
    with pytest.raises(KeyError, match="FactorVAE"):
        hfs.row(tmp_path, method="VAE", **how)
    with pytest.raises(KeyError, match="floor_hue-wall_hue"):
        hfs.train("hue-size@0.1", "beta-VAE", tmp_path / "none", beta=1, scale="smoke")
