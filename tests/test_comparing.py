"""Two networks side by side: what is kept of them, what the panel's state makes of it, and what it draws; without a browser."""

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
import torch
from bokeh.models import BoxAnnotation, Plot
from PIL import Image

import workbench as wb
from workbench import comparing
from workbench.panels import two_networks

N = 96
Click = namedtuple("Click", "x y")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two runs of very small networks on garments."""
    out, found = tmp_path_factory.mktemp("runs"), []
    for name, objective in (("first", wb.SimCLR()), ("second", wb.VICReg())):
        torch.manual_seed(len(found))
        model = wb.build_encoder("convnet", "8-4", width=4, depth=2)
        settings = {"out": out / name, "progress": False}
        found.append(wb.Trainer(epochs=1, batch_size=48).fit(model, objective, wb.garments(N), wb.Augment(), **settings))
    return found


@pytest.fixture(scope="module")
def tables(pair):
    return wb.compare_runs(*pair, n=64, k=5, permutations=20, progress=False)


def copies(pair, folder):
    """The two runs in another folder, without tables."""
    return [wb.Run(shutil.copytree(r.path, folder / r.name, ignore=shutil.ignore_patterns("tables"))) for r in pair]


# what is kept


def test_the_numbers_are_those_of_the_measures(pair, tables):
    images = pair[0].held_out()
    images = images[np.random.default_rng(0).permutation(len(images))[:64]]
    one, other = (wb.extract(run.model(), images, wb.main_layers(run.model()), progress=False) for run in pair)
    found = tables["similarity"].set_index(["measure", "layer", "other"])
    assert len(found) == 2 * len(one) * len(other)
    for a, x in one.items():
        for b, y in other.items():
            assert found.loc["cka", a, b]["value"] == pytest.approx(wb.cka(x, y), abs=1e-5)
            assert found.loc["mutual_knn", a, b]["value"] == pytest.approx(wb.mutual_knn(x, y, k=5))
    assert set(found.loc["mutual_knn"]["chance"]) == {5 / 63} and (found["n"] == 64).all()
    assert (found.loc["cka"]["null"] > 0).all() and found.loc["cka"]["null_map"].min() >= found.loc["cka"]["null"].max()
    assert set(found["images"]) == {"garments_test"} and set(found["step"]) == {pair[0].steps[-1]}
    spectrum = tables["spectra"].query("side == 'other' and layer == 'projector'").sort_values("rank")["value"]
    np.testing.assert_allclose(spectrum, wb.spectrum(other["projector"])["value"], rtol=1e-4, atol=1e-9)
    assert list(tables["images"]["factor.label"]) == list(images.factors["label"])
    picture = np.asarray(Image.open(io.BytesIO(tables["images"]["thumbnail"][7])))
    np.testing.assert_array_equal(picture, images.at([7])[0].permute(1, 2, 0).numpy())


def test_neighbours_are_those_of_plain_loops(pair, tables):
    images = pair[0].held_out()
    images = images[np.random.default_rng(0).permutation(len(images))[:64]]
    z = wb.extract(pair[1].model(), images, "backbone", progress=False)["backbone"].double().numpy()
    kept = tables["neighbours"].query("side == 'other' and layer == 'backbone'").set_index(["row", "rank"])
    for i in (0, 13, 63):
        cosine = [-2 if j == i else z[i] @ z[j] / np.sqrt((z[i] @ z[i]) * (z[j] @ z[j])) for j in range(64)]
        nearest = np.argsort(cosine)[::-1][:5]
        assert list(kept.loc[i]["neighbour"]) == list(nearest)
        np.testing.assert_allclose(kept.loc[i]["cosine"], np.array(cosine)[nearest], rtol=1e-5)


def test_a_run_held_against_itself_is_alike_along_the_diagonal(pair, tmp_path):
    one, _ = copies(pair, tmp_path)
    found = wb.compare_runs(one, one, n=40, k=3, permutations=9, progress=False)["similarity"]
    same = found[found["layer"] == found["other"]]
    assert len(same) == 2 * len(wb.main_layers(one.model()))
    np.testing.assert_allclose(same["value"], 1, atol=1e-6)
    start = wb.compare_runs(one, one, other_step=0, n=40, k=3, permutations=9, progress=False)["similarity"]
    same = start[(start["layer"] == start["other"]) & (start["measure"] == "cka")]
    assert (same["value"] < 1 - 1e-6).all() and set(start["other_step"]) == {0}


def test_what_was_compared_is_not_compared_again(pair, tables, monkeypatch):
    monkeypatch.setattr("workbench.features.extract", lambda *a, **k: pytest.fail("it looked at images again"))
    again = wb.compare_runs(*pair, n=64, k=5, permutations=20, layers=["backbone"], progress=False)
    pd.testing.assert_frame_equal(again["similarity"], tables["similarity"])


def test_the_other_way_round_it_is_the_same_turned(pair, tables):
    turned = wb.kept_comparison(pair[1], pair[0])
    keys = ["measure", "layer", "other"]
    one = tables["similarity"].set_index(keys)["value"]
    other = turned["similarity"].rename(columns={"layer": "other", "other": "layer"}).set_index(keys)["value"]
    pd.testing.assert_series_equal(one.sort_index(), other.sort_index())
    assert list(turned["similarity"]["layer"].unique()) == wb.main_layers(pair[1].model())
    both = [t["neighbours"].query(f"side == '{s}'").drop(columns="side") for t, s in ((tables, "one"), (turned, "other"))]
    pd.testing.assert_frame_equal(*both)


def test_it_can_be_stopped_and_gone_on_with(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "FIRST", 16)
    one, other = copies(pair, tmp_path)
    shares, settings = [], {"n": 60, "k": 4, "permutations": 9}
    going = wb.comparison_steps(one, other, **settings)
    for at in going:
        shares.append(at.share)
        if at.next == "compared on 32 images":
            break
    going.close()
    assert shares == sorted(shares) and 0 < shares[-1] < 1
    assert set(wb.kept_comparison(one, other)["similarity"]["n"]) == {32}
    rest = [at.next for at in wb.comparison_steps(one, other, **settings)]
    assert rest[-1] == "done" and not {"compared on 16 images", "compared on 32 images"} & set(rest)
    whole = wb.kept_comparison(one, other)
    assert set(whole["similarity"]["n"]) == {60} and len(whole["images"]) == 60
    assert len(list((one.path / "tables").rglob("similarity.parquet"))) == 1  # that of fewer images is gone
    at_once = wb.compare_runs(*copies(pair, tmp_path / "again"), **settings, progress=False)
    pd.testing.assert_frame_equal(whole["similarity"], at_once["similarity"])


def test_other_images_and_other_weights_have_tables_of_their_own(pair, tmp_path):
    one, other = copies(pair, tmp_path)
    settings = {"k": 3, "permutations": 9, "progress": False}
    wb.compare_runs(one, other, wb.garments(48), n=48, **settings)
    assert set(wb.compare_runs(one, other, n=32, **settings)["similarity"]["images"]) == {"garments_test"}
    assert set(wb.compare_runs(one, other, wb.garments(48), n=48, **settings)["similarity"]["images"]) == {"garments_train"}
    assert set(wb.kept_comparison(one, other)["similarity"]["n"]) == {48}  # asked for last
    assert wb.kept_comparison(one, other, step=0) == {}
    file = other.path / "weights" / f"{other.steps[-1]:08d}.safetensors"
    before = other.identity()
    shutil.copy(other.path / "weights" / "00000000.safetensors", file)
    assert other.identity() != before and wb.kept_comparison(one, other) == {}
    assert copies(pair, tmp_path / "moved")[1].identity() == before


def test_a_comparison_stays_in_the_runs_folder(pair, tmp_path):
    one, other = copies(pair, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (one.path / "tables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads out of the run's folder"):
        wb.compare_runs(one, other, n=32, k=3, permutations=9, progress=False)
    assert list((tmp_path / "elsewhere").rglob("*")) == []


def test_what_cannot_be_compared_is_said(pair, tmp_path):
    one, other = pair
    for settings, words in (
        ({"n": 3}, "at least four images, but got 3"),
        ({"n": 8, "k": 8}, "each of 8 images has 7 others, so k lies between 1 and 7, but got k=8"),
        ({"permutations": 0}, "a null is of at least one permutation, but got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            wb.compare_runs(one, other, progress=False, **settings)
    with pytest.raises(KeyError, match=r"second has no layer 'backbone.stage9'; its main layers are backbone.stage1, "):
        wb.compare_runs(one, other, other_layers=["backbone.stage9"], progress=False)
    with pytest.raises(KeyError, match="keeps no weights of step 77"):
        wb.compare_runs(one, other, step=77, progress=False)
    grey = wb.from_arrays(np.zeros((24, 1, 28, 28), np.uint8), {"label": [0, 1] * 12})
    with pytest.raises(ValueError, match=r"first takes images of 3x32x32, but .* has 1x28x28; give images that both can take"):
        wb.compare_runs(one, other, grey, progress=False)
    model = wb.keep_model("timm:test_vit", tmp_path / "grey", images=grey)
    with pytest.raises(ValueError, match=r"first images of 3x32x32 and grey images of 1x28x28 were taken; give images that both"):
        wb.compare_runs(one, model, progress=False)


# tables as comparing leaves them, small enough to know every answer

LAYERS = {"one": ["backbone.stage1", "backbone.stage2", "backbone", "projector"], "other": ["backbone.stage1", "backbone"]}
AHEAD = {  # how many images further the two neighbours are
    ("one", "backbone.stage1"): (1, 2),
    ("one", "backbone.stage2"): (1, 5),
    ("one", "backbone"): (1, 5),
    ("one", "projector"): (3, 4),
    ("other", "backbone.stage1"): (1, 2),
    ("other", "backbone"): (1, 3),
}
CKA = {("backbone.stage1", "backbone.stage1"): 0.9, ("projector", "backbone"): 0.3, ("projector", "backbone.stage1"): 0.01}


def png(shade):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_run(path, *, digest="a", name="garments", weights=b"1"):
    (path / "weights").mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"images": {"digest": digest, "name": name, "shape": [3, 8, 8]}}))
    for step in (0, 7):
        (path / "weights" / f"{step:08d}.safetensors").write_bytes(weights + bytes([step]))
    return wb.Run(path)


def write_compared(one, other):
    """12 images in a circle; the neighbours of each are so many further, cka .5 but for the pairs in CKA."""
    folder, pairs, near, spectra = f"compared/{one.identity()}-{other.identity()}/some", [], [], []
    for a in LAYERS["one"]:
        for b in LAYERS["other"]:
            cell = {"layer": a, "other": b, "n": 12, "convention": "", "k": 2, "images": "planted", "permutations": 9}
            pairs.append(cell | {"measure": "cka", "value": CKA.get((a, b), 0.5), "null": 0.02, "p": 0.1, "null_map": 0.05})
            shared = len(set(AHEAD["one", a]) & set(AHEAD["other", b])) / 2
            pairs.append(cell | {"measure": "mutual_knn", "value": shared, "chance": 2 / 11})
    for depth, ((side, layer), ahead) in enumerate(AHEAD.items()):
        rows = [(row, rank, (row + by) % 12, 1 - by / 10) for row in range(12) for rank, by in enumerate(ahead, 1)]
        near.append(pd.DataFrame(rows, columns=["row", "rank", "neighbour", "cosine"]).assign(side=side, layer=layer))
        same = 2 if layer == "backbone.stage2" else depth  # stage2 is what backbone is
        values = np.exp(-(same + 1.0) * np.arange(4))
        spectra.append(pd.DataFrame({"rank": range(1, 5), "value": values, "n": 12, "d": 4}).assign(side=side, layer=layer))
    images = pd.DataFrame({"row": range(12), "thumbnail": [png(20 * r) for r in range(12)]})
    images = images.assign(**{"factor.hue": np.linspace(0, 1, 12), "factor.label": np.arange(12) // 3})
    for name, table in (
        ("images", images),
        ("spectra", pd.concat(spectra)),
        ("neighbours", pd.concat(near)),
        ("similarity", pd.DataFrame(pairs)),
    ):
        one.write_table(f"{folder}/{name}", table)


@pytest.fixture
def compared(tmp_path):
    runs = [write_run(tmp_path / "mine"), write_run(tmp_path / "theirs", weights=b"2")]
    write_compared(*runs)
    return [run.path for run in runs]


def state_of(paths):
    return wb.CompareState(wb.find_subjects(paths)[0])


def test_the_state_opens_on_the_last_layers(compared):
    state = state_of(compared)
    assert (state.one, state.other, state.step, state.other_step) == ("mine", "theirs", 7, 7)
    assert (state.layer, state.other_layer) == ("projector", "backbone")
    assert state.param.layer.objects == ["backbone.stage1", "backbone", "projector"]  # stage2 is the backbone, pooled
    assert (state.factor, state.kinds("label"), state.kinds("hue"), state.factors()) == ("label", True, False, ["label", "hue"])
    assert len(state.similarity()) == 6


def test_the_finding_goes_from_the_first_layers_to_the_last(compared):
    state = state_of(compared)
    assert state.title() == "The deepest layers part: CKA 0.90 to 0.30, null 0.05"
    assert state.finding() == (
        "mine and theirs: CKA **0.90** between stage1 and stage1, **0.30** between projector and backbone; unrelated images "
        "stay below 0.05 anywhere. Of 2 nearest of 12 images the last layers share **1.0** (by chance 0.4)"
    )
    assert state.about_pair() == (
        "CKA **0.300** (unrelated images stay below 0.02, p 0.1); **1.0** of 2 neighbours shared (by chance 0.4)"
    )
    state.choose("projector", "backbone.stage1")
    assert "CKA **0.010**, no more than unrelated images" in state.about_pair()
    state.measure = "mutual_knn"
    assert state.title() == "The deepest layers part: shared neighbours 1.00 to 0.50, chance 0.2"


@pytest.mark.parametrize(
    ("last", "words"), [(0.04, "no more alike than unrelated images: CKA 0.04"), (0.95, "meet: CKA 0.90 to 0.95")]
)
def test_the_title_says_how_the_last_layers_stand(compared, last, words):
    file = next(compared[0].rglob("similarity.parquet"))
    table = pd.read_parquet(file)
    at = (table["layer"] == "projector") & (table["other"] == "backbone") & (table["measure"] == "cka")
    table.loc[at, "value"] = last
    table.to_parquet(file)
    assert words in state_of(compared).title()


def test_neighbours_are_marked_where_they_are_in_both_and_of_one_kind(compared):
    state = state_of(compared)
    state.row = 2
    one, other = state.neighbours("one"), state.neighbours("other")
    assert list(one["row"]) == [5, 6] and list(other["row"]) == [3, 5]
    assert list(one["shared"]) == [True, False] and list(other["shared"]) == [False, True]
    assert list(one["alike"]) == [False, False]
    state.choose("backbone.stage1", "backbone")
    state.row = 0
    assert list(state.neighbours("one")["alike"]) == [True, True]  # labels go by threes
    assert state.kept_kinds("one") == pytest.approx(12 / 24) and state.kept_kinds("other") == pytest.approx(8 / 24)
    state.factor = "hue"
    assert not state.neighbours("one")["alike"].any() and np.isnan(state.kept_kinds("one"))


def test_images_come_by_how_many_neighbours_they_share(compared):
    file = next(compared[0].rglob("neighbours.parquet"))
    table = pd.read_parquet(file)
    mine = (table["side"] == "one") & (table["layer"] == "projector")
    table.loc[mine & (table["row"] == 4), "neighbour"] = [5, 7]  # as at the other's backbone
    table.loc[mine & (table["row"] == 9), "neighbour"] = [0, 2]  # that has 10 and 0: one of them
    table.loc[mine & (table["row"] == 1), "neighbour"] = [9, 8]
    table.to_parquet(file)
    state = state_of(compared)
    np.testing.assert_array_equal(state.agreement(), [1, 0, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1])
    state.order = "fewest"
    assert state.row == 1 and list(state.ordered()[:3]) == [1, 0, 2]
    state.move(1)
    assert state.row == 0
    state.move(-2)
    assert state.row == 4  # from the first back to the last
    state.order = "most"
    assert state.row == 4
    state.order = "random"
    assert state.row == 0 and list(state.ordered()) == list(range(12))


def test_the_two_can_change_sides(compared):
    state = state_of(compared)
    with param_batch(state):
        state.one, state.other = "theirs", "mine"
    state.refresh()
    assert (state.layer, state.other_layer) == ("backbone", "projector")
    assert state.value("cka") == 0.3 and list(state.neighbours("one")["row"]) == [1, 3]


def param_batch(state):
    import param

    return param.parameterized.batch_call_watchers(state)


def test_what_the_reader_has_to_know(compared, tmp_path):
    assert state_of(compared).remarks() == []
    alone = state_of(compared[:1])
    assert (alone.other, alone.step, alone.other_step) == ("mine", 7, 0)  # what training changed
    assert alone.remarks() == ["mine, step 7 and mine, step 0 were not compared yet."]
    (compared[0] / "weights" / "00000000.safetensors").unlink()
    assert "There is one network of one step, held against itself" in state_of(compared[:1]).remarks()[0]
    strange = write_run(tmp_path / "strange", digest="b", name="sprites")
    said = state_of([compared[0], strange.path, "timm:resnet18"])
    assert said.remarks()[1] == (
        "Trained on different images (mine on garments and strange on sprites); here both look at the same images."
    )
    said.other = "timm:resnet18"
    said.refresh()
    assert "timm:resnet18 has random weights" in said.remarks()[1] and said.steps("timm:resnet18") == [0]


# the panel


def rows_in(pane, part=0):
    """The rows of the images in a part of what can be clicked: the image, its neighbours on one side, on the other."""
    return [int(one.split('"')[0]) for one in pane.object.split('class="side')[part].split('data-row="')[1:]]


def test_a_click_changes_the_pair_and_everything_of_it(compared):
    view = wb.Compare(compared)
    root = view._page.get_root()
    drawn = next(m for m in root.references() if isinstance(m, Plot) and m.title.text == "CKA, layer by layer")

    def framed():
        return [(b.left, b.bottom) for b in drawn.center if isinstance(b, BoxAnnotation) and b.name == "chosen"]

    heat = next(e for e in view.map.figure if isinstance(e, hv.HeatMap)).data.set_index(["down", "across"])
    assert heat.loc[("projector", "stage1"), "value"] == 0.01 and np.isnan(heat.loc[("projector", "stage1"), "beyond"])
    assert heat.loc[("projector", "backbone"), "beyond"] == 0.3 and len(heat) == 6
    assert framed() == [(1, 2)]
    assert [rows_in(view.near, i) for i in range(3)] == [[0], [3, 4], [1, 3]] and rows_in(view.strip) == list(range(12))
    assert "mine, projector · theirs, backbone" in view.near.object and "1 in both" in view.near.object
    view.click(Click(0.5, 0.5))
    assert (view.state.layer, view.state.other_layer) == ("backbone.stage1", "backbone.stage1") and framed() == [(0, 0)]
    assert [rows_in(view.near, i) for i in range(3)] == [[0], [1, 2], [1, 2]] and "2 in both" in view.near.object
    curves = {e.label: e.data["middle"] for e in view.spectrum.figure if isinstance(e, hv.Curve)}
    np.testing.assert_allclose(curves["mine: stage1"], np.exp(-np.arange(4.0)))
    np.testing.assert_allclose(curves["theirs: stage1"], np.exp(-5 * np.arange(4.0)))
    for nowhere in (Click(2.5, 0.5), Click(-0.2, 0.5), Click(0.5, 3.5)):  # the margins
        view.click(nowhere)
        assert view.state.layer == "backbone.stage1" and framed() == [(0, 0)]


def test_an_image_that_is_clicked_shows_its_neighbours(compared):
    view = wb.Compare(compared)
    view.strip._handle_msg({"row": 7})
    assert view.state.row == 7 and [rows_in(view.near, i) for i in range(3)] == [[7], [10, 11], [8, 10]]
    view.near._handle_msg({"row": 10})
    assert view.state.row == 10 and rows_in(view.near) == [10]
    cells = view.near.object.split('class="side one"')[1].split('data-row="')[1:3]
    assert ["outline" in cell for cell in cells] == [True, False]  # 1 is in both: ahead by 3


def test_every_choice_is_drawn_once(compared, monkeypatch):
    view, drawn = wb.Compare(compared), []
    monkeypatch.setattr(wb.Compare, "_draw", lambda self: drawn.append(1))
    view.state.order = "fewest"  # which brings another image
    view.state.choose("backbone", "backbone.stage1")
    assert len(drawn) == 2
    write_compared(wb.Run(compared[1]), wb.Run(compared[0]))
    view.state.one = "theirs"  # held against itself: nothing to draw
    view.state.other = "mine"
    assert len(drawn) == 3 and view.pictures.visible
    view.renew()
    assert len(drawn) == 4


def test_words_of_factors_are_words(compared):
    file = next(compared[0].rglob("images.parquet"))
    pd.read_parquet(file).assign(**{"factor.label": "<b>bag</b>"}).to_parquet(file)
    view = wb.Compare(compared)
    assert "&lt;b&gt;bag&lt;/b&gt;" in view.near.object and "<b>bag" not in view.near.object


def test_comparing_shows_what_the_first_images_say_and_can_be_stopped(compared, monkeypatch):
    runs = [wb.Run(path) for path in compared]
    shutil.rmtree(compared[0] / "tables")

    def begin(one, other, images, **steps):
        write_compared(one, other)
        yield from (comparing_at(0.4, "compared on <12> images") for _ in range(2))
        while not view.work.job.stopping.is_set():
            time.sleep(0.01)
        yield comparing_at(1.0, "done")

    comparing_at = namedtuple("At", "share next")
    monkeypatch.setattr(two_networks, "comparison_steps", begin)
    view = wb.Compare(runs)
    view._page.get_root()  # menus on a page answer when their words change
    assert view.work.button.visible and not view.pictures.visible and "were not compared yet" in view.remark.object
    view.work.start()
    until = time.monotonic() + 60
    while len(view.work._at) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    view.work.look()
    assert view.pictures.visible and view.work.progress.value == 40 and "&lt;12&gt;" in view.work.doing.object
    assert view.work.stop.visible and not view.work.button.visible
    chosen = view.state.layer, view.state.other_layer, view.state.factor
    assert chosen == ("projector", "backbone", "label") and "mine, projector · theirs, backbone" in view.near.object
    assert [menu.value for menu in view._choices] == ["cka", *chosen]
    view.work.stop.clicks += 1
    view.work.job.wait(60)
    view.work.look()
    assert view.work.job.error is None and not view.work.stop.visible and view.work.button.label == "Compare again"


def test_what_fails_in_comparing_is_said(compared, monkeypatch):
    def begin(one, other, images, **steps):
        raise ValueError("the images cannot be drawn again; pass <them>")
        yield

    monkeypatch.setattr(two_networks, "comparison_steps", begin)
    view = wb.Compare(compared)
    view.work.start()
    view.work.job.wait(60)
    view.work.look()
    said = view.work.trouble
    assert said.visible and said.object == "It failed: the images cannot be drawn again; pass &lt;them&gt;"
    assert view.work.button.visible and view.pictures.visible


def test_a_comparison_that_makes_way_for_one_on_more_images_is_not_missed(compared, monkeypatch):
    runs, read = [wb.Run(path) for path in compared], wb.Run.table
    before = next(compared[0].rglob("similarity.parquet")).parent

    def table(run, name):
        if before.exists() and "neighbours" in name:
            before.rename(before.with_name("more"))
        return read(run, name)

    monkeypatch.setattr(wb.Run, "table", table)
    assert set(wb.kept_comparison(*runs)) == set(wb.COMPARE_TABLES) and not before.exists()
    next(compared[0].rglob("images.parquet")).unlink()
    with pytest.raises(ValueError, match=r"holds no images.parquet; delete the folder and compare again"):
        wb.kept_comparison(*runs)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("similarity", lambda path: path.write_bytes(b"no parquet"), "is damaged"),
        ("neighbours", lambda path: pd.DataFrame({"a": [1]}).to_parquet(path), "lacks the columns"),
        ("spectra", lambda path: pd.read_parquet(path).assign(value="x").to_parquet(path), "cannot be drawn"),
    ],
)
def test_damaged_tables_of_a_comparison_get_a_sentence(compared, name, damage, words):
    damage(next(compared[0].rglob(f"{name}.parquet")))
    view = wb.Compare(compared)
    assert view.trouble.visible and words in view.trouble.object and not view.pictures.visible


def test_without_runs_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = str(wb.Compare().__panel__())
    assert "Alert" in page and not wb.Compare().state.compared()
    said = wb.Compare("/no/where")._page[0].object
    assert said == "/no/where is no run: it does not exist."


def test_a_finished_comparison_opens_without_torch(compared):
    code = f"""
import sys
sys.modules["torch"] = None
from workbench.panels import Compare
view = Compare({[str(p) for p in compared]!r})
view.__panel__().get_root()
assert view.pictures.visible and 'data-row="3"' in view.near.object
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_model_by_name_looks_at_what_the_run_was_trained_on(pair, tmp_path):
    one, _ = copies(pair, tmp_path)
    view = wb.Compare([one, "timm:test_vit"], out=tmp_path / "models")
    list(view.state.begin())
    view.renew()
    assert view.pictures.visible and view.state.other_layer == "backbone"
    assert wb.Run(tmp_path / "models" / "timm-test_vit").spec["images"]["n"] == N
    assert view.state.title().startswith("The ")
