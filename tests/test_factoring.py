"""The factors of the world: what is kept of a run's codes, what the state of the page makes of it, and what it draws."""

import io
import json
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
from bokeh.models import BoxAnnotation, ColumnDataSource, Plot
from PIL import Image

import workbench as wb
from workbench.cli import main
from workbench.panels import correlated, factor_state

Click = namedtuple("Click", "x y")
GRID = {"size": 16, "shapes": ("heart", "ell"), "scales": 2, "orientations": 1, "positions": 4, "hues": 1, "background_hues": 1}
KINDS = {"vae": lambda: wb.BetaVAE(beta=1, pixel_std=0.1), "hfs": lambda: wb.HFS(wb.BetaVAE(beta=1, pixel_std=0.1), weight=3)}
TIES = {"none": ({}, 0.1), "xy-0.4": ({"x": "y"}, 0.4), "xy-0.15": ({"x": "y"}, 0.15)}


def grid():
    return wb.sprites(None, **GRID)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Autoencoders of three codes on a grid of 64 sprites: two objectives under three correlations; and an encoder of 80."""
    out = tmp_path_factory.mktemp("runs")
    for kind, make in KINDS.items():
        for name, (ties, sigma) in TIES.items():
            torch.manual_seed(0)
            model = wb.build_autoencoder("locatello-small", 3, image_size=16)
            images = wb.correlate(grid(), ties, sigma=sigma, n=192)
            settings = {"out": out / f"{kind}-{name}", "progress": False}
            wb.Trainer(epochs=1, batch_size=32, lr=2e-3).fit(model, make(), images, wb.Plain(), **settings)
    model = wb.build_encoder("convnet", "16-8", width=40, depth=2)
    wb.Trainer(epochs=1, batch_size=32).fit(model, wb.VICReg(), grid(), wb.Augment(), out=out / "ssl", progress=False)
    return out


@pytest.fixture(scope="module")
def judged(trained):
    """The same with the tables of each autoencoder's codes."""
    for path in sorted(trained.glob("*-*")):
        wb.factor_run(wb.Run(path), progress=False)
    return trained


@pytest.fixture
def two(judged, tmp_path):
    """Copies of the six, tables and all, that a test may spoil; two of them are looked at."""
    for path in judged.glob("*-*"):
        shutil.copytree(path, tmp_path / path.name)
    return [tmp_path / "vae-xy-0.15", tmp_path / "hfs-xy-0.15", tmp_path]


def state_of(paths):
    return wb.FactorState(wb.find_subjects(paths)[0])


# what is kept


def test_the_tables_are_what_the_measures_say_of_the_uniform_grid(judged):
    run = wb.Run(judged / "vae-xy-0.15")
    tables = wb.kept_factors(run)
    images = grid()
    images = images[np.random.default_rng(0).permutation(len(images))]
    factors = wb.factor_numbers(images)
    z = wb.extract(run.model(), images, "projector", progress=False)["projector"].double().numpy()
    np.testing.assert_allclose(tables["codes"].to_numpy(), z, atol=1e-6)
    assert list(tables["about"][["layer", "n", "d", "images", "decodes"]].iloc[0]) == ["projector", 64, 3, "sprites", True]
    wide = {
        name: part.pivot(index="code", columns="factor", values="value")[list(factors)]
        for name, part in tables["matrices"].groupby("matrix")
    }
    own = [-sum(p * np.log(p) for p in factors[f].value_counts(normalize=True)) for f in factors]
    np.testing.assert_allclose(wide["information"], wb.mig(z, factors).matrix / own)
    np.testing.assert_allclose(wide["importance"], wb.dci(z, factors).matrix)
    whole = wb.disentanglement({"projector": z}, factors)
    np.testing.assert_allclose(tables["suite"]["value"], whole["value"], rtol=1e-6)
    assert list(tables["suite"]["measure"]) == list(whole["measure"]) and "correlated" not in tables["suite"]["warnings"][0]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(tables["images"]["thumbnail"][5]))), show(images, 5))
    assert list(tables["images"]["number.x"]) == list(factors["x"])


