"""Figures: each renders from a small table without torch, and draws the numbers that it was given."""

import subprocess
import sys
from collections.abc import Callable

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
from bokeh.embed import json_item
from PIL import Image

import workbench.figures
from workbench.figures import (
    alignment_map,
    embedding_map,
    flatten,
    float32_floor,
    image_grid,
    image_sheet,
    layer_table,
    palette,
    save,
    spectra,
    spectra_range,
    theme,
    training_curves,
)
from workbench.spec import names

TABLE = pd.DataFrame({"layer": "backbone", "rank": range(1, 6), "value": [1.0, 0.5, 0.1, 1e-3, 0.0]})
METRICS = pd.DataFrame({"step": range(5), "loss": [5.0, 4, 3, 2, 1], "run": "mine"})
PIXELS = np.arange(5 * 3 * 4 * 4, dtype=np.uint8).reshape(5, 3, 4, 4)
FACTORS = pd.DataFrame({"label": [0, 1, 0, 1, 2], "hue": np.linspace(0, 1, 5)})
PLANE = np.array([[0.0, 0], [1, 1], [2, 0], [3, 1], [4, 0]])
FIGURES: dict[str, Callable] = {
    "spectra": lambda: spectra(TABLE),
    "training_curves": lambda: training_curves(METRICS),
    "layer_table": lambda: layer_table(TABLE.assign(measure="rankme", layer=list("abcde"))),
    "alignment_map": lambda: alignment_map(np.eye(5)),
    "image_grid": lambda: image_grid(PIXELS, list("abcde"), columns=2),
    "embedding_map": lambda: embedding_map(PLANE, FACTORS, colour="label", images=PIXELS),
}
NO_FIGURES = {"float32_floor", "spectra_range", "palette", "image_sheet", "flatten", "save"}


def drawn(figure) -> dict[str, pd.DataFrame]:
    """The numbers of each part of a figure, as Bokeh gets them, by HoloViews' name of the element and its label."""
    plot = hv.renderer("bokeh").get_plot(figure)
    parts = plot.subplots.values() if isinstance(figure, hv.Overlay) else [plot]
    out = {}
    for element, part in zip(figure if isinstance(figure, hv.Overlay) else [figure], parts, strict=True):
        source = part.handles.get("source")
        out[f"{type(element).__name__} {element.label}".strip()] = source.data if source is not None else {}
    return out


def test_every_figure_has_an_example_here():
    assert set(names("workbench.figures")) == set(FIGURES) | NO_FIGURES


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_renders_from_five_rows(name):
    state = hv.renderer("bokeh").get_plot(FIGURES[name]()).state
    assert state.toolbar.logo is None
    assert all(axis.axis_label_text_font_size == theme.SIZE["label"] for axis in state.axis)
    assert json_item(state)["doc"]["roots"]


def test_figures_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; import test_figures as t; import holoviews as hv\n"
    code += "for f in t.FIGURES.values(): hv.renderer('bokeh').get_plot(f())\n"
    code += "bad = [m for m in sys.modules if m.startswith(('workbench.run', 'workbench.measures', 'workbench.core'))]\n"
    code += "assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=__file__.rpartition("/")[0], timeout=120)


def test_spectra_draw_mean_and_spread_over_seeds():
    rng = np.random.default_rng(1)
    values = np.exp(rng.normal(size=(3, 40)))
    table = pd.concat([pd.DataFrame({"layer": "z", "seed": s, "rank": range(1, 41), "value": values[s]}) for s in range(3)])
    parts = drawn(spectra(table, floor=None))
    logs = np.log(values)
    middle, spread = logs.mean(0), logs.std(0, ddof=1)
    np.testing.assert_allclose(parts["Curve z"]["middle"], np.exp(middle))
    band = np.asarray(parts["Spread z"]["y"])
    np.testing.assert_allclose(sorted(band), sorted(np.exp(np.r_[middle - spread, middle + spread])))


