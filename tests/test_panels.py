"""Panels without a browser: what their state makes of tables, toys and lessons, and that torch waits for its time."""

import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple

import holoviews as hv
import numpy as np
import pandas as pd
import panel as pn
import pytest
from bokeh.models import ColumnDataSource, Plot, Title

from workbench.panels import (
    Collapse,
    CollapseLive,
    CollapseRun,
    CollapseTheory,
    Job,
    Lesson,
    LinearToy,
    Picture,
    RunPair,
    find_runs,
)
from workbench.panels.live import Seen

Moment = namedtuple("Moment", "step table weights")


def falling(decay=0.0, depth=2, steps=200, **settings):
    """A toy whose k-th eigenvalue is exp(-decay k step / 10): dead dimensions can be counted by hand; its layers are aligned."""
    u, v, w = (np.linalg.qr(np.random.default_rng(i).normal(size=(16, 16)))[0] for i in range(3))
    scale = np.diag(np.arange(16, 0, -1.0))
    names = [f"W{k}" for k in range(1, depth + 1)] if depth > 1 else ["W"]
    for step in range(0, steps + 1, 50):
        value = np.exp(-decay * np.arange(16) * step / 10)
        parts = [pd.DataFrame({"step": step, "matrix": m, "rank": range(1, 17), "value": value}) for m in [*names, "embedding"]]
        yield Moment(step, pd.concat(parts), (u @ scale @ v, w @ scale @ u.T, w)[: len(names)])


def toy(**params):
    return LinearToy({"depth": falling, "augmentation": lambda strength, steps: falling(strength, 1, steps)}, steps=200, **params)


def drawn(picture: Picture) -> dict[str, np.ndarray]:
    """Label of each curve and the values that it holds now."""
    return {e.label: e.data["middle"].to_numpy() for e in picture.figure if isinstance(e, hv.Curve)}


def floors(picture: Picture) -> list[float]:
    """The heights of the floors that are drawn now."""
    return [path["middle"][0] for e in picture.figure if e.label == "floor" for path in e.data]


# jobs


def test_a_job_runs_apart_and_stops_when_told():
    seen = []

    def work(job):
        while not job.stopping.is_set():
            seen.append(threading.current_thread())
            time.sleep(0.01)

    job = Job(work).start()
    time.sleep(0.1)
    assert job.running and seen[0] is not threading.current_thread()
    job.stop()
    job.wait(5)
    assert not job.running and job.error is None


def test_a_job_keeps_what_went_wrong():
    job = Job(lambda job: 1 / 0).start()
    job.wait(5)
    assert isinstance(job.error, ZeroDivisionError) and job.done.is_set()


# theory


@pytest.mark.parametrize("decay", [0.1, 0.5])
def test_dead_dimensions_are_counted_at_the_step(decay):
    state = toy(decay=decay)
    state.begin().wait()
    for step in (0, 50, 200):
        state.step = step
        assert state.dead() == sum(-decay * k * step / 10 < -8 for k in range(16))
        assert f"Step {step}: **{state.dead()} of 16" in state.finding()
    state.step = 120
    assert state.moment().step == 100


def test_before_training_the_layers_are_as_they_start():
    state = toy(depth=3, decay=0.2)
    table = state.spectrum()
    start = table[table["matrix"] == "W3"]["value"]
    np.testing.assert_allclose(start, np.exp(-0.2 * np.arange(16)))
    assert list(table["matrix"].unique()) == ["W1", "W2", "W3", "embedding"] and state.dead() is None
    assert "Before training" in state.finding()


def test_the_augmentation_toy_tells_how_much_smaller():
    state = toy(cause="augmentation", strength=0.1)
    state.begin().wait()
    state.step = 200
    assert f"**{np.exp(8 * 0.1 * 20):.1f} times smaller**" in state.finding()


def test_alignment_is_of_the_first_two_layers():
    state = toy(depth=2)
    state.begin().wait()
    np.testing.assert_allclose(state.alignment(), np.eye(16), atol=1e-9)
    single = toy(depth=1)
    single.begin().wait()
    assert single.alignment() is None