def show(images, row):
    return images.at([row])[0].permute(1, 2, 0).numpy()


def test_the_emptiest_corner_is_that_of_plain_loops(judged):
    tables = wb.kept_factors(wb.Run(judged / "hfs-none"))
    z = tables["codes"].to_numpy(float)
    assert len(tables["supports"]) == 3
    for one in tables["supports"].itertuples():
        x, y = (z[:, c] / z[:, c].std() for c in (one.p, one.q))
        apart = {(a, b): min((a - u) ** 2 + (b - v) ** 2 for u, v in zip(x, y, strict=True)) for a in x for b in y}
        assert one.distance == pytest.approx(max(apart.values()) ** 0.5, rel=1e-5)
        corner = one.x / z[:, one.p].std(), one.y / z[:, one.q].std()
        assert np.hypot(x[one.row] - corner[0], y[one.row] - corner[1]) == pytest.approx(one.distance, rel=1e-4)


def test_traversals_are_what_the_decoder_draws(judged):
    run = wb.Run(judged / "vae-none")
    tables, model = wb.kept_factors(run), run.model()
    z, table = tables["codes"].to_numpy(), tables["traversals"]
    assert len(table) == 8 * (1 + 3 * 7)
    for row, code, turn in ((0, 1, 0), (7, 2, 6), (3, -1, 0)):
        one = table.query("row == @row and code == @code and turn == @turn").iloc[0]
        codes = z[row].copy()
        if code >= 0:
            codes[code] = one["value"]
            ends = np.percentile(z[:, code], [1, 99])
            dead = tables["dims"]["dead"][code]
            assert dead or one["value"] == pytest.approx(ends[0] if turn == 0 else ends[1], abs=1e-5)
        wanted = (model.decode(codes[None])[0].permute(1, 2, 0) * 255).round().byte().numpy()
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(one["thumbnail"]))), wanted)


def test_what_was_trained_on_is_counted(judged):
    run = wb.Run(judged / "vae-xy-0.15")
    table, factors = wb.kept_factors(run)["together"], wb.factor_numbers(run.images())
    part = table.query("a == 'x' and b == 'y'").set_index(["x", "y"])
    for (x, y), share in part["share"].items():
        assert share == pytest.approx(((factors["x"] == x) & (factors["y"] == y)).mean())
    assert part["share"].sum() == pytest.approx(1) and part["r"].iloc[0] == pytest.approx(factors["x"].corr(factors["y"]))
    assert part["r"].iloc[0] > 0.9
    correlations = wb.kept_factors(run)["correlations"].query("a == 'x' and b == 'y'")
    assert abs(correlations["value"].iloc[0]) < 1e-9  # it is judged where factors are independent


def test_judged_on_the_training_it_says_that_factors_are_correlated(trained, tmp_path):
    run = wb.Run(shutil.copytree(trained / "vae-xy-0.15", tmp_path / "run"))
    tables = wb.factor_run(run, where="training", progress=False)
    assert "x and y 0.9" in tables["suite"]["warnings"][0]
    assert tables["about"]["n"][0] == 192 and tables["about"]["repeats"][0] > 0.5
    assert wb.kept_factors(run, where="training").keys() == set(wb.FACTOR_TABLES)


def test_what_was_judged_is_not_judged_again(judged, monkeypatch):
    monkeypatch.setattr("workbench.features.extract", lambda *a, **k: pytest.fail("it looked at images again"))
    run = wb.Run(judged / "vae-none")
    assert [at.next for at in wb.factor_steps(run)] == ["done"]
    assert wb.judged_layers(run) == (["backbone.stage1", "backbone.stage2", "backbone", "projector"], ["projector"])
    assert wb.judged_layers(wb.Run(judged / "ssl")) == ([], []) and wb.kept_factors(run, layer="backbone") == {}


