"""Where to cut: what probing keeps with a run, what the panel's state makes of it, and what it draws; without a browser."""

import io
import json
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from bokeh.models import BoxAnnotation, Plot
from PIL import Image

import workbench as wb
from workbench import cutting
from workbench.figures import theme
from workbench.panels.layer_cuts import Subject
from workbench.panels.where_to_cut import SHOWN

N = 96
Click = namedtuple("Click", "x y")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a very small network on garments."""
    torch.manual_seed(0)
    model = wb.build_encoder("convnet", "8-4", width=4, depth=2)
    out = tmp_path_factory.mktemp("runs") / "small"
    return wb.Trainer(epochs=1, batch_size=48).fit(model, wb.SimCLR(), wb.garments(N), wb.Augment(), out=out, progress=False)


@pytest.fixture(scope="module")
def tables(trained):
    with pytest.warns(UserWarning, match="not read: 'class_name'"):
        return wb.probe_run(trained, n=64, progress=False)


# what is kept


def test_the_numbers_are_those_of_probe_layers(trained, tables):
    layers = wb.main_layers(trained.model())
    known, asked = (
        wb.extract(trained.model(), images[:64], layers, progress=False) for images in (trained.images(), trained.held_out())
    )
    with pytest.warns(UserWarning):
        expected = wb.probe_layers(known, asked)
    assert list(dict.fromkeys(tables["probes"]["layer"])) == layers
    both = tables["probes"].merge(expected, on=["layer", "factor", "probe", "measure"])
    assert len(both) == len(expected) == len(tables["probes"])
    np.testing.assert_allclose(both["value_x"], both["value_y"], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(both["chance_x"], both["chance_y"])
    assert set(tables["probes"]["n_test"]) == {64} and set(tables["probes"]["d"]) == {4, 8}


def test_the_answers_are_those_that_the_numbers_count(trained, tables):
    factors = trained.held_out().factors[:64]
    for (layer, factor), rows in tables["answers"].groupby(["layer", "factor"]):
        one = tables["probes"].set_index(["layer", "factor"]).loc[layer, factor]
        assert list(rows["row"]) == list(range(64))
        if one["measure"] == "accuracy":
            assert one["value"] == pytest.approx(1 - rows["off"].mean())
            assert list(rows["off"] == 0) == list(rows["truth"] == rows["answer"])
        else:
            truth = factors[factor].to_numpy(float)
            assert one["value"] == pytest.approx(1 - np.square(rows["off"]).sum() / np.square(truth - truth.mean()).sum())
            np.testing.assert_allclose(rows["truth"].astype(float), truth, rtol=6e-3)
    label = tables["answers"].query("factor == 'label' and layer == 'backbone'")
    assert list(label["truth"]) == list(factors["class_name"])  # words, where a factor says the same in words


def test_the_spectra_are_of_the_held_out_features(trained, tables):
    asked = wb.extract(trained.model(), trained.held_out()[:64], ["projector"], progress=False)
    kept = tables["cuts"].query("layer == 'projector'").sort_values("rank")
    np.testing.assert_allclose(kept["value"], wb.spectrum(asked["projector"])["value"], rtol=1e-4, atol=1e-9)


def test_the_held_out_images_are_kept_as_pictures(trained, tables):
    images = trained.held_out()
    assert list(tables["held_out"]["factor.label"]) == list(images.factors["label"][:64])
    for row in (0, 63):
        picture = np.asarray(Image.open(io.BytesIO(tables["held_out"]["thumbnail"][row])))
        np.testing.assert_array_equal(picture, images.at([row])[0].permute(1, 2, 0).numpy())


def test_large_and_grey_images_are_kept_small(tmp_path):
    images = wb.from_arrays(np.zeros((24, 1, 100, 50), np.uint8), {"label": [0, 1] * 12})
    small = Image.open(io.BytesIO(cutting.pictured(images)["thumbnail"][0]))
    assert small.size == (32, 64) and small.mode == "L"


def test_what_was_probed_is_not_probed_again(trained, tables, monkeypatch):
    monkeypatch.setattr(cutting, "extract", lambda *a, **k: pytest.fail("it looked at images again"))
    again = wb.probe_run(trained, n=64, factor=["label", "hue"], progress=False)
    pd.testing.assert_frame_equal(again["probes"], tables["probes"])


def test_it_can_be_stopped_and_gone_on_with(trained, tmp_path):
    run = wb.Run(shutil.copytree(trained.path, tmp_path / "run", ignore=shutil.ignore_patterns("tables")))
    layers = wb.main_layers(run.model())
    going = cutting.probing(run, n=48, factor=["label", "hue"])
    shares = []
    for at in going:
        shares.append(at.share)
        if at.next.startswith(layers[2] + ":"):
            break
    going.close()
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] < 1
    assert list(run.table("probes")["layer"].unique()) == layers[:2]
    done = run.table("probes")
    rest = list(cutting.probing(run, n=48, factor=["label", "hue"]))
    assert rest[-1].share == 1 and not [at for at in rest if at.next.startswith((layers[0] + ":", layers[1] + ":"))]
    assert list(run.table("answers")["layer"].unique()) == layers
    pd.testing.assert_frame_equal(run.table("probes").iloc[: len(done)], done)
    changed = wb.probe_run(run, n=40, factor="label", layers=["backbone"], progress=False)
    assert list(changed["probes"]["layer"]) == ["backbone"] and set(changed["answers"]["row"]) == set(range(40))
    assert len(changed["held_out"]) == 40


def test_killed_between_two_tables_a_layer_is_probed_again(trained, tmp_path, monkeypatch):
    run = wb.Run(shutil.copytree(trained.path, tmp_path / "run", ignore=shutil.ignore_patterns("tables")))
    settings = {"n": 48, "factor": "label", "layers": ["backbone", "projector"], "progress": False}
    for n in range(7):
        written = []

        def write(self, name, table, *, n=n, written=written, real=wb.Run.write_table):
            if len(written) == n:
                raise KeyboardInterrupt
            written.append(name)
            real(self, name, table)

        with monkeypatch.context() as only, pytest.raises(KeyboardInterrupt):
            only.setattr(wb.Run, "write_table", write)
            wb.probe_run(run, **settings)
        made = wb.probe_run(run, **settings)
        for name in ("probes", "answers", "cuts"):
            assert set(made[name]["layer"]) == {"backbone", "projector"}
        assert not made["answers"].duplicated(["layer", "factor", "row"]).any()
        shutil.rmtree(run.path / "tables")


def test_images_of_ones_own_are_halved(trained, tmp_path):
    run = wb.Run(shutil.copytree(trained.path, tmp_path / "run", ignore=shutil.ignore_patterns("tables")))
    made = wb.probe_run(run, wb.garments(80, seed=5), layers=["backbone"], factor="label", progress=False)
    assert made["probes"][["n_train", "n_test"]].to_numpy().tolist() == [[40, 40]]
    with pytest.raises(KeyError, match="no factor 'colour'; they have label"):
        wb.probe_run(run, wb.garments(80), factor="colour", progress=False)


def test_a_model_of_timm_becomes_a_run(tmp_path):
    run = wb.keep_model("timm:test_vit", tmp_path / "vit", images=wb.garments(64))
    assert run.steps == [0] and run.finished
    same = wb.keep_model("timm:test_vit", tmp_path / "other", images=wb.garments(64))
    for one, other in zip(run.model().parameters(), same.model().parameters(), strict=True):
        assert torch.equal(one, other)
    made = wb.probe_run(run, n=48, factor="label", progress=False)
    assert list(made["probes"]["layer"]) == wb.main_layers(run.model())
    assert [n for n in made["probes"]["layer"] if "blocks" in n] and made["probes"]["layer"].iloc[-1] == "backbone"
    before = (run.path / "run.json").stat().st_mtime_ns
    assert wb.keep_model("timm:test_vit", tmp_path / "vit", images=wb.garments(64)).path == run.path
    assert (run.path / "run.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="no architecture 'nothing'"):
        wb.keep_model("timm:nothing", tmp_path / "nothing", images=wb.garments(8))
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("model", "n", "settings", "says"),
    [
        ("timm:test_convnext", 16, {}, "model.backbone.name was 'test_vit', is 'test_convnext'"),
        ("timm:test_vit.r160_in1k", 16, {}, "model.backbone.name was 'test_vit', is 'test_vit.r160_in1k'"),
        ("timm:test_vit", 16, {"image_size": 64}, "model.backbone.image_size was 32, is 64"),
        ("timm:test_vit", 8, {}, "images.n was 16, is 8; images.digest was '.*', is '.*'; images.recipe.n was 16, is 8"),
        ("timm:test_vit", 16, {"seed": 1}, r"its weights are others \(of another seed, file or training\)"),
    ],
)
def test_a_model_is_not_taken_for_another_that_stands_there(tmp_path, monkeypatch, model, n, settings, says):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: pytest.fail("weights were fetched"))
    out = tmp_path / "vit"
    wb.keep_model("timm:test_vit", out, images=wb.garments(16))
    with pytest.raises(ValueError, match=rf"vit was made from something else: {says}.* another folder"):
        wb.keep_model(model, out, images=wb.garments(n), **settings)


def test_published_weights_that_are_kept_are_not_fetched_again(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: fetched.append(1))
    runs = [wb.keep_model("timm:test_vit.r160_in1k", tmp_path / "vit", images=wb.garments(16), seed=seed) for seed in (0, 1)]
    assert fetched == [1] and runs[0].identity() == runs[1].identity()


def test_a_model_that_was_trained_since_is_not_the_one_that_stands_there(tmp_path):
    model, images = wb.build_encoder("convnet", "8", width=4), wb.garments(16)
    run = wb.keep_model(model, tmp_path / "kept", images=images)
    assert wb.keep_model(model, tmp_path / "kept", images=images).identity() == run.identity()
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    with pytest.raises(ValueError, match="kept was made from something else: its weights are others"):
        wb.keep_model(model, tmp_path / "kept", images=images)


def test_a_trained_run_is_not_a_kept_model(trained):
    images, model = trained.images(), trained.model(trained.steps[0])
    with pytest.raises(ValueError, match=r"was made from something else: .*total was \d+, is 0"):
        wb.keep_model(model, trained.path, images=images)


def test_the_size_of_a_kept_model_can_be_given(tmp_path):
    run = wb.keep_model("timm:test_vit", tmp_path / "vit", images=wb.garments(16), image_size=64)
    assert run.model().backbone.size == 64
    with pytest.raises(ValueError, match="test_vit keeps the size .*: leave out image_size=64, or say resize=False"):
        wb.keep_model("timm:test_vit", tmp_path / "other", images=wb.garments(16), image_size=64, resize=True)


def test_timm_is_kept_by_its_name(tmp_path):
    with pytest.raises(
        TypeError, match="of timm cannot be described: give its name, 'timm:test_vit', and weights .* checkpoint="
    ):
        wb.keep_model(timm.create_model("test_vit"), tmp_path / "vit", images=wb.garments(16))


# a run as probing leaves it, small enough to know every answer

LAYERS = ["backbone.stage1", "backbone", "projector"]
RIGHT = {"backbone.stage1": range(3), "backbone": range(2, 10), "projector": range(5, 12)}  # rows whose label is told
ERROR = {"backbone.stage1": 0.5, "backbone": 0.2, "projector": 0.3}


def png(shade):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_probes(path, layers=LAYERS):
    """12 images; the label is told of the rows in RIGHT, the tilt with an error that grows with the row, or falls (projector)."""
    (path / "tables").mkdir(parents=True, exist_ok=True)
    (path / "run.json").write_text(json.dumps({"total": 0}))
    probes, answers, cuts = [], [], []
    for depth, layer in enumerate(layers):
        told = [row in RIGHT[layer] for row in range(12)]
        facts = {"step": 0, "layer": layer, "n_train": 20, "n_test": 12}
        probes += [facts | {"factor": "label", "measure": "accuracy", "value": np.mean(told), "chance": 0.25}]
        probes += [facts | {"factor": "tilt", "measure": "r2", "value": 0.4 + 0.1 * depth, "chance": -0.01}]
        for row in range(12):
            word = "boot" if row % 2 else "coat"
            one = {"step": 0, "layer": layer, "row": row}
            answers.append(
                one | {"factor": "label", "truth": word, "answer": word if told[row] else "bag", "off": 1.0 - told[row]}
            )
            off = ERROR[layer] * ((row + 1) if layer != "projector" else (12 - row)) / 12
            answers.append(one | {"factor": "tilt", "truth": f"{row}", "answer": f"{row + off:.3g}", "off": off})
        cuts += [
            {"step": 0, "layer": layer, "rank": k, "value": np.exp(-k * (depth + 1.0)), "n": 12, "d": 4} for k in range(1, 5)
        ]
    held_out = pd.DataFrame({"row": range(12), "thumbnail": [png(20 * r) for r in range(12)], "factor.tilt": np.arange(12.0)})
    for name, table in (("probes", probes), ("answers", answers), ("cuts", cuts), ("held_out", held_out)):
        pd.DataFrame(table).to_parquet(path / "tables" / f"{name}.parquet")
    return path


def state_of(path):
    return wb.CutState(wb.find_subjects([path])[0])


def test_the_state_opens_on_the_label_at_the_last_layer_against_the_backbone(tmp_path):
    state = state_of(write_probes(tmp_path / "mine"))
    assert (state.task, state.layer, state.against) == ("label", "projector", "backbone")
    assert state.param.task.objects == ["label", "tilt"] and state.param.layer.objects == LAYERS


def test_images_that_one_layer_has_right_and_the_other_wrong(tmp_path):
    state = state_of(write_probes(tmp_path / "mine"))
    here, there = state.parted()
    assert list(here["row"]) == [10, 11] and list(there["row"]) == [2, 3, 4]
    assert list(there["answer"]) == ["bag"] * 3 and list(there["answer_there"]) == ["coat", "boot", "coat"]
    spread = 100 * np.sqrt(5 - 1 / 12) / 12  # of the mean of +1, -1 and 0 over the images
    assert state.finding() == (
        "label: accuracy **0.58** at projector, **0.67** at backbone. Of 12 held-out images **2** are right at projector alone, "
        f"**3** at backbone alone: a difference of −8.3 ± {spread:.1f} points (standard error)."
    )


def test_numbers_part_by_the_difference_of_error(tmp_path):
    state = state_of(write_probes(tmp_path / "mine"))
    state.choose("projector", "tilt")
    gain = np.array([0.2 * (row + 1) - 0.3 * (12 - row) for row in range(12)]) / 12
    here, there = state.parted()
    assert list(here["row"]) == [r for r in np.argsort(-gain) if gain[r] > 0]
    assert list(there["row"]) == [r for r in np.argsort(gain) if gain[r] < 0]
    assert f"projector comes nearer for **{(gain > 0).sum()}** of 12" in state.finding() and "R² **0.60**" in state.finding()


def test_a_layer_is_never_held_against_itself(tmp_path):
    state = state_of(write_probes(tmp_path / "mine"))
    state.choose("backbone", "label")
    assert (state.layer, state.against) == ("backbone", "projector")
    state.against = "backbone"
    assert (state.layer, state.against) == ("projector", "backbone")
    state.against = "backbone.stage1"
    state.layer = "backbone"
    assert (state.layer, state.against) == ("backbone", "backbone.stage1")


def test_layers_that_come_later_are_taken_up_and_what_was_chosen_stays(tmp_path):
    state = state_of(write_probes(tmp_path / "mine", LAYERS[:1]))
    assert (state.layer, state.against) == ("backbone.stage1", "backbone.stage1")
    for layers in (LAYERS[:2], LAYERS):
        write_probes(tmp_path / "mine", layers)
        state.refresh()
    assert (state.layer, state.against) == ("projector", "backbone")
    state.choose("backbone.stage1", "tilt")
    state.refresh()
    assert (state.task, state.layer, state.against) == ("tilt", "backbone.stage1", "backbone")


def test_layers_that_answer_alike_are_said_to(tmp_path):
    path = write_probes(tmp_path / "mine")
    table = pd.read_parquet(path / "tables/answers.parquet")
    table.assign(off=0.0).to_parquet(path / "tables/answers.parquet")
    assert state_of(path).finding() == "label: projector and backbone answer alike about every one of 12 held-out images."


def test_of_one_layer_alone_only_its_value_is_said(tmp_path):
    state = state_of(write_probes(tmp_path / "mine", LAYERS[1:2]))
    assert state.finding() == "label: accuracy **0.67** at backbone; no other layer to hold it against yet."
    state.task = "tilt"
    assert state.finding().startswith("tilt: R² **")


def test_what_is_new_is_drawn_once(tmp_path, monkeypatch):
    path, drawn = write_probes(tmp_path / "mine", LAYERS[:1]), []
    monkeypatch.setattr(wb.WhereToCut, "_draw", lambda self: drawn.append((self.state.layer, self.state.against)))
    view = wb.WhereToCut(path)
    assert drawn == [("backbone.stage1", "backbone.stage1")]
    write_probes(path, LAYERS)
    view.renew()
    assert drawn[1:] == [("projector", "backbone")]
    view.state.choose("projector", "tilt")
    assert len(drawn) == 3


def test_subjects_are_runs_folders_and_names(tmp_path):
    write_probes(tmp_path / "runs" / "mine")
    write_probes(tmp_path / "runs" / "other")
    images = wb.garments(8)
    given = [tmp_path / "runs", "timm:resnet18.a1_in1k", "/no/where"]
    found, complaints = wb.find_subjects(given, out=tmp_path / "models", images=images)
    assert list(found) == ["mine", "other", "timm:resnet18.a1_in1k"]
    assert found["timm:resnet18.a1_in1k"].path == tmp_path / "models" / "timm-resnet18.a1_in1k"
    assert found["mine"].images() is images
    assert complaints == ["/no/where is no run: it does not exist."]


# the figures


def test_the_table_goes_from_chance_to_the_best_layer():
    table = pd.DataFrame(
        {"layer": ["backbone.a", "backbone"] * 3, "factor": ["label"] * 2 + ["tilt"] * 2 + ["noise"] * 2}
        | {"measure": ["accuracy"] * 2 + ["r2"] * 4, "value": [0.55, 1.0, -20, 0.5, 0.0, 0.01], "chance": [0.1, 0.1, 0, 0, 0, 0]}
    )
    figure = wb.cut_table(table, title="t")
    heat, words = (next(e for e in figure if isinstance(e, kind)) for kind in (hv.HeatMap, hv.Labels))
    cells = heat.data.set_index(["down", "across"])["share"]
    assert cells["label, accuracy", "a"] == pytest.approx(0.5) and cells["label, accuracy", "backbone"] == 1
    assert cells["tilt, R²", "a"] == 0 and cells["noise, R²", "backbone"] == pytest.approx(0.1)  # a tenth is not drawn as much
    assert (cells[:, "chance"] == 0).all() and len(cells) == 9
    assert heat.kdims[0].values == ["a", "backbone", "chance"]
    assert heat.kdims[1].values == ["noise, R²", "tilt, R²", "label, accuracy"]  # from below; classes on top
    printed = words.data.set_index(["down", "across"])["printed"]
    assert printed["tilt, R²", "a"] == "< −10" and printed["label, accuracy", "chance"] == "0.10"
    hv.render(figure)


def test_the_table_says_what_it_lacks():
    with pytest.raises(KeyError, match="cut_table needs the columns .* but .'chance'. are missing"):
        wb.cut_table(pd.DataFrame({"layer": ["a"], "factor": ["b"], "measure": ["r2"], "value": [1.0]}))
    rows = pd.DataFrame({"layer": ["a"] * 2, "factor": "b", "measure": "r2", "value": [1.0, 2.0], "chance": 0.0})
    with pytest.raises(ValueError, match="several values for one layer and factor"):
        wb.cut_table(rows)
    with pytest.raises(ValueError, match="no 'c' at 'a'"):
        wb.cut_curves(rows[:1], factor="c", layer="a")


def test_the_curves_stand_over_all_tasks_in_grey(tmp_path):
    table = state_of(write_probes(tmp_path / "mine")).probes()
    figure = wb.cut_curves(table, factor="tilt", layer="projector", against="backbone.stage1")
    parts = {e.label: e for e in figure}
    np.testing.assert_allclose(parts["task"].data["value"], [0.4, 0.5, 0.6])
    assert len(parts["all tasks"].data) == 2 and parts["chance"].data == -0.01
    points = [parts[f"point {colour}"].data[["depth", "value"]].to_numpy().tolist() for colour in theme.PAIR]
    np.testing.assert_allclose(points, [[[2, 0.6]], [[0, 0.4]]])
    drawn = hv.render(figure)
    assert drawn.yaxis[0].axis_label == "R²" and drawn.xaxis[0].major_label_overrides[0] == "stage1"


def test_layers_keep_their_names_where_short_ones_meet():
    assert wb.short_layers(["backbone.model.blocks.0", "backbone"])["backbone.model.blocks.0"] == "blocks.0"
    assert wb.short_layers(["backbone.backbone", "backbone"])["backbone.backbone"] == "backbone.backbone"


# the panel


def rows_in(pane):
    return [int(part.split('"')[0]) for part in pane.object.split('data-row="')[1:]]


def frames(view):
    """Left, bottom and colour of the frames in the drawn table."""
    root = view._page.get_root()
    table = next(m for m in root.references() if isinstance(m, Plot) and m.title.text == "What can be read from each layer")
    return lambda: [(b.left, b.bottom, b.line_color) for b in table.center if isinstance(b, BoxAnnotation) and b.name == "chosen"]


def test_a_click_changes_the_images_the_curves_and_the_spectra(tmp_path):
    view = wb.WhereToCut(write_probes(tmp_path / "mine"))
    framed = frames(view)
    assert [rows_in(grid) for grid in view.grids] == [[10, 11], [2, 3, 4]]
    assert framed() == [(1, 1, theme.PAIR[1]), (2, 1, theme.PAIR[0])]
    view.click(Click(0.5, 1.5))
    assert view.state.layer == "backbone.stage1" and framed() == [(1, 1, theme.PAIR[1]), (0, 1, theme.PAIR[0])]
    assert [rows_in(grid) for grid in view.grids] == [[0, 1], [*range(3, 10)]]
    assert "Right at stage1, wrong at backbone" in view.grids[0].object and "7 images" in view.grids[1].object
    curves = {e.label: e.data for e in view.spectrum.figure if isinstance(e, hv.Curve)}
    assert list(curves) == ["stage1", "backbone"]
    np.testing.assert_allclose(curves["backbone"]["middle"], np.exp(-2.0 * np.arange(1, 5)))
    view.click(Click(0.5, 0.5))
    assert view.state.task == "tilt" and view.curves.figure.opts.get("plot").kwargs["title"] == "tilt by depth"
    assert "Told better at stage1" in view.grids[0].object
    for nowhere in (Click(3.5, 0.5), Click(-0.2, 0.5), Click(0.5, 2.5)):  # chance, and the margins
        view.click(nowhere)
        assert (view.state.layer, view.state.task) == ("backbone.stage1", "tilt")


def test_a_picture_bears_its_truth_and_both_answers(tmp_path):
    path = write_probes(tmp_path / "mine")
    table = pd.read_parquet(path / "tables/answers.parquet")
    table["answer"] = table["answer"].replace("bag", "<b>bag</b>")
    table.to_parquet(path / "tables/answers.parquet")
    view = wb.WhereToCut(path)
    first = view.grids[1].object.split('data-row="')[1]
    assert "tilt: 2" in first and "coat" in first and f"color:{theme.PAIR[0]}" in first
    assert "&lt;b&gt;bag&lt;/b&gt;" in first and "<b>bag" not in first
    assert first.index("&lt;b&gt;bag") < first.rindex("coat")  # the chosen layer's answer before the other's


def test_no_more_pictures_than_fit(tmp_path):
    path = write_probes(tmp_path / "mine")
    many = pd.DataFrame({"row": range(100), "truth": "a", "factor": "label", "step": 0})
    parts = [many.assign(layer=layer, answer="ab"[layer == "backbone"], off=float(layer == "backbone")) for layer in LAYERS]
    pd.concat(parts).to_parquet(path / "tables/answers.parquet")
    pd.DataFrame({"row": range(100), "thumbnail": [png(0)] * 100}).to_parquet(path / "tables/held_out.parquet")
    view = wb.WhereToCut(path)
    assert rows_in(view.grids[0]) == list(range(SHOWN)) and f"100 images, {SHOWN} shown" in view.grids[0].object


def test_probing_shows_each_layer_and_can_be_stopped(tmp_path, monkeypatch):
    path = tmp_path / "mine"
    path.mkdir()
    (path / "run.json").write_text("{}")

    def probe(self):
        for i, layer in enumerate(LAYERS):
            write_probes(path, LAYERS[: i + 1])
            yield cutting.Probed((i + 1) / 3, layer)
            while i == 1 and not view.work.job.stopping.is_set():
                time.sleep(0.01)

    monkeypatch.setattr(Subject, "probe", probe)
    view = wb.WhereToCut(path)
    assert view.work.button.visible and not view.pictures.visible and not view.work.stop.visible
    view.work.start()
    until = time.monotonic() + 20
    while len(view.work._at) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    view.work.look()
    assert view.pictures.visible and view.state.param.layer.objects == LAYERS[:2] and view.work.progress.value == 67
    assert view.work.stop.visible and not view.work.button.visible
    view.work.stop.clicks += 1
    view.work.job.wait(20)
    view.work.look()
    assert view.work.job.error is None and view.work.button.visible and not view.work.stop.visible
    assert view.work.button.label == "Probe what is missing"


def test_what_fails_is_said(tmp_path, monkeypatch):
    def probe(self):
        raise ValueError("the images cannot be drawn again; pass <them>")
        yield

    monkeypatch.setattr(Subject, "probe", probe)
    view = wb.WhereToCut(write_probes(tmp_path / "mine"))
    view.work.start()
    view.work.job.wait(20)
    view.work.look()
    assert view.work.trouble.visible and "drawn again; pass &lt;them&gt;" in view.work.trouble.object and view.work.button.visible


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("probes", lambda path: path.write_bytes(b"no parquet"), "is damaged"),
        ("answers", lambda path: pd.DataFrame({"a": [1]}).to_parquet(path), "lacks the columns"),
        ("cuts", lambda path: pd.read_parquet(path).assign(value="x").to_parquet(path), "cannot be drawn"),
    ],
)
def test_damaged_tables_of_probes_get_a_sentence(tmp_path, name, damage, words):
    path = write_probes(tmp_path / "mine")
    damage(path / "tables" / f"{name}.parquet")
    view = wb.WhereToCut(path)
    assert view.trouble.visible and words in view.trouble.object


def test_a_second_opening_needs_no_torch(tmp_path):
    write_probes(tmp_path / "mine")
    write_probes(tmp_path / "models" / "timm-test_vit")
    code = f"""
import sys
sys.modules["torch"] = None
from workbench.panels import WhereToCut
view = WhereToCut([{str(tmp_path / "mine")!r}, "timm:test_vit"], out={str(tmp_path / "models")!r})
view.__panel__().get_root()
assert view.pictures.visible and view.state.subject == "mine"
view.state.subject = "timm:test_vit"
assert view.pictures.visible and 'data-row="10"' in view.grids[0].object
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_model_by_name_is_probed_from_the_panel(tmp_path):
    view = wb.WhereToCut("timm:test_vit", out=tmp_path, images=wb.garments(96))
    assert not view.state.measured()
    assert view.blank.visible and view.blank.object.startswith("**timm:test_vit** was not probed yet.")
    view.work.start()
    view.work.job.wait(300)
    view.work.look()
    assert view.work.job.error is None and view.state.measured() and not view.blank.visible
    assert (tmp_path / "timm-test_vit" / "tables" / "answers.parquet").exists()
    assert wb.WhereToCut("timm:test_vit", out=tmp_path).state.layer == view.state.layer