def test_the_theory_draws_what_the_state_says():
    view = CollapseTheory(toy(decay=0.5))
    assert set(drawn(view.weights)) == {"W1", "W2"} and np.isnan(drawn(view.embedding)["embedding"]).all()
    view.start()
    view.job.wait()
    view.look()
    assert view.player.value == view.toy.step == 200
    np.testing.assert_allclose(drawn(view.embedding)["embedding"], np.exp(-10.0 * np.arange(16)).clip(1e-87 / 3))
    view.player.value = 50
    np.testing.assert_allclose(drawn(view.weights)["W1"], np.exp(-2.5 * np.arange(16)))
    assert [e.data for e in view.course.figure if isinstance(e, hv.VLine)] == [50]


def test_moving_a_slider_trains_again_once_something_trained():
    view = CollapseTheory(toy(decay=0.5))
    view.toy.decay = 0.3
    assert view.job is None
    view.start()
    first = view.job
    view.toy.depth = 3
    assert view.job is not first and first.stopping.is_set()
    view.job.wait()
    view.look()
    assert set(drawn(view.weights)) == {"W1", "W2", "W3"}


def test_a_toy_that_fails_says_so():
    def broken(**settings):
        yield from ()
        raise ValueError("no such depth")

    view = CollapseTheory(LinearToy({"depth": broken}))
    view.start()
    view.job.wait()
    view.look()
    assert "no such depth" in view.said.object


@pytest.mark.slow
def test_the_papers_toy_loses_more_dimensions_the_deeper_it_is():
    dead = []
    for depth in (1, 2, 4):
        state = LinearToy(depth=depth, steps=1500)
        state.begin().wait()
        state.step = 1500
        dead.append(state.dead())
    assert dead[0] == 0 < dead[1] < dead[2]


# a run


def pair(measured_run, **params) -> RunPair:
    measured_run("mine", fall=0.05)
    other = measured_run("other", fall=0.4)
    return RunPair(find_runs([other.parent])[0], **params)


def test_runs_are_found_in_folders_and_bad_paths_get_a_sentence(measured_run, tmp_path):
    mine, other = measured_run("mine"), measured_run("other")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    (tmp_path / "empty").mkdir()
    found, complaints = find_runs([mine, tmp_path, "/no/where", tmp_path / "empty"])
    assert {"mine", "other"} <= set(found) and found["other"].path == other
    assert any("damaged" in c for c in complaints)
    assert "/no/where is no run: it does not exist." in complaints
    assert any("holds no runs yet" in c for c in complaints)


def test_runs_are_looked_for_three_folders_down_and_no_deeper(measured_run, tmp_path):
    run = measured_run("near")
    for depth in ("a/b/c", "a/b/c/d"):
        shutil.copytree(run, tmp_path / "many" / depth)
    (tmp_path / "many/a/b/c/d").rename(tmp_path / "many/a/b/c/far")
    found, _ = find_runs([tmp_path / "many"])
    assert [run.path.relative_to(tmp_path / "many").as_posix() for run in found.values()] == ["a/b/c"]