def test_it_can_be_stopped_and_other_images_have_tables_of_their_own(judged, tmp_path):
    run = wb.Run(shutil.copytree(judged / "vae-none", tmp_path / "run"))
    shares = []
    going = wb.factor_steps(run, layer="backbone")
    for at in going:
        shares.append(at.share)
        if at.share > 0.5:
            break
    going.close()
    assert shares == sorted(shares) and wb.kept_factors(run, layer="backbone") == {}
    other = wb.sprites(40, **(GRID | {"positions": 6}))
    assert wb.factor_run(run, other, progress=False)["about"]["n"][0] == 40
    assert wb.kept_factors(run)["about"]["n"][0] == 40
    assert wb.factor_run(run, progress=False)["about"]["n"][0] == 64  # what was asked for last


def test_of_a_wide_layer_the_codes_that_say_most_are_kept(trained, tmp_path):
    run = wb.Run(shutil.copytree(trained / "ssl", tmp_path / "ssl"))
    tables = wb.factor_run(run, progress=False)
    about, dims = tables["about"].iloc[0], tables["dims"]
    assert (about["layer"], about["d"], about["shown"], about["trees"], about["decodes"]) == ("backbone", 80, 16, 10, False)
    assert len(dims) == 80 and dims["shown"].sum() == 16 == len(tables["codes"].columns)
    assert len(tables["supports"]) == 16 * 15 // 2 and tables["traversals"].empty
    images = grid()[np.random.default_rng(0).permutation(64)]
    z = wb.extract(run.model(), images, "backbone", progress=False)["backbone"].double().numpy()
    best = wb.mig(z, wb.factor_numbers(images)).matrix.idxmax()
    first = dims[dims["shown"]].sort_values("place")["code"].head(best.nunique())
    assert set(first) == set(best)  # of each factor the best comes first
    assert tables["suite"]["d"].iloc[0] == 80