def test_spectra_of_few_ranks_show_points_and_of_many_curves_a_bundle():
    assert "Scatter backbone" in drawn(spectra(TABLE))
    steps = pd.concat([TABLE.assign(step=s, value=TABLE["value"] * (s + 1)) for s in range(12)])
    parts = drawn(spectra(steps, by="step", floor=None))
    bundle = parts["Contours bundle solid"]
    assert len(bundle["xs"]) == 12
    np.testing.assert_allclose(bundle["ys"][3][:4], 4 * TABLE["value"][:4])
    assert [k for k in parts if k.startswith("Curve")] == [f"Curve {s}" for s in (0, 2, 4, 7, 9, 11)]


def test_the_floor_is_drawn_where_float32_ends():
    figure = spectra(TABLE)
    floor = float32_floor(TABLE["value"])
    assert floor == np.finfo(np.float32).eps ** 2
    assert [e.data for e in figure if isinstance(e, hv.HLine)] == [floor]
    assert "1e-14" in next(e for e in figure if isinstance(e, hv.Text)).data[2]
    assert drawn(figure)["Curve backbone"]["middle"][-1] == pytest.approx(
        floor / 3
    )  # the value 0, which has no place on a log axis
    assert not [e for e in spectra(TABLE, floor=None) if isinstance(e, hv.HLine)]
    assert [e.data for e in spectra(TABLE, floor=1e-3, marks={"here": 0.2}) if isinstance(e, hv.HLine)] == [0.2, 1e-3]


def test_what_float32_rounds_away_lies_at_the_floor():
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(500, 8)) @ rng.normal(size=(8, 16))).astype(np.float32)  # rank 8 of 16
    z = z.astype(np.float64)
    values = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    floor = float32_floor(values)
    assert values[7] > 1e6 * floor
    assert (values[8:] < 100 * floor).all()


def test_spectra_range_holds_the_floor_only_where_it_matters():
    low, high = spectra_range(pd.Series([1.0, 1e-3]), 1e-14)
    assert 1e-5 < low < 1e-3 and high > 1
    assert spectra_range(pd.Series([1.0, 1e-13]), 1e-14)[0] < 1e-14
    assert spectra_range(pd.Series([0.0])) == (1e-3, 1.0)


def test_a_second_column_is_drawn_dashed():
    two = pd.concat([TABLE.assign(run="mine"), TABLE.assign(run="other", value=TABLE["value"] / 2)])
    plot = hv.renderer("bokeh").get_plot(spectra(two, dash="run", floor=None))
    lines = [p.handles["glyph"] for p in plot.subplots.values() if "line_dash" in p.handles["glyph"].properties()]
    assert [line.line_dash for line in lines if type(line).__name__ == "Line"] == [[], [6]]
    np.testing.assert_allclose(
        drawn(spectra(two, dash="run", floor=None))["Curve backbone (other)"]["middle"][:4], TABLE["value"][:4] / 2
    )


def test_training_curves_leave_out_what_was_not_logged():
    metrics = METRICS.assign(knn=[0.1, np.nan, np.nan, np.nan, 0.5])
    layout = training_curves(metrics, values=["loss", "knn"], marker=3)
    assert isinstance(layout, hv.Layout) and len(layout) == 2
    knn = list(layout)[1]
    assert list(drawn(knn)["Curve mine"]["step"]) == [0, 4]
    assert [e.data for e in knn if isinstance(e, hv.VLine)] == [3]


def test_training_curves_over_seeds():
    metrics = pd.concat([METRICS.assign(seed=s, loss=METRICS["loss"] + s) for s in range(3)])
    parts = drawn(training_curves(metrics))
    np.testing.assert_allclose(parts["Curve mine"]["middle"], METRICS["loss"] + 1)
    assert set(np.round(parts["Spread mine"]["y"], 9)) == {*(METRICS["loss"]), *(METRICS["loss"] + 2)}


