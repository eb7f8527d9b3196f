"""Choosing without labels: planted tables whose right choice and regret are known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from workbench.measures.selection import choose_run, choose_runs, plateau_band, regret, seed_floor


def planted(seeds=2, **columns):
    """Four temperatures; the oracle's best is 0.2."""
    runs = []
    for seed in range(seeds):
        part = pd.DataFrame({"setting": [0.05, 0.1, 0.2, 0.5], "oracle": [50.0, 60.0, 70.0, 40.0]})
        runs.append(part.assign(method="SimCLR", sweep="temperature", seed=seed, **columns))
    return pd.concat(runs, ignore_index=True)


def test_the_best_is_taken_high_low_or_near():
    table = planted(1, rankme=[10.0, 30.0, 90.0, 80.0], loss=[3.0, 1.0, 2.0, 4.0], alpha=[0.2, 0.9, 1.3, 1.05])
    assert choose_run(table, "rankme") == 2
    assert choose_run(table, "loss", best="low") == 1
    assert choose_run(table, "alpha", best=1.0) == 3


def test_on_a_plateau_the_first_setting_is_taken():
    table = planted(1, rankme=[10.0, 86.0, 90.0, 88.0])
    assert choose_run(table, "rankme", plateau=0.04) == 3 - 1
    assert choose_run(table, "rankme", plateau=0.06) == 1  # (90 - 86) / (90 - 10) = 0.05
    assert choose_run(table.iloc[::-1].reset_index(drop=True), "rankme", plateau=0.06) == 2  # the order is the setting's


@pytest.mark.parametrize("best", ["high", "low", 1.0])
def test_the_band_of_the_plateau_holds_what_choose_run_takes_for_equal(best):
    values = pd.Series([0.3, 0.9, 1.06, 1.3, 1.0, 2.0, 0.31])
    for plateau in (0.0, 0.05, 0.2):
        low, high = plateau_band(values, best=best, plateau=plateau)
        short = {"high": values.max() - values, "low": values - values.min(), 1.0: (values - 1).abs()}[best]
        within = (short - short.min()) <= plateau * (short.max() - short.min())
        assert values.between(low - 1e-9, high + 1e-9).tolist() == within.tolist()
        table = pd.DataFrame({"m": values, "method": "A", "setting": range(7)})
        assert choose_run(table, "m", best=best, plateau=plateau) == within.to_numpy().argmax()


def test_a_run_is_taken_in_every_seed_of_every_sweep():
    table = planted(rankme=[10.0, 30.0, 90.0, 80.0])
    table.loc[table["seed"] == 1, "rankme"] = [10.0, 95.0, 90.0, 80.0]
    other = table.assign(method="VICReg", sweep="lr", rankme=-table["rankme"])
    both = pd.concat([table, other], ignore_index=True).sample(frac=1, random_state=0)
    taken = both[choose_runs(both, "rankme")].set_index(["method", "seed"])["setting"].to_dict()
    assert taken == {("SimCLR", 0): 0.2, ("SimCLR", 1): 0.1, ("VICReg", 0): 0.05, ("VICReg", 1): 0.05}


def test_methods_are_not_ranked_against_each_other_unless_told_to():
    table = pd.concat([planted(1, rankme=1.0), planted(1, rankme=2.0).assign(method="VICReg")], ignore_index=True)
    with pytest.raises(ValueError, match=r"ranks runs of one method, but the table holds SimCLR, VICReg.*across=True"):
        choose_run(table, "rankme")
    assert choose_run(table, "rankme", across=True) == 4


def test_regret_of_a_planted_table():
    table = planted(rankme=[10.0, 30.0, 90.0, 80.0], alpha=[1.0, 0.2, 0.3, 2.0])
    found = regret(table, {"rankme": "high", "alpha": 1.0}, oracle="oracle").set_index("measure")
    assert found["regret"].to_dict() == {"oracle": 0.0, "random": 15.0, "rankme": 0.0, "alpha": 20.0}
    assert found.loc["alpha", "chosen"] == 0.05 and found.loc["alpha", "value"] == 50.0
    assert found.loc["rankme", "rank_correlation"] == pytest.approx(spearmanr([10, 30, 90, 80], [50, 60, 70, 40])[0])
    near = spearmanr([0, -0.8, -0.7, -1.0], [50, 60, 70, 40])[0]
    assert found.loc["alpha", "rank_correlation"] == pytest.approx(near)
    assert found.loc["rankme", "told"]


def test_the_choice_is_made_in_every_seed():
    table = planted(rankme=[10.0, 30.0, 90.0, 80.0])
    table.loc[table["seed"] == 1, "rankme"] = [10.0, 95.0, 90.0, 80.0]
    found = regret(table, {"rankme": "high"}, oracle="oracle").set_index("measure").loc["rankme"]
    assert found["regret"] == 5 and found["regret_std"] == pytest.approx(np.std([0, 10], ddof=1))


def test_a_measure_that_does_not_tell_settings_from_seeds_is_named():
    table = planted(3, rankme=[50.0, 50.1, 49.9, 50.0])
    table["rankme"] += 5 * table["seed"]
    with pytest.warns(UserWarning, match="its choice is chance: rankme in SimCLR, temperature"):
        found = regret(table, {"rankme": "high"}, oracle="oracle")
    assert not found.set_index("measure").loc["rankme", "told"]


def test_seed_floor_is_the_pooled_deviation():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3)) + 100 * np.arange(4)[:, None]
    table = pd.DataFrame({"setting": np.repeat(range(4), 3), "value": values.ravel()})
    want = np.sqrt(values.var(axis=1, ddof=1).mean())
    assert seed_floor(table, "value", by="setting") == pytest.approx(want)
    with pytest.raises(ValueError, match="needs two seeds at least"):
        seed_floor(table[::3], "value", by="setting")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda t: t.drop(columns="rankme"), KeyError, r"\['rankme'\] are missing"),
        (lambda t: t.iloc[:-1], ValueError, "SimCLR, temperature: every seed needs every setting once"),
        (lambda t: t.assign(rankme=np.nan), ValueError, "rankme is missing or infinite in 4 of 4 rows"),
    ],
)
def test_a_table_from_which_nothing_can_be_chosen(change, error, said):
    with pytest.raises(error, match=said):
        regret(change(planted(rankme=[1.0, 2.0, 3.0, 4.0])), {"rankme": "high"}, oracle="oracle")
    with pytest.raises(ValueError, match="best is 'high', 'low' or a number to be near, but got 'up'"):
        choose_run(planted(1, rankme=1.0), "rankme", best="up")