def test_a_run_that_leads_out_of_its_folder_gets_a_sentence(tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    sly = tmp_path / "sly"
    sly.mkdir()
    (sly / "run.json").symlink_to(tmp_path / "secret.json")
    found, complaints = find_runs([sly])
    assert not found and "leads out of the run's folder" in complaints[0]


def test_the_step_picks_the_rows(measured_run):
    state = pair(measured_run)
    assert state.steps() == measured_run.steps and state.step == 40 and state.layers == [*measured_run.layers]
    state.step = 4
    rows = state.at_step("spectrum")
    assert set(rows["step"]) == {4} and set(rows["run"]) == {"mine", "other"}
    value = rows[(rows["run"] == "other") & (rows["layer"] == "projector")]["value"]
    np.testing.assert_allclose(value, np.exp(-np.arange(12) * (0.2 + 0.4 * 2 * np.log1p(4))))
    state.layers = ["backbone"]
    assert set(state.at_step("measures")["layer"]) == {"backbone"}


def test_the_other_runs_last_step_before_counts(measured_run):
    state = pair(measured_run)
    path = state.found["other"].path / "tables" / "spectrum.parquet"
    table = pd.read_parquet(path)
    table[table["step"] != 16].to_parquet(path)
    state.step = 16
    steps = state.at_step("spectrum").groupby("run")["step"].first()
    assert dict(steps) == {"mine": 16, "other": 4}


def test_the_course_is_a_row_a_run_layer_and_step(measured_run):
    state = pair(measured_run)
    course = state.course()
    assert len(course) == 2 * 3 * 5
    assert {"rankme", "knn", "step + 1"} <= set(course)
    row = course[(course["run"] == "mine") & (course["layer"] == "backbone") & (course["step"] == 16)].iloc[0]
    assert row["knn"] == pytest.approx(0.3 + 0.16 - 0.05) and row["step + 1"] == 17


def test_one_slider_moves_every_view(measured_run):
    view = CollapseRun(pair(measured_run))
    for step in (0, 16):
        view.player.value = step
        expected = np.exp(-np.arange(12) * (0.2 + 0.05 * 2 * np.log1p(step)))
        np.testing.assert_allclose(drawn(view.spectrum)["projector"], expected)
        assert drawn(view.spectrum)["projector (other)"][1] < expected[1] or step == 0
        for picture in (view.rank, view.near, view.loss):
            assert [e.data for e in picture.figure if isinstance(e, hv.VLine)] == [step + 1]
        printed = next(e for e in view.table.figure if isinstance(e, hv.Labels)).data["printed"]
        assert f"{0.3 + 0.01 * step:.3g}" in set(printed)
        assert f"Step {step}, projector: mine RankMe" in view.said.object


def test_each_curve_of_a_run_has_the_floor_of_its_table(measured_run):
    state = pair(measured_run)
    path = state.found["other"].path / "tables" / "spectrum.parquet"
    pd.read_parquet(path).drop(columns="floor").to_parquet(path)  # as it was kept before spectra had floors
    view = CollapseRun(state)
    np.testing.assert_allclose(floors(view.spectrum), [1e-15 / 8, 1e-15 / 16, 1e-15 / 12])
    np.testing.assert_allclose(drawn(view.spectrum)["projector"], np.exp(-np.arange(12) * (0.2 + 0.1 * np.log1p(40))))
    view.runs.run, view.runs.other = "other", "none"
    assert floors(view.spectrum) == [] and "projector" in drawn(view.spectrum)


def test_what_is_laid_over_is_alike_and_what_is_missing_is_said(measured_run):
    import json

    def told(name, objective, *, tables=True):
        path = measured_run(name, tables=tables)
        spec = json.loads((path / "run.json").read_text())
        spec |= {"objective": {"is": objective}, "images": {"digest": "a"}}
        (path / "run.json").write_text(json.dumps(spec))
        return path

    paths = [told("a", "SimCLR"), told("b", "VICReg"), told("sprites", "SimCLR", tables=False)]
    view = CollapseRun(RunPair(find_runs(paths)[0]))
    assert view.runs.other == "none" and not view.remark.visible
    view.runs.other = "sprites"
    assert view.remark.visible and f"sprites has no tables yet: workbench replay {paths[2]}" in view.remark.object
    assert set(view.runs.metrics()["run"]) == {"a", "sprites"}
    view.runs.other = "b"
    assert set(view.runs.metrics()["run"]) == {"a"} and "The loss of b is left out" in view.remark.object
    again = RunPair(find_runs([*paths, told("c", "SimCLR")])[0])
    assert again.other == "c"


def test_a_stage_that_is_the_backbone_is_not_drawn_twice(measured_run):
    path = measured_run("mine")
    table = pd.read_parquet(path / "tables" / "spectrum.parquet")
    twin = table[table["layer"] == "backbone"].assign(layer="backbone.stage4")
    pd.concat([twin, table]).to_parquet(path / "tables" / "spectrum.parquet")
    state = RunPair(find_runs([path])[0])
    assert "backbone.stage4" in state.param.layers.objects and "backbone.stage4" not in state.layers
    assert "backbone" in state.layers


def test_layers_can_be_left_out(measured_run):
    view = CollapseRun(
        pair(
            measured_run,
        )
    )
    view.runs.other = "none"
    view.runs.layers = ["backbone"]
    assert set(drawn(view.spectrum)) == {"backbone"}


def test_a_run_without_tables_can_be_measured(measured_run):
    path = measured_run("fresh", tables=False)
    view = CollapseRun(RunPair(find_runs([path])[0]), measure=lambda run: measured_run.write_tables(run.path, 0.1))
    assert view.button.visible and not view.pictures.visible and not view.runs.measured()
    view.measure()
    view.job.wait()
    view.look()
    assert view.pictures.visible and not view.button.visible and view.player.options == measured_run.steps
    np.testing.assert_allclose(drawn(view.spectrum)["backbone"], np.exp(-np.arange(16) * (0.2 + 0.1 * np.log1p(40))))


@pytest.mark.slow
def test_a_run_that_was_trained_is_measured(tmp_path):
    import workbench as wb

    model = wb.build_encoder("convnet", "8", width=4)
    wb.Trainer(epochs=1, batch_size=32).fit(
        model, wb.SimCLR(), wb.garments(64), wb.Augment(), out=tmp_path / "run", progress=False
    )
    view = CollapseRun(RunPair(find_runs([tmp_path])[0]))
    assert view.button.visible
    view.measure()
    view.job.wait(120)
    view.look()
    assert view.job.error is None and view.runs.steps() == view.runs.found["run"].steps
    assert {"backbone", "projector"} <= set(drawn(view.spectrum))
    assert len(drawn(view.spectrum)["projector"]) == 8


def test_what_fails_while_measuring_is_said(measured_run):
    def fails(run):
        raise ValueError("the images cannot be drawn again")

    view = CollapseRun(RunPair(find_runs([measured_run("fresh", tables=False)])[0]), measure=fails)
    view.measure()
    view.job.wait()
    view.look()
    assert view.trouble.visible and "cannot be drawn again" in view.trouble.object and not view.button.disabled


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"no parquet"), "is damaged"),
        (lambda path: pd.DataFrame({"a": [1]}).to_parquet(path), "lacks the columns"),
        (lambda path: pd.read_parquet(path).assign(value="x").to_parquet(path), "cannot be drawn"),
    ],
)
def test_damaged_tables_get_a_sentence(measured_run, damage, words):
    path = measured_run("mine")
    damage(path / "tables" / "spectrum.parquet")
    view = CollapseRun(RunPair(find_runs([path])[0]))
    assert view.trouble.visible and words in view.trouble.object