def test_what_cannot_be_judged_is_said(trained, tmp_path):
    run = wb.Run(shutil.copytree(trained / "vae-none", tmp_path / "run"))
    plain = wb.from_arrays(np.zeros((24, 3, 16, 16), np.uint8), {"label": [1] * 24})
    for call, words in (
        (lambda: wb.factor_run(run, plain), r"no factor of .* varies .*; give images with factors \(in a shell: --data scenes"),
        (lambda: wb.factor_run(run, n=3), "at least four images, but got 3"),
        (lambda: wb.factor_run(run, where="elsewhere"), "on 'uniform' or on 'training' images, but got where='elsewhere'"),
        (lambda: wb.factor_run(run, wb.from_arrays(np.zeros((9, 1, 16, 16), np.uint8))), "takes images of 3 channels, but"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(KeyError, match=r"run has no layer 'backbone.stage9'; its main layers are backbone.stage1, "):
        wb.factor_run(run, layer="backbone.stage9", progress=False)
    spec = json.loads((run.path / "run.json").read_text())
    spec["images"] = {"name": "mine", "recipe": None, "shape": [3, 16, 16]}
    (run.path / "run.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match=r"trained on 'mine', which it cannot make again; pass the images \(in a shell: --data"):
        wb.factor_run(wb.Run(run.path), progress=False)


def test_the_images_before_the_correlation(trained):
    assert len(wb.Run(trained / "vae-xy-0.15").images_before()) == 64
    assert wb.Run(trained / "ssl").images_before().name == "sprites"


def test_damaged_tables_are_said(two):
    run = wb.Run(two[0])
    next(run.path.rglob("supports.parquet")).unlink()
    with pytest.raises(ValueError, match=r"holds no supports.parquet; delete the folder and judge again"):
        wb.kept_factors(run)


def test_the_verb_judges_and_prints(two, capsys):
    assert main(["factors", str(two[0]), "--no-progress"]) == 0
    said = capsys.readouterr().out
    assert "N = 64 sprites, D = 3" in said and "disentanglement 0." in said and "panel serve apps/factors.py --args" in said
    assert main(["factors", str(two[0]), "--training", "--n", "100", "--no-progress"]) == 0
    assert "factors are correlated here (x and y 0.9" in capsys.readouterr().out
    assert main(["factors", "/no/where"]) == 2 and "no run: it does not exist" in capsys.readouterr().err
    assert main(["factors", str(two[0]), "--set", "data.n=8"]) == 2
    assert main(["factors", str(two[0]), "--data", "garments", "--layers", "nothing"]) == 1


# the correlation in a record


@pytest.mark.parametrize(
    ("recipe", "kind", "said"),
    [
        ({}, "", "none"),
        ({"a": {}, "sigma": 0.1}, "", "none"),
        ({"a": "x", "b": ["y", "scale"], "sigma": 0.2}, "x-y+x-scale", "0.2"),
        ({"a": {"x": "y", "label": "scale"}, "sigma": 0.04, "inverse": True}, "x-y+label-scale, inverse", "0.04"),
        ({"a": {"x": "y"}, "sigma": 0.1, "holes": ["label == 0"]}, "x-y, without label == 0", "0.1"),
    ],
)
def test_a_record_says_what_goes_together(recipe, kind, said):
    whole = {"is": correlated.CORRELATE, "images": {"is": "somewhere"}, **recipe}
    for images in (whole, {"is": "workbench.data.images:subset", "images": whole}):
        found = wb.correlation_of({"images": {"recipe": images}})
        assert (found.kind, found.said) == (kind, said)
    assert wb.correlation_of({}).kind == wb.correlation_of({"images": {"recipe": None}}).kind == ""


def test_relatives_differ_in_the_correlation_alone(two):
    found = wb.find_subjects([two[2], "timm:resnet18"])[0]
    assert set(wb.relatives("vae-none", found)) == {"vae-none", "vae-xy-0.4", "vae-xy-0.15"}
    assert wb.relatives("timm:resnet18", found) == {} and wb.relatives("nobody", found) == {}
    path = two[2] / "vae-xy-0.4" / "run.json"
    spec = json.loads(path.read_text())
    spec["trainer"]["seed"] = 7
    path.write_text(json.dumps(spec))
    assert set(wb.relatives("vae-none", found)) == {"vae-none", "vae-xy-0.15"}
    path.write_text("{")
    assert set(wb.relatives("vae-none", found)) == {"vae-none", "vae-xy-0.15"}


# the state


def test_the_state_opens_on_the_codes_of_the_two_that_go_together(two):
    state = state_of(two)
    for side in state.sides:
        assert (side.layer, side.factor, side.where) == ("projector", "x", "uniform")
        assert side.code == side.best("x") != side.other
        assert len(side.values) == 3 and side.examples() == list(range(8)) and not side.turned()
    assert [s.subject for s in state.sides] == ["vae-xy-0.15", "hfs-xy-0.15"] and len(state.found) == 6  # none of them twice
    assert state.sigmas() == ["none", "0.4", "0.15"] == state.param.sigma.objects
    assert (state.sigma, state.kind, state.pair()) == ("0.15", "x-y", ("x", "y")) and state.slides()
    assert "trained where x and y go together (correlation 0.9" in state.finding() and "σ 0.15" in state.finding()


def test_the_slider_goes_to_the_run_under_that_correlation_on_both_sides(two):
    state = state_of(two)
    state.sigma = "none"
    assert [s.subject for s in state.sides] == ["vae-none", "hfs-none"]
    assert "Both were trained on factors that do not go together" in state.finding() and state.missing() == []
    assert abs(state.sides[0].together("x", "y")["r"].iloc[0]) < 0.2
    state.sigma = "0.4"
    assert [s.subject for s in state.sides] == ["vae-xy-0.4", "hfs-xy-0.4"] and 0.2 < state.sides[1].together("x", "y")["r"].iloc[
        0
    ] < 0.9
    state.sides[0].subject = "vae-xy-0.15"  # a menu moves the slider
    assert state.sigma == "0.15" and state.sides[1].subject == "hfs-xy-0.4"
    shutil.rmtree(two[2] / "hfs-none")
    alone = state_of([two[0], two[1], two[2]])
    alone.sigma = "none"
    assert [s.subject for s in alone.sides] == ["vae-none", "hfs-xy-0.15"]
    assert alone.missing() == ["hfs-xy-0.15 has no counterpart under σ none: it stays."]


def test_what_is_chosen_on_one_side_is_looked_for_on_the_other(two):
    state = state_of(two)
    one, other = state.sides
    one.choose(2, "scale")
    assert (one.code, one.factor, other.factor, other.code) == (2, "scale", "scale", other.best("scale"))
    other.row = 5
    assert one.row == 5 and one.values == one.codes_of(5) and other.values == other.codes_of(5)
    one.look_for("y")
    assert one.code == one.best("y") and other.factor == "y"
    before = one.code, one.other
    one.other = one.code
    assert (one.code, one.other) == (before[1], before[0])  # they change places
    one.choose(9)
    assert one.code == before[1]


def test_a_scatter_has_its_witness(two):
    side = state_of(two).sides[0]
    side.choose(2)
    table, corner = side.scatter(), side.corner()
    np.testing.assert_allclose(table["x"], side.tables["codes"]["code.2"])
    np.testing.assert_allclose(table["y"], side.tables["codes"][f"code.{side.other}"])
    z = side.tables["codes"].to_numpy(float)
    gap = wb.missing_corner(z, 2, side.other)
    spread, mean = z.std(0), z.mean(0)
    assert corner["distance"] == pytest.approx(gap.distance, rel=1e-5)
    assert corner["x"] == pytest.approx(gap.point[0] * spread[2] + mean[2], rel=1e-4)
    assert corner["near_y"] == pytest.approx(table["y"][corner["row"]])


@pytest.mark.parametrize(
    ("d", "told", "words"),
    [
        (0.9, 0.9, "Each code is of one factor: DCI-D 0.90, I 0.90"),
        (0.1, 0.9, "Every code mixes factors"),
        (0.9, 0.3, "hardly anything"),
    ],
)
def test_the_title_says_what_the_numbers_say(two, d, told, words):
    for path in two[:2]:
        file = next(path.rglob("suite.parquet"))
        table = pd.read_parquet(file).set_index("measure")
        table.loc[["disentanglement", "informativeness"], "value"] = d, told
        table.reset_index().to_parquet(file)
    state = state_of(two)
    assert words in state.sides[0].title()
    assert state.title() == f"Both tell factors apart about alike: DCI-D {d:.2f} and {d:.2f}, I {told:.2f} and {told:.2f}"
    file = next(two[1].rglob("suite.parquet"))
    table = pd.read_parquet(file).set_index("measure")
    table.loc["disentanglement", "value"] = 0.5
    table.reset_index().to_parquet(file)
    better, worse = ("vae-xy-0.15", "hfs-xy-0.15") if d > 0.5 else ("hfs-xy-0.15", "vae-xy-0.15")
    assert state_of(two).title().startswith(f"{better} tells factors apart better than {worse}: DCI-D {max(d, 0.5):.2f} against")


def test_what_the_reader_has_to_know(two, trained):
    state = state_of(two[:1])
    assert len(state.sides) == 1 and not state.slides() and state.correlated() and state.sides[0].remarks() == []
    state.where = "training"
    assert state.sides[0].remarks() == ["vae-xy-0.15, projector, was not judged on the training images yet."]
    wb.factor_run(wb.Run(two[0]), where="training", progress=False)
    state.refresh()
    assert state.sides[0].correlations().loc["x", "y"] > 0.9
    said = " ".join(state.sides[0].remarks())
    assert "of these images are there twice" in said and "Factors are correlated here (x and y 0.9" in said
    state.sides[0].layer = "backbone"
    assert (
        "No traversals at backbone: the decoder draws from projector" in state.sides[0].without_traversals()
        or not state.sides[0].judged()
    )
    plain = state_of([trained / "ssl", "timm:resnet18"])
    assert plain.sides[0].remarks() == ["ssl, backbone, was not judged yet."] and not plain.correlated()
    assert plain.unjudged() == ["ssl", "timm:resnet18"] and plain.title() == "Which code is of which factor?"


def test_a_run_that_is_gone_is_said(two):
    state = state_of(two)
    shutil.rmtree(two[0])
    state.refresh()
    assert state.sides[0].trouble == f"{two[0]} is gone: give its new place, or look at another run"
    assert not state.sides[0].judged() and state.sides[1].judged()


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("suite", lambda path: path.write_bytes(b"no parquet"), "is damaged"),
        ("dims", lambda path: pd.DataFrame({"a": [1]}).to_parquet(path), "lacks the columns"),
        ("codes", lambda path: path.unlink(), "holds no codes.parquet"),
        ("codes", lambda path: pd.DataFrame({"a": [1]}).to_parquet(path), "cannot be drawn"),
    ],
)
def test_broken_tables_are_said_on_the_page(two, name, damage, words):
    damage(next(two[0].rglob(f"{name}.parquet")))
    view = wb.Factors(two)
    one, other = view.columns
    assert one.trouble.visible and words in one.trouble.object and "again" in one.trouble.object and not one.pictures.visible
    assert other.pictures.visible and not other.trouble.visible


# the page


def test_a_click_in_the_matrix_links_everything(two):
    view = wb.Factors(two)
    column, side = view.columns[0], view.state.sides[0]
    root = view._page.get_root()
    drawn = next(m for m in root.references() if isinstance(m, Plot) and m.title.text == "Code by factor")
    codes, factors = side.codes(), side.factors()

    def framed():
        return next((b.bottom, b.top, b.right) for b in drawn.center if isinstance(b, BoxAnnotation) and b.name == "framed")

    code = next(c for c in codes if c != side.code)
    column._tap_map(Click(factors.index("scale") + 0.5, len(codes) - 1 - codes.index(code) + 0.5))
    assert (side.code, side.factor, view.state.sides[1].factor) == (code, "scale", "scale")
    assert framed() == (len(codes) - 1 - code, len(codes) - code, len(factors))
    assert f'strip chosen" data-row="{code}"' in column.strips.object and column.strips.object.count("strip chosen") == 1
    assert column.scatter.figure.opts.get("plot").kwargs["xlabel"] == f"code {code}"
    for nowhere in (Click(-0.5, 0.5), Click(9.5, 0.5), Click(0.5, 7.5)):
        column._tap_map(nowhere)
        assert side.code == code
    other = next(c for c in codes if c != code)
    column.strips._handle_msg({"row": other})
    assert side.code == other and f'strip chosen" data-row="{other}"' in column.strips.object


def test_a_slider_turns_a_code_and_the_image_follows(two):
    view = wb.Factors(two)
    column, side = view.columns[0], view.state.sides[0]
    before = column.image.object
    assert "as decoded" in before and side.decoder().job is None and len(column.sliders) == 3
    column.sliders[1].value = column.sliders[1].start
    assert side.values[1] == column.sliders[1].start and side.turned()
    side.decoder().job.wait(60)
    column._loaded()
    assert "codes turned" in column.image.object and column.image.object != before
    png = side.drawn()
    wanted = (wb.Run(two[0]).model().decode(np.array([side.values]))[0].permute(1, 2, 0) * 255).round().byte().numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), wanted)
    column.examples._handle_msg({"row": 4})
    assert side.row == 4 and "as decoded" in column.image.object
    assert [round(s.value, 5) for s in column.sliders.values()] == [round(v, 5) for v in side.values]
    points = column._standardised(side.scatter())
    column._tap_scatter(*points[40])  # an image whose traversals are not kept
    assert side.row == 40 and column.strips.object.count("<img") == 3 * 7


