import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

import workbench as wb
from workbench.papers import metric_zoo as mz


def test_factors_are_uniform_and_go_together_only_when_told_to():
    free, tied = mz.factors(20_000), mz.factors(20_000, sigma=0.1)
    for name, many in mz.VALUES.items():
        assert sorted(free[name].unique()) == list(range(many))
        assert chisquare(np.bincount(free[name])).pvalue > 1e-3
    off = wb.factor_correlations(free).to_numpy() - np.eye(len(mz.VALUES))
    assert np.abs(off).max() < 0.03
    found = wb.factor_correlations(tied)
    assert found.loc["floor", "wall"] > 0.9 and found.loc["object", "size"] > 0.9 and abs(found.loc["shape", "wall"]) < 0.03


def test_the_odds_of_a_combination_are_those_of_its_distance():
    table = mz.factors(200_000, sigma=0.4)
    apart = (table["floor"] - table["wall"]).abs()
    pairs = np.array([sum(abs(a - b) == k for a in range(10) for b in range(10)) for k in (0, 3, 9)])
    each = np.array([(apart == k).sum() for k in (0, 3, 9)]) / pairs
    np.testing.assert_allclose(each[1:] / each[0], np.exp(-((np.array([3, 9]) / 9) ** 2) / (2 * 0.4**2)), rtol=0.1)


@pytest.mark.parametrize("code", mz.CODES)
def test_a_code_is_what_its_name_says(code):
    known = mz.factors(300)
    z, x = mz.made(code, known), mz.made("perfect", known)
    assert len(z) == 300 and np.isfinite(z).all() and np.abs(x).max() == 1
    alive = z[:, z.std(0) > 0]
    r = np.abs(np.corrcoef(alive.T, x.T)[: alive.shape[1], alive.shape[1] :])
    strong = {"in disguise": 6, "curved": 6, "perfect": 6, "beside noise": 6, "doubled": 12, "noisy": 6, "two in one": 6}
    strong |= {"turned in pairs": 12, "pure noise": 0, "constant": 0}
    if code != "rotated":
        assert (r > 0.5).sum() == strong[code]
    if code in ("turned in pairs", "rotated"):
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), np.linalg.norm(x, axis=1))


def test_what_a_code_deserves_and_what_a_measure_asks_make_what_is_expected():
    assert mz.expected("doubled", "disentanglement") and not mz.expected("doubled", "mig")
    assert mz.expected("rotated", "explicitness") and not mz.expected("rotated", "sap")
    with pytest.raises(KeyError, match="perfect"):
        mz.expected("perfekt", "mig")


def test_a_number_is_judged_by_its_way_from_chance_to_one():
    table = pd.DataFrame({"code": ["perfect", "perfect", "rotated", "rotated"], "measure": ["mig", "factorvae"] * 2})
    table = pd.concat([table.assign(seed=s, value=v) for s, v in ((0, [0.8, 0.95, 0.4, 0.65]), (1, [0.9, 0.95, 0.2, 0.55]))])
    judged = mz.judged(table).set_index(["code", "measure"])
    assert judged["verdict"].to_dict() == {
        ("perfect", "mig"): "too low",
        ("perfect", "factorvae"): "right",
        ("rotated", "mig"): "right",
        ("rotated", "factorvae"): "too high",
    }
    assert judged.loc[("rotated", "factorvae"), "share"] == pytest.approx((0.6 - 1 / 6) / (1 - 1 / 6))


def test_random_forests_take_noise_for_codes_where_boosted_trees_do_not():
    found = mz.regressors(["beside noise"], rows=600, trees=5, seeds=[0])
    d = found[found["measure"] == "disentanglement"].set_index("regressor")["value"]
    assert d["random forest"] < 0.75 < 0.95 < d["boosting, 5 trees"] and d["lasso"] > 0.95


def test_a_perfect_code_falls_by_degrees():
    noise = mz.along("noise (sigma)", rows=300, trees=1, seeds=[0])
    assert list(noise["noise (sigma)"]) == list(mz.CHANGES["noise (sigma)"][0])
    assert noise["infoe"].is_monotonic_decreasing and noise["mig"].iloc[0] > 0.9 > 0.1 > noise["mig"].iloc[-1]
    bent = mz.along("bend", rows=300, trees=1, seeds=[0])
    assert bent["modularity"].min() > 0.95 and bent["sap"].iloc[-1] < bent["sap"].iloc[0] - 0.1