def test_names_from_elsewhere_are_words_and_not_html(measured_run):
    path = measured_run("mine")
    for name in ("spectrum", "measures"):
        table = pd.read_parquet(path / "tables" / f"{name}.parquet")
        table["layer"] = table["layer"].replace("projector", "<img src=x onerror=alert(1)>")
        table.to_parquet(path / "tables" / f"{name}.parquet")
    view = CollapseRun(RunPair(find_runs([path])[0]), ["<b>no</b>"])
    assert "&lt;img" in view.said.object and "<img" not in view.said.object
    assert view.alert[0].object == "&lt;b&gt;no&lt;/b&gt;"


def test_without_any_run_the_panel_stands():
    view = CollapseRun(RunPair({}), ["/no/where is no run: it does not exist."])
    assert view.alert[0].object == "/no/where is no run: it does not exist." and not view.button.visible


# live


def lesson_of(n: int, *, wait: float = 0.0, **params) -> Lesson:
    def teach(lesson):
        lesson.total = n
        for step in range(n + 1):
            time.sleep(wait)
            value = np.exp(-np.arange(8) * 0.1 * step)
            table = pd.DataFrame({"rank": range(1, 9), "value": value, "layer": "backbone", "floor": 1e-7})
            yield Seen(
                step,
                {"loss": 5.0 - step / n} if step else {},
                lesson.lr * lesson.lr_factor,
                100.0,
                {"backbone": value.sum()},
                table,
            )

    return Lesson(teach, **params)


def test_a_lesson_is_seen_as_it_goes():
    view = CollapseLive(lesson_of(20))
    view.begin()
    view.job.wait()
    view.look()
    np.testing.assert_allclose(drawn(view.spectrum)["backbone"], np.exp(-np.arange(8) * 2.0))
    assert floors(view.spectrum) == [1e-7, 1e-7]
    np.testing.assert_allclose(drawn(view.spectrum)["backbone (before training)"], 1)
    np.testing.assert_allclose(drawn(view.loss)[""], 5 - np.arange(1, 21) / 20)
    assert len(drawn(view.rank)["backbone"]) == 21 and view.progress.value == 100 and view.pause.disabled
    assert "Step 20 of 20" in view.said.object