def test_a_decoder_that_cannot_be_loaded_says_why(two):
    view = wb.Factors(two[:1])
    column, side = view.columns[0], view.state.sides[0]
    shutil.rmtree(two[0])
    column.sliders[0].value = column.sliders[0].end - 0.01
    side.decoder().job.wait(60)
    column._loaded()
    assert "cannot be drawn: " in column.image.object and "is no run" in column.image.object


def test_the_correlation_slider_moves_both_columns(two):
    view = wb.Factors(two)
    assert (
        view.slider.visible and not view.hint.visible and "correlation 0.9" in view.joint.figure.opts.get("plot").kwargs["title"]
    )
    view.slider.value = "none"
    assert [s.subject for s in view.state.sides] == ["vae-none", "hfs-none"]
    assert "Both were trained on factors that do not go together" in view.said.object
    assert "correlation 0.9" not in view.joint.figure.opts.get("plot").kwargs["title"]
    alone = wb.Factors(two[:1])
    assert not alone.slider.visible and alone.hint.visible and "wb.correlate" in alone.hint.object and len(alone.columns) == 1


def test_every_choice_is_drawn_at_most_twice(two, monkeypatch):
    view, drawn = wb.Factors(two), []
    monkeypatch.setattr(type(view.columns[0]), "_draw", lambda self: drawn.append(self))
    view.state.sigma = "none"
    assert len(drawn) == 2  # each column once
    view.state.matrix = "importance"
    assert len(drawn) == 4
    view.state.sides[0].choose(view.state.sides[0].other)
    assert len(drawn) <= 8