def test_a_layer_table_prints_its_numbers_and_colours_each_column_by_itself():
    table = pd.DataFrame(
        {
            "layer": ["a", "b", "a", "b", "a", "a"],
            "measure": ["x", "x", "y", "y", "s", "s"],
            "value": [10, 20, 0.3, 0.1, 1.0, 3.0],
        }
    )
    heat = layer_table(table).values()[0].data
    printed = {(r.layer, r.measure): r.printed for r in layer_table(table).values()[1].data.itertuples()}
    share = {(r.layer, r.measure): r.share for r in heat.itertuples()}
    assert printed == {("a", "x"): "10", ("b", "x"): "20", ("a", "y"): "0.3", ("b", "y"): "0.1", ("a", "s"): "2 ± 1"}
    assert share == {("a", "x"): 0, ("b", "x"): 1, ("a", "y"): 1, ("b", "y"): 0, ("a", "s"): 0.5}


def test_an_alignment_map_shows_absolute_values_first_row_on_top():
    matrix = np.array([[-0.5, 0.1], [0.2, 1.0]])
    image = alignment_map(matrix)
    assert image.dimension_values("|cosine|", flat=False)[0, 0] in (0.5, 0.2)
    assert image[1, 1] == 0.5 and image[2, 1] == pytest.approx(0.1) and image[1, 2] == pytest.approx(0.2)
    assert hv.renderer("bokeh").get_plot(image).state.y_range.start > hv.renderer("bokeh").get_plot(image).state.y_range.end


@pytest.mark.parametrize("axes", [(0, 2, 3, 1), None])
def test_a_sheet_keeps_every_pixel(axes):
    sheet = image_sheet(PIXELS.transpose(axes) if axes else PIXELS, columns=2, zoom=3, gap=1)
    assert sheet.shape == (3 * 12 + 2, 2 * 12 + 1, 3)
    for i, image in enumerate(PIXELS.transpose(0, 2, 3, 1)):
        top, left = i // 2 * 13, i % 2 * 13
        np.testing.assert_array_equal(sheet[top : top + 12 : 3, left : left + 12 : 3], image)
    assert (sheet[26:, 13:] == 255).all()  # the sixth place is empty


def test_an_image_grid_puts_images_in_rows():
    grid = image_grid(PIXELS, list("abcde"), columns=2, rows=["1", "2", "3"], headings=["x", "y"])
    places = [e.bounds.lbrt() for e in grid if isinstance(e, hv.RGB)]
    assert places[0][0] == places[2][0] < places[1][0] and places[2][3] < places[0][3] == places[1][3]


def test_flatten_is_pca():
    from sklearn.decomposition import PCA

    x = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(1, 7)
    np.testing.assert_allclose(np.abs(flatten(x)), np.abs(PCA(2).fit_transform(x)), atol=1e-9)
    assert flatten(x[:, :1]).shape == (50, 2)


@pytest.mark.slow
def test_flatten_by_umap_keeps_clusters():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(40, 8)) + 9 * np.eye(8)[k] for k in range(2)])
    xy = flatten(x, method="umap")
    gap = np.linalg.norm(xy[:40].mean(0) - xy[40:].mean(0))
    assert xy.shape == (80, 2) and gap > xy[:40].std()


def test_a_map_carries_its_images_and_greys_what_is_not_selected():
    figure = embedding_map(PLANE, FACTORS, colour="label", images=PIXELS, selected=[1])
    data = drawn(figure)["Points"]
    assert all(url.startswith("data:image/png;base64,") for url in data["image"])
    assert list(data["row"]) == [0, 1, 2, 3, 4] and list(data["label"]) == list("01012")
    plot = hv.renderer("bokeh").get_plot(figure)
    assert plot.handles["source"].selected.indices == [1]
    shown = [r for r in plot.state.renderers if r.visible]
    assert [r.view.filter.group for r in shown] == ["0", "1", "2"]
    assert all(r.nonselection_glyph.fill_color.value == theme.GREY and r.data_source is plot.handles["source"] for r in shown)
    assert [item.renderers for item in plot.state.legend[0].items] == [[r] for r in shown]