def test_pause_continue_learning_rate_and_stop():
    view = CollapseLive(lesson_of(10_000, wait=0.005))
    view.begin()
    time.sleep(0.2)
    view.hold()
    assert view.pause.label == "Continue"
    time.sleep(0.1)
    at = len(view.lesson.seen)
    time.sleep(0.2)
    assert len(view.lesson.seen) == at > 1
    view.factor.value = 8.0
    view.hold()
    time.sleep(0.2)
    assert len(view.lesson.seen) > at and view.pause.label == "Pause"
    rates = view.lesson.course()["lr"]
    assert rates.iloc[0] == 1e-3 and rates.iloc[-1] == 8e-3
    view.end()
    view.job.wait(5)
    assert not view.job.running
    view.look()
    assert not view.start.disabled and view.stop.disabled and not view._choices[0].disabled


def test_a_paused_lesson_can_be_stopped():
    view = CollapseLive(lesson_of(10_000, wait=0.005))
    view.begin()
    view.hold()
    view.end()
    view.job.wait(5)
    assert not view.job.running


def test_two_lessons_share_nothing():
    first, second = lesson_of(5), lesson_of(5, objective="VICReg")
    first.begin().wait()
    first.lr_factor = 2.0
    assert second.seen == [] and second.lr_factor == 1.0 and first.objective == "SimCLR"


def test_every_objective_can_be_chosen():
    import workbench.objectives
    from workbench.objectives.base import Objective
    from workbench.spec import available

    assert set(Lesson().param.objective.objects) == set(available(workbench.objectives, Objective))


@pytest.mark.slow
@pytest.mark.parametrize("projector", ["none", "linear", "MLP"])
def test_a_real_lesson_trains(projector):
    lesson = Lesson(data="digits", projector=projector, images=256, batch_size=64, epochs=3)
    job = lesson.begin()
    job.wait(120)
    assert job.error is None
    course = lesson.course()
    assert list(course["step"]) == list(range(13)) and lesson.total == 12
    assert np.isfinite(course["loss"].iloc[1:]).all()
    assert set(lesson.ranks()["layer"]) == ({"backbone"} if projector == "none" else {"backbone", "projector"})
    assert (lesson.ranks()["RankMe"] > 1).all()


# all of it


