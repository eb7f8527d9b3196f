import numpy as np
import pytest

import workbench as wb
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