def test_a_map_of_many_points_is_shaded():
    rng = np.random.default_rng(0)
    factors = pd.DataFrame({"label": np.arange(10_001) % 3})
    figure = embedding_map(rng.normal(size=(10_001, 2)), factors, colour="label")
    element = figure[()] if isinstance(figure, hv.DynamicMap) else figure
    assert isinstance(element, hv.RGB | hv.Overlay)
    assert hv.renderer("bokeh").get_plot(figure).state


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: spectra(TABLE, by="step"), KeyError, "needs the columns ['step', 'rank', 'value'], but ['step'] are missing"),
        (lambda: spectra(TABLE.iloc[:0]), ValueError, "without rows"),
        (lambda: spectra(pd.concat([TABLE.assign(step=s) for s in range(2)])), ValueError, "choose one value of ['step']"),
        (lambda: training_curves(METRICS, values=["knn"]), KeyError, "['knn'] are missing"),
        (lambda: training_curves(METRICS.iloc[:0]), ValueError, "without rows"),
        (lambda: layer_table(TABLE), KeyError, "['measure'] are missing"),
        (lambda: alignment_map(np.ones(3)), ValueError, "needs a matrix"),
        (lambda: image_grid(PIXELS.astype(float)), TypeError, "must be uint8 from 0 to 255, but got float64"),
        (lambda: image_grid(PIXELS[0, 0]), ValueError, "but got (4, 4"),
        (lambda: image_grid(PIXELS, ["a"]), ValueError, "1 captions for 5 images"),
        (lambda: embedding_map(PLANE, FACTORS, colour="size"), KeyError, "no factor 'size'"),
        (lambda: embedding_map(PLANE, FACTORS[:2]), ValueError, "5 points but 2 rows"),
        (lambda: flatten(np.full((4, 3), np.nan)), ValueError, "12 not finite"),
        (lambda: save(spectra(TABLE), "figure.svg"), ValueError, "saved as .png or .html"),
    ],
)
def test_errors_say_what_was_wanted(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


def test_colours_can_be_told_apart():
    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for kind in ("run", "layer", "step"):
        colours = list(palette(range(8), kind).values())
        assert len(set(colours)) == 8
        assert all(1.05 / (luminance(c) + 0.05) > 1.7 for c in colours), kind  # contrast with white paper
    ramp = [luminance(c) for c in palette(range(8), "layer").values()]
    assert ramp == sorted(ramp)  # an order that grey print keeps


@pytest.mark.browser
def test_a_figure_is_saved_as_it_is_seen(tmp_path):
    path = save(spectra(TABLE, title="A finding"), tmp_path / "deep" / "figure.png", scale=1)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert 600 < picture.shape[1] < 800 and 380 < picture.shape[0] < 520
    line = np.abs(picture - [int(palette(["x"], "layer")["x"][i : i + 2], 16) for i in (1, 3, 5)]).sum(2) < 30
    assert line.sum() > 500  # the curve, in its colour


@pytest.mark.browser
def test_a_saved_page_needs_no_internet(tmp_path, clean_page):
    clean_page.goto(save(training_curves(METRICS, title="Falling"), tmp_path / "figure.html").as_uri())
    clean_page.wait_for_function(
        "() => window.Bokeh && Bokeh.documents.length && [...Bokeh.documents[0]._all_models.values()].length"
    )
    sources = "[...Bokeh.documents[0]._all_models.values()].filter(m => m.type == 'ColumnDataSource')"
    assert clean_page.evaluate(f"() => {sources}.map(m => [...m.data.middle])")[0] == [5, 4, 3, 2, 1]


def test_saving_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(FileNotFoundError, match="chromium.*install one, set \\$CHROMIUM"):
        save(spectra(TABLE), tmp_path / "figure.png")


def test_the_package_lists_its_names():
    assert "spectra" in dir(workbench.figures)