def test_what_is_missing_is_judged_in_a_thread_and_can_be_stopped(two, monkeypatch):
    for path in two[2].glob("vae-*"):
        shutil.rmtree(path / "tables")
    at, seen = namedtuple("At", "share next"), []

    def judge(subject, *, layer, where):
        seen.append((subject.name, layer, where))
        yield at(0.5, "codes of <12> images")
        if subject.name == "vae-xy-0.15":
            wb.factor_run(wb.Run(subject.path), progress=False)
            yield at(1.0, "done")
        while not view.work.job.stopping.is_set():
            time.sleep(0.01)
        yield at(1.0, "done")

    monkeypatch.setattr(factor_state, "judging", judge)
    view = wb.Factors(two)
    view._page.get_root()
    assert view.work.button.visible and view.work.button.label == "Judge vae-xy-0.15 and 2 more"
    assert not view.columns[0].pictures.visible and "was not judged" in view.columns[0].remark.object
    view.work.start()
    until = time.monotonic() + 60
    while len(view.work._at) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    view.work.look()
    assert view.columns[0].pictures.visible and view.work.stop.visible and 0 < view.work.progress.value < 100
    view.work.stop.clicks += 1
    view.work.job.wait(60)
    view.work.look()
    assert view.work.job.error is None and seen[0] == ("vae-xy-0.15", "projector", "uniform") and not view.work.stop.visible


