"""Choosing without labels, without a browser: what is read of folders, what a choice costs, what the panel draws of it."""

import json
import subprocess
import sys
from pathlib import Path

import holoviews as hv
import numpy as np
import pandas as pd
import pytest

from workbench.panels import Choice, Choosing, choice_along, outcomes_of, read_outcomes
from workbench.panels.choosing import EVERY
from workbench.panels.outcomes import label_free
from workbench.sweeping import grid, sweep

RATES, SEEDS = [1e-3, 2e-3, 4e-3], [0, 1, 2]


def numbers(method: str, lr: float, seed: int) -> dict[str, float]:
    """Of VICReg RankMe is lower and the probe higher; RankMe is wrong in seed 1 of SimCLR, LiDAR always."""
    best = 2e-3 if method == "SimCLR" else 4e-3
    short = abs(np.log2(lr / best))
    label = (60 if method == "SimCLR" else 70) - 5 * short + 0.5 * seed
    rankme = (50 if method == "SimCLR" else 20) - 4 * short + (9 if (method, lr, seed) == ("SimCLR", 1e-3, 1) else 0)
    return {"rankme": rankme, "lidar": 10 + 3 * short, "label": label, "x": 40 + short}


def task(out: Path, method: str, lr: float, seed: int) -> dict[str, float]:
    """A row that looks like one that trained."""
    (out / "run.json").write_text(json.dumps({"total": 9, "trainer": {"lr": lr}}))
    logged = [{"step": s, "epoch": 0, "lr": lr, "loss": 1 / (s + 1) + 1000 * lr + seed} for s in range(10)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    return numbers(method, lr, seed)


@pytest.fixture
def swept(tmp_path):
    """A sweep over rates and seeds; with several methods where they are named."""

    def make(*methods: str, name: str = "mine") -> Path:
        table = grid(method=list(methods), lr=RATES, seed=SEEDS)
        sweep(task, table, out=tmp_path / name, workers=0, progress=False)
        return tmp_path / name

    return make


def choice(path, **params) -> Choice:
    return Choice(read_outcomes([path])[0], **params)


def naive(methods, measure, best=max) -> tuple[float, float]:
    """Mean regret of the label, once a seed, and that of choosing at random."""
    lost, random = [], []
    for seed in SEEDS:
        rows = [numbers(m, lr, seed) for m in methods for lr in RATES]
        top = max(r["label"] for r in rows)
        lost.append(top - best(rows, key=lambda r: r[measure])["label"])
        random.append(top - np.mean([r["label"] for r in rows]))
    return float(np.mean(lost)), float(np.mean(random))


# what is read


def test_a_sweep_is_settings_measures_and_probes(swept):
    found, complaints = read_outcomes([swept("SimCLR", "VICReg")])
    known = found["mine"]
    assert known.settings == ["method", "lr"] and known.method == "method" and complaints == []
    assert known.measures == ["rankme", "lidar"] and known.probes == ["label", "x"]
    assert len(known.table) == 18 and {p.name for paths in known.folders.values() for p in paths} == set(known.table["run"])


def test_rows_that_failed_are_left_out_and_told(tmp_path):
    def sometimes(out, lr, seed):
        if lr == 1e-3:
            raise ValueError("no")
        return numbers("SimCLR", lr, seed)

    sweep(sometimes, grid(lr=RATES, seed=SEEDS), out=tmp_path / "mine", workers=0, progress=False)
    found, complaints = read_outcomes([tmp_path / "mine"])
    assert sorted(found["mine"].table["lr"].unique()) == RATES[1:]
    assert complaints == ["mine: 3 failed of 9 rows, which are left out."]


def test_runs_of_a_folder_bring_their_settings_and_their_last_measures(measured_run, tmp_path):
    for lr in (1e-3, 2e-3):
        for seed in (0, 1):
            path = measured_run(f"all/{lr},{seed}", fall=20 * lr)
            spec = {"total": 40, "trainer": {"lr": lr, "seed": seed}, "objective": {"is": "workbench.objectives.simclr:SimCLR"}}
            (path / "run.json").write_text(json.dumps(spec | {"made": {"at": str(seed)}}))
    found, complaints = read_outcomes([tmp_path / "all"])
    known = found["all"]
    assert known.settings == ["trainer.lr"] and known.method is None and complaints == []
    assert {"rankme (projector)", "loss"} <= set(known.measures) and known.probes[0] == "knn (backbone.stage1)"
    table = pd.read_parquet(tmp_path / "all" / "0.001,0" / "tables" / "measures.parquet")
    last = table[(table["step"] == 40) & (table["layer"] == "projector") & (table["measure"] == "rankme")]["value"].item()
    assert known.table.set_index("run").loc["0.001,0", "rankme (projector)"] == last
    state = Choice(found)
    assert state.measure == "rankme (projector)" and state.probe == "knn (backbone)" and state.floor() == 0
    single, _ = read_outcomes([tmp_path / "all" / "0.001,0", tmp_path / "all" / "0.002,1"])
    assert list(single["runs"].table["run"]) == ["0.001,0", "0.002,1"] and single["runs"].settings == ["trainer.lr"]


def test_the_rows_of_a_table_become_columns(tmp_path):
    def several(out, lr, seed):
        rows = [(layer, "accuracy", lr * 100 + seed + i) for i, layer in enumerate(("backbone", "projector"))]
        return pd.DataFrame([*rows, ("projector", "rankme", 1e4 * lr)], columns=["layer", "measure", "value"]).assign(n=9)

    sweep(several, grid(lr=RATES, seed=SEEDS), out=tmp_path / "mine", workers=0, progress=False)
    known = read_outcomes([tmp_path / "mine"])[0]["mine"]
    assert known.probes == ["backbone, accuracy", "projector, accuracy"] and known.measures == ["projector, rankme"]
    row = known.table.set_index("run").loc["lr=0.002,seed=1"]
    assert row[known.results].tolist() == pytest.approx([1.2, 2.2, 20])


def test_every_measure_is_known_to_need_no_labels():
    from workbench.cli.typed import measures

    assert {name: label_free(f"{name} (projector)") for name in measures()} == {name: name for name in measures()}
    assert [label_free(c) for c in ("label", "knn (backbone)", "plain garments", "rankmen")] == [None] * 4


def test_what_cannot_be_read_gets_a_sentence(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "sweep.parquet").write_bytes(b"no")
    (tmp_path / "empty").mkdir()
    found, complaints = read_outcomes([tmp_path / "bad", tmp_path / "empty", "/no/where"])
    assert found == {} and "sweep.parquet is damaged" in complaints[0] and "holds nothing that ended" in complaints[1]
    assert complaints[2].startswith("there is no folder /no/where")
    view = Choosing([tmp_path / "empty"])
    assert "holds nothing" in view.alert[0].object and not view._pictures.visible


# what a choice costs


def test_the_regret_is_that_of_a_choice_in_every_seed(swept):
    state = choice(swept("SimCLR"))
    table = state.regrets().set_index("measure")
    lost, random = naive(["SimCLR"], "rankme")
    assert lost == pytest.approx(5 / 3) and table.loc["rankme", "regret"] == pytest.approx(lost)
    assert table.loc["random", "regret"] == pytest.approx(random)
    assert table.loc["lidar", "regret"] == pytest.approx(naive(["SimCLR"], "lidar")[0])
    said = "Along **lr**, taking the highest RankMe, or the first of those on its plateau, costs, in label: **1.7 ± 2.9**"
    said += ", though seeds alone move the measure as far as settings do"
    assert state.finding() == f"{said} (at random 3.3). Seeds alone scatter label by 0.5."
    assert state.floor() == pytest.approx(0.5) and state.chosen() == [("mine", "lr 0.002")]
    state.measure = "lidar"
    state.best = "low"
    assert state.regrets().set_index("measure").loc["lidar", "regret"] == pytest.approx(naive(["SimCLR"], "lidar", min)[0]) == 0


def test_methods_are_not_ranked_against_each_other_unless_asked(swept):
    state = choice(swept("SimCLR", "VICReg"))
    table = state.regrets().set_index(["method", "measure"])["regret"]
    for method in ("SimCLR", "VICReg"):
        assert table[method, "rankme"] == pytest.approx(naive([method], "rankme")[0])
    assert state.refused and "RankMe is not ranked across methods" in state.refusal() and "SimCLR and VICReg" in state.refusal()
    assert [m for m, _ in state.chosen()] == ["SimCLR", "VICReg"] and "SimCLR **1.7" in state.finding()
    state.across = True
    lost, random = naive(["SimCLR", "VICReg"], "rankme")
    assert lost > 10
    table = state.regrets().set_index("measure")["regret"]
    assert table["rankme"] == pytest.approx(lost) and table["random"] == pytest.approx(random)
    assert not state.refused and "no paper licenses" in state.refusal() and len(state.chosen()) == 1


# along one hyper-parameter


def one_by_one(wide: bool = False) -> pd.DataFrame:
    """SimCLR along its temperature and its rate around (.2, 2e-3), VICReg along its rate; ``wide`` adds a run off both."""
    ways = [("SimCLR", t, 2e-3) for t in (0.1, 0.2, 0.5)] + [("SimCLR", 0.2, 4e-3)] + [("VICReg", None, lr) for lr in RATES]
    ways += [("SimCLR", 0.5, 4e-3)] if wide else []
    rows = []
    for seed in SEEDS:
        for method, t, lr in ways:
            plateau = {0.1: 30, 0.2: 98 + seed, 0.5: 100}.get(t, 0) if lr == 2e-3 else 10
            label = {0.1: 50, 0.2: 60, 0.5: 70}.get(t, 20 + 1000 * lr) + seed - (lr == 4e-3)
            rows.append({"method": method, "temperature": t, "lr": lr, "seed": seed, "rankme": float(plateau), "label": label})
    return pd.DataFrame(rows)


def tabled(table, **params) -> Choice:
    return Choice({"mine": outcomes_of(table, settings=["method", "temperature", "lr"], name="mine")}, **params)


def test_one_hyper_parameter_varies_and_the_others_are_held():
    state = tabled(one_by_one())
    assert list(state.lines()) == ["temperature", "lr"] and state.along == "temperature" and state.methods == ["SimCLR"]
    assert sorted(state.points()["setting"].unique()) == [0.1, 0.2, 0.5] and state.held() == {"SimCLR": "lr 0.002"}
    state.along = "lr"
    assert state.held() == {"SimCLR": "temperature 0.2", "VICReg": "all alike"} and state.refused
    assert state.points().groupby("method")["setting"].agg(set).to_dict() == {"SimCLR": {2e-3, 4e-3}, "VICReg": set(RATES)}
    state.along = EVERY
    assert len(state.points()) == 21 and set(state.points()["sweep"]) == {EVERY}


def test_what_is_not_varied_one_at_a_time_begins_with_all_settings():
    state = tabled(one_by_one(wide=True))
    assert state.along == EVERY and list(state.lines()) == ["temperature", "lr"]
    state.along = "temperature"
    assert len(state.points()) == 9


def test_on_the_plateau_the_first_is_taken_and_that_costs():
    state = tabled(one_by_one(), plateau=0.0)
    taken = state.taken()
    assert taken[taken["taken"]].set_index("seed")["setting"].to_dict() == {0: 0.5, 1: 0.5, 2: 0.2}  # 100 twice in seed 2
    state.plateau = 0.02  # of 30 to 100, 98 falls short by 0.029, 99 by 0.014
    taken = state.taken()
    assert taken[taken["taken"]].set_index("seed")["setting"].to_dict() == {0: 0.5, 1: 0.2, 2: 0.2}
    table = state.regrets().set_index(["method", "sweep", "measure"])["regret"]
    assert table["SimCLR", "temperature", "rankme"] == pytest.approx(20 / 3)
    assert {(m, s) for m, s, _ in table.index} == {("SimCLR", "temperature"), ("SimCLR", "lr"), ("VICReg", "lr")}
    assert state.bands() == {"SimCLR": (pytest.approx(100 - 0.02 * 70), np.inf)}
    assert "Along **temperature**" in state.finding() and "**6.7 ± 5.8**" in state.finding()
    state.across = True
    assert state.equal() == 0


def test_a_click_along_the_hyper_parameter_picks_the_nearest_setting():
    state = tabled(one_by_one())
    assert state.pick_along("label", 1.8, 70) == "method SimCLR, temperature 0.5, lr 0.002"
    state.along = "lr"
    assert state.pick_along("rankme", 1.1, 5) == "method VICReg, lr 0.002"


def test_the_panel_draws_measure_and_probe_along_it():
    view = Choosing(tabled(one_by_one(), plateau=0.1))
    own = {e.label: e.data for e in view.measured.figure if isinstance(e, hv.Points) and e.label}["SimCLR"]
    np.testing.assert_allclose(own[["x", "y"]], [[0, 30], [1, 99], [2, 100]])
    rings = [e.data[["x", "y"]].to_numpy().tolist() for e in view.judged.figure if isinstance(e, hv.Points) and not e.label]
    assert rings[0] == [[1, 61]]
    plateau, judged = (next(e.data for e in p.figure if isinstance(e, hv.HSpan)) for p in (view.measured, view.judged))
    np.testing.assert_allclose(plateau[:2], [93, 100])
    np.testing.assert_allclose(judged[:2], [71 - 2, 71 + 2])
    assert view._plateau.visible and not view._colour.visible
    view.choice.along = EVERY
    assert not view._plateau.visible and view._colour.visible and not view.measured._pane.visible


def test_a_table_without_its_settings():
    with pytest.raises(KeyError, match=r"the table has no columns \['rate'\]; it has \['method', 'temperature'"):
        outcomes_of(one_by_one(), settings=["method", "rate"])


def test_what_is_missing_is_left_out_of_the_choice(swept):
    path = swept("SimCLR")
    table = pd.read_parquet(path / "sweep.parquet")
    table.loc[(table["lr"] == 2e-3) & (table["seed"] == 0), "rankme"] = np.nan
    table.to_parquet(path / "sweep.parquet")
    state = choice(path)
    assert len(state.points()) == 8 and sorted(state.complete()["recipe"].unique()) == ["lr 0.001", "lr 0.004"]
    assert state.regrets().set_index("measure").loc["rankme", "regret"] == pytest.approx(0)
    table[table["lr"] == 1e-3].to_parquet(path / "sweep.parquet")
    alone = choice(path)
    assert alone.regrets().empty and "There is nothing to choose" in alone.finding() and alone.looked_at() == "all alike"


def test_runs_of_one_seed_twice_are_numbered(swept):
    path = swept("SimCLR")
    table = pd.read_parquet(path / "sweep.parquet").assign(seed=7)
    table.to_parquet(path / "sweep.parquet")
    state = choice(path)
    assert sorted(state.points()["seed"].unique()) == [0, 1, 2] and state.floor() == pytest.approx(0.5)


def test_one_seed_has_no_floor(swept):
    path = swept("SimCLR")
    table = pd.read_parquet(path / "sweep.parquet")
    table[table["seed"] == 0].to_parquet(path / "sweep.parquet")
    state = choice(path)
    assert state.floor() is None and state.finding().endswith("One seed: its scatter is not known.")


def test_any_number_can_be_either(swept):
    state = choice(swept("SimCLR"))
    state.measure, state.probe = "label", "rankme"
    assert state.regrets().set_index("measure").loc["label", "regret"] == pytest.approx(5 / 3)
    state.probe = "label"
    assert state.regrets().set_index("measure").loc["label", "regret"] == 0


def test_a_click_picks_the_nearest_setting_its_runs_and_their_curves(swept):
    state = choice(swept("SimCLR", "VICReg"))
    assert state.pick(12.5, 61) == "method VICReg, lr 0.001" == state.looked_at()
    assert set(state.rows()["lr"]) == {1e-3} and set(state.rows()["method"]) == {"VICReg"} and len(state.rows()) == 3
    curves = state.curves()
    assert list(curves["run"].unique()) == ["seed 0", "seed 1", "seed 2"]
    np.testing.assert_allclose(curves[curves["run"] == "seed 2"]["loss"], 1 / np.arange(1, 11) + 3)
    state.picked = "gone"
    assert state.looked_at() == "method SimCLR, lr 0.002"


# what is drawn


def dots(view) -> dict[str, np.ndarray]:
    """Places of the settings by legend entry."""
    return {e.label: e.data[["x", "y"]].to_numpy() for e in view.scatter.figure if isinstance(e, hv.Points) and e.label}


def marks(view) -> list[np.ndarray]:
    """Places of the rings, then of the cross."""
    return [e.data[["x", "y"]].to_numpy() for e in view.scatter.figure if isinstance(e, hv.Points) and not e.label]


def mean(method, lr, *names):
    return [np.mean([numbers(method, lr, seed)[n] for seed in SEEDS]) for n in names]


def test_the_panel_draws_what_the_state_says(swept):
    view = Choosing(swept("SimCLR", "VICReg"))
    for method, drawn in dots(view).items():
        np.testing.assert_allclose(drawn, [mean(method, lr, "rankme", "label") for lr in RATES])
    rings = [mean("SimCLR", 2e-3, "rankme", "label"), mean("VICReg", 4e-3, "rankme", "label")]
    np.testing.assert_allclose(np.concatenate(marks(view)), [*rings, rings[0]])
    assert view.refusal.visible and not [e for e in view.scatter.figure if isinstance(e, hv.HSpan)]
    assert "<b>0.002</b>" in view.recipe.object and "chosen by RankMe" in view.recipe.object
    view.choice.across = True
    np.testing.assert_allclose(np.concatenate(marks(view)), [rings[0], rings[0]])
    band = next(e.data for e in view.scatter.figure if isinstance(e, hv.HSpan))
    np.testing.assert_allclose(band[:2], [70.5 - 1, 70.5 + 1])
    view.choice.pick(*rings[1])
    np.testing.assert_allclose(marks(view)[-1], [rings[1]])
    assert "clicked" in view.recipe.object and "<b>VICReg</b>" in view.recipe.object
    printed = next(e for e in view.costs.figure if isinstance(e, hv.Labels)).data
    assert dict(zip(printed["measure"], printed["printed"], strict=True))["RankMe"].startswith("11.7")
    drawn = {e.label: e.data["middle"].to_numpy() for e in view.curves.figure if isinstance(e, hv.Curve)}
    np.testing.assert_allclose(drawn["seed 1"], 1 / np.arange(1, 11) + 5)


def test_titles_side_by_side_have_one_line_or_where_one_would_not_fit_two():
    def titles(measure, probe):
        table = pd.DataFrame({"lr": [1e-3, 2e-3], "seed": 0, measure: [1.0, 2.0], probe: [0.1, 0.2]})
        view = Choosing(Choice({"mine": outcomes_of(table, settings=["lr"], name="mine")}, along="lr"))
        pictures = (view.measured, view.judged, view.scatter)
        return [picture.figure.opts.get("plot").kwargs["title"] for picture in pictures]

    assert titles("rankme", "label") == ["RankMe along lr", "Label along lr", "RankMe against label"]
    long = ["RankMe (projector)\nalong lr", "Knn (backbone)\nalong lr", "RankMe (projector)\nagainst knn (backbone)"]
    assert titles("rankme (projector)", "knn (backbone)") == long


def test_colours_follow_numbers_and_a_line_joins_what_one_setting_orders(swept):
    view = Choosing(swept("SimCLR", "VICReg"))
    view.choice.along = EVERY
    assert len([e for e in view.scatter.figure if isinstance(e, hv.Curve)]) == 2
    view.choice.colour = "lr"
    assert list(dots(view)) == ["0.001", "0.002", "0.004"] == list(view.choice.colours())
    np.testing.assert_allclose(dots(view)["0.001"], [mean(m, 1e-3, "rankme", "label") for m in ("SimCLR", "VICReg")])


def test_the_measure_brings_what_is_best_of_it(swept, tmp_path):
    path = swept("SimCLR")
    table = pd.read_parquet(path / "sweep.parquet")
    table.assign(alpha_req=[0.1, 0.2, 0.3, 0.9, 1.1, 1.0, 3, 4, 5]).to_parquet(path / "sweep.parquet")
    state = choice(path, measure="alpha_req")
    assert state.best == 1.0 and state.chosen()[0][1] == "lr 0.002" and "the α-ReQ nearest to 1, or the first" in state.finding()
    state.measure = "loss" if "loss" in state.outcomes.results else "rankme"
    assert state.best == "high"


def test_another_folder_turns_everything(swept):
    found, _ = read_outcomes([swept("SimCLR"), swept("VICReg", name="other")])
    view = Choosing(Choice(found))
    view.choice.pick(0, 0)
    view.choice.folder = "other"
    assert view.choice.picked == "" and view._folder.visible
    np.testing.assert_allclose(np.concatenate(list(dots(view).values())).max(0), [20, 70.5])


def test_words_of_settings_are_no_html(tmp_path):
    def named(out, data, seed):
        return {"rankme": float(len(data)), "label": float(seed)}

    sweep(named, grid(data=["<img src=x>", "b"], seed=[0, 1]), out=tmp_path / "mine", workers=0, progress=False)
    view = Choosing(tmp_path / "mine")
    assert "&lt;img" in view.recipe.object and "<img" not in view.recipe.object


def test_it_opens_without_torch(swept):
    opened = f"v = Choosing({str(swept('SimCLR'))!r})"
    code = f"import sys; from workbench.panels import Choosing; {opened}; print('torch' in sys.modules, v.said.object)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False Along **lr**, taking the highest RankMe")


def test_a_choice_is_drawn_of_a_table():
    table = one_by_one().query("method == 'SimCLR' and lr == 0.002").assign(sweep="temperature")
    table["setting"] = table["temperature"]
    left, right = choice_along(table, "rankme", "label", plateau=0.1)
    rings = [
        [e.data[["x", "y"]].to_numpy().tolist() for e in p if isinstance(e, hv.Points) and not e.label] for p in (left, right)
    ]
    assert rings == [[[[1, 99]]], [[[1, 61]]]]
    bands = [next(e.data[:2] for e in p if isinstance(e, hv.HSpan)) for p in (left, right)]
    np.testing.assert_allclose(bands, [[93, 100], [71 - 2, 71 + 2]])
    one = choice_along(table[table["seed"] == 0], "rankme", "label", plateau=0.0)
    assert not [e for p in one for e in p if isinstance(e, hv.HSpan)]
    with pytest.raises(ValueError, match="draws one sweep of one method, but the table has 2"):
        choice_along(pd.concat([table, table.assign(sweep="lr")]), "rankme", "label")