def test_the_panel_opens_without_torch(measured_run):
    path = measured_run("mine")
    code = f"""
import sys
sys.modules["torch"] = None
from workbench.panels import Collapse
shown = Collapse([{str(path)!r}, "/no/where"])
shown.tabs.get_root()
assert shown.tabs.active == 1 and shown.run.runs.measured()
shown.tabs.active = 0
shown.tabs.active = 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_runs_the_theory_opens(tmp_path, monkeypatch, measured_run):
    monkeypatch.chdir(tmp_path)
    assert Collapse().tabs.active == 0 and "no runs yet" in Collapse().run.alert[0].object
    measured_run("runs/mine")
    shown = Collapse()
    assert shown.tabs.active == 0 and shown.run.runs.run == "mine"
    assert Collapse(tmp_path / "runs" / "mine").tabs.active == 1
    assert Collapse(shown.run.runs.found["mine"]).run.runs.run == "mine"


def test_a_picture_keeps_its_drawing_while_the_curves_are_the_same():
    from workbench.figures import spectra

    table = pd.DataFrame({"layer": "z", "rank": range(1, 6), "value": 1.0, "floor": 1e-3, "n": 100, "convention": "this"})
    picture = Picture()
    picture.show(spectra(table, title="one"))
    root = picture.__panel__().get_root()
    drawing = picture.__panel__().object
    figure = next(m for m in root.references() if isinstance(m, Plot))
    assert [part.text for part in figure.below if isinstance(part, Title)] == [
        "N = 100; numerical floor 1e-03, below what is drawn"
    ]
    picture.show(spectra(table.assign(value=0.5, floor=1e-2, n=200, convention="that"), title="two", ylim=(0.1, 1.0)))
    assert picture.__panel__().object is drawing
    sources = [m.data["middle"] for m in root.references() if isinstance(m, ColumnDataSource) and "middle" in m.data]
    assert all((values == 0.5).all() for values in sources) and len(sources) == 2
    assert [part.text for part in figure.below if isinstance(part, Title)] == [
        "N = 200; numerical floor 1e-02, below what is drawn"
    ]
    assert figure.yaxis[0].axis_label == "that" and figure.xaxis[0].axis_label == "rank"
    paths = [m.data["ys"] for m in root.references() if isinstance(m, ColumnDataSource) and "ys" in m.data]
    assert [list(path) for path in paths[0]] == [[1e-2, 1e-2]]
    assert figure.title.text == "two" and (figure.y_range.start, figure.y_range.end) == (0.1, 1.0)
    picture.show(spectra(pd.concat([table, table.assign(layer="h")])))
    assert picture.__panel__().object is not drawing


def test_a_table_keeps_its_colours_when_its_numbers_change():
    from bokeh.models import LinearColorMapper

    from workbench.figures import layer_table, regret_table, theme

    cells = pd.DataFrame({"layer": ["h", "z"], "measure": "rankme", "value": [3.0, 9.0]})
    costs = pd.DataFrame({"method": "SimCLR", "sweep": ["lr", "epochs"], "measure": "rankme", "regret": [0.5, 4.0]})
    for figure, change in ((layer_table, {"value": [7.0, 2.0]}), (regret_table, {"regret": [3.0, 1.0]})):
        table, picture = costs if "regret" in change else cells, Picture()
        picture.show(figure(table))
        root = picture.__panel__().get_root()
        picture.show(figure(table.assign(**change)))
        (mapper,) = [m for m in root.references() if isinstance(m, LinearColorMapper)]
        assert list(mapper.palette) == list(theme.PALE) and (mapper.low, mapper.high) == (0, change.get("regret", [1])[0])
        (source,) = [m for m in root.references() if isinstance(m, ColumnDataSource) and "printed" in m.data]
        assert "3.0" in source.data["printed"] or "7" in source.data["printed"]


def test_spectra_reach_to_the_floor_only_where_a_curve_of_the_step_does(measured_run):
    path = measured_run("mine")
    table = pd.read_parquet(path / "tables" / "spectrum.parquet")
    sinks = (table["layer"] == "projector") & (table["step"] == 4) & (table["rank"] == 12)
    table.assign(value=table["value"].where(~sinks, 1e-15)).to_parquet(path / "tables" / "spectrum.parquet")
    state = RunPair(find_runs([path])[0])
    spans = {}
    for step in state.steps():
        state.step = step
        spans[step] = state.span()
    assert spans[4][0] < 1e-16 and len({spans[step] for step in spans if step != 4}) == 1
    assert spans[0][0] == pytest.approx(table["value"][~sinks].min() / 5)
    state.step, state.layers = 4, ["backbone"]
    assert state.span()[0] == pytest.approx(table["value"][table["layer"] == "backbone"].min() / 5)


def test_a_run_without_the_layer_tells_of_its_own_deepest(measured_run):
    state = pair(measured_run)
    path = state.found["other"].path / "tables" / "measures.parquet"
    table = pd.read_parquet(path)
    table[table["layer"] != "projector"].to_parquet(path)
    rank = table.query("layer == 'backbone' and step == 40 and measure == 'rankme'")["value"].item()
    assert state.finding().startswith("Step 40, projector: mine RankMe **")
    assert f"; other (backbone) RankMe **{rank:.1f}**" in state.finding()


def test_other_notebooks_than_jupyters_need_their_bridge(monkeypatch):
    from workbench.panels import notebook

    monkeypatch.setenv("VSCODE_PID", "1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="reach vscode notebooks through jupyter_bokeh.*pip install jupyter_bokeh"):
        notebook()


def test_a_picture_comes_back_though_the_design_of_the_page_reached_its_figure():
    picture = Picture()
    picture.hide(hidden=True)
    picture.show(hv.Image(np.eye(4)))
    root = pn.Column(picture).get_root()
    ((_, inner),) = picture._pane._plots.values()
    inner._overrides.append("design")
    picture.hide(hidden=False)
    ((_, shown),) = picture._pane._plots.values()
    assert shown is not inner
    assert [model.visible for model in root.select({"type": type(shown.object)})] == [True]