def test_what_fails_in_judging_is_said(trained, tmp_path):
    run = shutil.copytree(trained / "vae-none", tmp_path / "run", ignore=shutil.ignore_patterns("tables"))
    spec = json.loads((run / "run.json").read_text())
    spec["images"]["recipe"] = None
    (run / "run.json").write_text(json.dumps(spec))
    view = wb.Factors(run)
    view.work.start()
    view.work.job.wait(60)
    view.work.look()
    assert view.work.trouble.visible and "cannot make again; pass the images (in a shell: --data" in view.work.trouble.object


def test_a_wide_layer_says_what_is_left_out_and_why_nothing_can_be_turned(trained, tmp_path):
    run = shutil.copytree(trained / "ssl", tmp_path / "ssl")
    wb.factor_run(wb.Run(run), progress=False)
    view = wb.Factors(run)
    column = view.columns[0]
    assert "Of 80 dimensions the 16 that say most are shown, 64 left out; DCI by 10 trees" in column.without.object
    assert not column._latents.visible and "this network has no decoder" in column.without.object
    assert column.side.param.layer.objects[-3:] == ["backbone", "projector.0", "projector"]


def test_the_page_opens_without_torch(two):
    code = f"""
import sys
sys.modules["torch"] = None
from workbench.panels import Factors
shown = Factors({[str(path) for path in two]!r} + ["/no/where"])
shown._page.get_root()
assert all(column.pictures.visible for column in shown.columns)
shown.state.sigma = "none"
shown.state.sides[0].choose(1)
shown.state.sides[0].row = 3
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_points_take_the_colours_of_the_factor(two):
    wb.factor_run(wb.Run(two[0]), where="training", progress=False)
    view = wb.Factors(two[:1])
    column, side = view.columns[0], view.state.sides[0]
    root = view._page.get_root()

    def points():
        sources = [m.data for m in root.references() if isinstance(m, ColumnDataSource) and {"factor", "x", "y"} <= set(m.data)]
        return next(data for data in sources if len(data["x"]) == side.about("n"))

    for act in (
        lambda: side.look_for("y"),
        lambda: side.choose(side.other, "scale"),
        lambda: setattr(view.state, "where", "training"),
    ):
        act()
        np.testing.assert_allclose(points()["factor"], side.values_of_factor())
        np.testing.assert_allclose(points().get("color", points()["factor"]), side.values_of_factor())
        np.testing.assert_allclose(points()["x"], column._standardised(side.scatter())[:, 0])
    side.look_for("label")
    assert set(side.values_of_factor()) == {"heart", "ell"}


def test_alone_the_page_has_the_title(two):
    alone, both = wb.Factors(two[:1]), wb.Factors(two)
    assert 'class="title"' not in alone.columns[0].said.object and 'class="title"' in both.columns[0].said.object
    assert "vae-xy-0.15: " in alone.said.object


@pytest.mark.parametrize("code", ["gaussian", "quantised"])
def test_any_autoencoder_can_be_turned(tmp_path, code):
    grey = wb.from_arrays(grid().pixels.float().mean(1, keepdim=True).byte(), grid().factors)
    torch.manual_seed(0)
    model = wb.build_autoencoder("locatello-small", 4, image_size=16, channels=1, code=code)
    objective = wb.QLAE() if code == "quantised" else wb.BetaTCVAE(beta=1)
    run = wb.Trainer(epochs=1, batch_size=32).fit(
        model, objective, grey, wb.Plain(), out=tmp_path / "sweep,seed=0", progress=False
    )
    layer = "latent" if code == "quantised" else "projector"
    tables = wb.factor_run(run, grey, progress=False)
    assert tables["about"]["layer"][0] == layer and layer in tables["about"]["layers"][0] and tables["together"].empty
    side = wb.Factors(run, images=grey).state.sides[0]
    assert side.layer == layer and side.decodes() and len(side.traversals()) == 4 * 7 and side.trained() != ""
    side.decoder().load(lambda: None)
    side.decoder().job.wait(60)
    side.turn(0, 1.5)
    assert Image.open(io.BytesIO(side.drawn())).size == (16, 16)
    assert side.called() == "sweep,seed=0" and side.called("sweep,seed=1") == "seed=0"


def test_without_runs_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    view = wb.Factors()
    view._page.get_root()
    assert "There are no runs yet" in view._page[0].object and "timm:resnet18" in view._page[0].object
    assert "Which code is of which factor?" in view.said.object
