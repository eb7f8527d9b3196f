"""Figures: each renders from a small table without torch, and draws the numbers that it was given."""

import itertools
import re
import subprocess
import sys
import types
from collections.abc import Callable

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
from bokeh.embed import json_item
from bokeh.models import HoverTool, Title
from PIL import Image

import workbench.figures
from workbench.figures import (
    agreement_bars,
    alignment_map,
    along_setting,
    choice_scatter,
    cut_curves,
    cut_table,
    embedding_map,
    factor_map,
    flatten,
    image_grid,
    image_sheet,
    joint_map,
    landscape,
    layer_table,
    mean_and_deviation,
    palette,
    rank_curve,
    regret_table,
    sample_rows,
    save,
    setting_dots,
    similarity_map,
    spectra,
    spectra_range,
    support_scatter,
    theme,
    training_curves,
    traversals,
    verdict_table,
)
from workbench.spec import names

TABLE = pd.DataFrame({"layer": "backbone", "rank": range(1, 6), "value": [1.0, 0.5, 0.1, 1e-3, 0.0]})
METRICS = pd.DataFrame({"step": range(5), "loss": [5.0, 4, 3, 2, 1], "run": "mine"})
PIXELS = np.arange(5 * 3 * 4 * 4, dtype=np.uint8).reshape(5, 3, 4, 4)
FACTORS = pd.DataFrame({"label": [0, 1, 0, 1, 2], "hue": np.linspace(0, 1, 5)})
PLANE = np.array([[0.0, 0], [1, 1], [2, 0], [3, 1], [4, 0]])
CHOICES = pd.DataFrame({"sweep": "lr", "setting": [0.1, 0.1, 0.2, 0.3, 0.3], "seed": [0, 1, 0, 0, 1]})
CHOICES = CHOICES.assign(rankme=[1.0, 3, 5, 6, 8], label=[40.0, 42, 50, 47, 45])
REGRETS = pd.DataFrame({"method": "SimCLR", "sweep": ["lr", "lr", "weight_decay", "lr", "weight_decay"]})
REGRETS = REGRETS.assign(measure=["random", "rankme", "rankme", "oracle", "random"], regret=[3.0, 0.5, 1.0, 0.0, 2.0])
PAIRS = pd.DataFrame({"layer": ["a", "a", "b", "b", "c"], "other": ["x", "y", "x", "y", "x"], "measure": "cka", "n": 300})
PAIRS = PAIRS.assign(value=[0.95, 0.4, -0.004, np.nan, 0.02], null=0.01, null_map=0.03, level=0.95, convention="linear")
CUTS = pd.DataFrame({"layer": ["stage1"] * 2 + ["backbone"] * 2 + ["projector"], "factor": ["label", "x"] * 2 + ["label"]})
CUTS = CUTS.assign(measure=["accuracy", "r2"] * 2 + ["accuracy"], value=[0.2, 0.1, 0.6, 0.5, 0.4], chance=[0.1, 0.0] * 2 + [0.1])
DOTS = pd.DataFrame({"knob": ["views"] * 4 + ["rate"], "setting": ["crop", "crop", "none", "none", "tenfold"]})
DOTS = DOTS.assign(seed=[0, 1, 0, 1, 0], label=[30.0, 34.0, 20.0, 20.0, 25.0])
VERDICTS = pd.DataFrame({"code": ["perfect", "perfect", "noise"], "measure": ["mig", "sap", "mig"], "value": [0.4, 0.99, 0.8]})
VERDICTS = VERDICTS.assign(verdict=["too low", "right", "too high"])
HILLS = pd.DataFrame({"first": [0, 0, 0, 6, 6], "second": [6, 12, 18, 12, 18], "value": [0.3, 0.2, 0.5, 0.1, 0.4]})
HELD = pd.DataFrame({"code": [0, 0, 1, 1, 2], "factor": list("xyxyx"), "value": [1.5, 0.1, 0.2, 0.8, 0.3], "n": 300})
JOINT = pd.DataFrame({"x": [0, 0, 1, 2, 2], "y": [0, 1, 1, 1, 3], "share": [0.1, 0.2, 0.4, 0.1, 0.2]})
WALK = np.arange(2 * 3 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 3, 4, 4)
RANKS = pd.DataFrame({"eps": [0, 2, 4, 0, 2], "layer": ["a"] * 3 + ["b"] * 2, "measure": "mean rank", "chance": 50.5})
RANKS = RANKS.assign(value=[2.0, 8, 30, 20, 50], low=[1.0, 5, 20, 15, 40], high=[4.0, 12, 40, 30, 60], candidates=100, sources=9)
KEPT = pd.DataFrame({"factor": ["x", "x", "hue", "hue", "x"], "layer": list("ababa"), "measure": ["kept"] * 4 + ["probe"]})
KEPT = KEPT.assign(value=[0.8, 0.3, 0.25, 0.3, 0.95], low=[0.7, 0.2, 0.2, 0.2, np.nan], high=[0.9, 0.4, 0.3, 0.4, np.nan])
KEPT = KEPT.assign(chance=[0.2, 0.2, 0.125, 0.125, 0.2], sources=[9, 9, 9, 9, np.nan])
DRAWN = np.linspace(0, 1, 10 * 3 * 4 * 4).reshape(10, 3, 4, 4)
FIGURES: dict[str, Callable] = {
    "spectra": lambda: spectra(TABLE),
    "training_curves": lambda: training_curves(METRICS),
    "layer_table": lambda: layer_table(TABLE.assign(measure="rankme", layer=list("abcde"))),
    "alignment_map": lambda: alignment_map(np.eye(5)),
    "image_grid": lambda: image_grid(PIXELS, list("abcde"), columns=2),
    "embedding_map": lambda: embedding_map(PLANE, FACTORS, colour="label", images=PIXELS),
    "setting_dots": lambda: setting_dots(DOTS, value="label", lines={"untrained": 21.0, "chance": 10.0}),
    "choice_scatter": lambda: choice_scatter(CHOICES, x="rankme", y="label", floor=0.5),
    "along_setting": lambda: along_setting(CHOICES, "rankme", by="sweep", band=(6.5, 9)),
    "regret_table": lambda: regret_table(REGRETS),
    "similarity_map": lambda: similarity_map(PAIRS),
    "verdict_table": lambda: verdict_table(VERDICTS),
    "landscape": lambda: landscape(HILLS, x="first", y="second", truth=[(6, 12)]),
    "factor_map": lambda: factor_map(HELD, framed=1),
    "support_scatter": lambda: support_scatter(PLANE, factor=list("ababc"), witness=([4, 1], [4, 0])),
    "joint_map": lambda: joint_map(JOINT),
    "traversals": lambda: traversals(WALK, values=[-1, 0, 1], dead=[1], framed=0),
    "cut_table": lambda: cut_table(CUTS),
    "sample_rows": lambda: sample_rows(PIXELS, DRAWN, rows=list("abcde"), headings=["1", "2"]),
    "mean_and_deviation": lambda: mean_and_deviation(PIXELS, (DRAWN[::2], DRAWN[::2, 0]), rows=list("abcde")),
    "rank_curve": lambda: rank_curve(RANKS, x="eps"),
    "agreement_bars": lambda: agreement_bars(KEPT),
    "cut_curves": lambda: cut_curves(CUTS, factor="label", layer="backbone"),
}
NO_FIGURES = {"spectra_range", "palette", "image_sheet", "flatten", "save", "short_layers"}


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


def floors(figure) -> list[tuple[float, float, str]]:
    """Where each floor ends, its height and its colour."""
    parts = [e for e in figure if isinstance(e, hv.Contours) and e.label == "floor"]
    return [(path["rank"][-1], path["middle"][0], path["colour"]) for part in parts for path in part.data]


def test_each_curve_has_its_own_floor_and_no_positive_value_moves():
    value = 10.0 ** -np.arange(0, 20, 2)  # ten values, the last at 1e-18
    deep = pd.DataFrame({"layer": "deep", "rank": range(1, 11), "value": value, "floor": 1e-9})
    flat = pd.DataFrame({"layer": "flat", "rank": range(1, 5), "value": [1e4, 1e3, 1e2, 0.0], "floor": 1e-3})
    figure = spectra(pd.concat([deep, flat]))
    colour = palette(["deep", "flat"], "layer")
    assert floors(figure) == [(10.5, 1e-9, colour["deep"]), (4.5, 1e-3, colour["flat"])]
    assert "1e-09 to 1e-03" in next(e for e in figure if isinstance(e, hv.Text)).data[2]
    np.testing.assert_allclose(drawn(figure)["Curve deep"]["middle"], value)
    np.testing.assert_allclose(drawn(figure)["Curve flat"]["middle"], [1e4, 1e3, 1e2, 1e-3 / 3])  # zero has no logarithm
    alone = spectra(deep)
    assert floors(alone) == [(10.5, 1e-9, theme.QUIET)] and "1e-09" in next(e for e in alone if isinstance(e, hv.Text)).data[2]


def test_a_floor_far_below_is_named_below_the_figure_and_takes_no_height():
    far = TABLE.assign(value=[1.0, 0.5, 0.1, 1e-2, 0.0], floor=1e-17)
    low, high = hv.renderer("bokeh").get_plot(spectra(far)).handles["y_range"].start, 3.0
    assert (low, high) == (1e-2 / 5, 3.0)
    assert note(spectra(far)) == "numerical floor 1e-17, below what is drawn"
    near = far.assign(value=[1.0, 0.5, 0.1, 1e-2, 9e-15])
    assert spectra_range(near)[0] < 1e-17 and "numerical" not in note(spectra(near))
    assert "numerical" in note(spectra(near, ylim=(1e-5, 1.0)))


def test_a_note_tells_the_browser_all_its_words_to_wrap_them_as_wide_as_the_figure_is():
    words = "numerical floor 1e-17, below what is drawn"
    plot = hv.renderer("bokeh").get_plot(spectra(TABLE.assign(floor=1e-17), responsive=True)).state
    small = next(part for part in plot.below if isinstance(part, Title))
    assert small.tags == [words, theme.SIZE["note"]] and " ".join(small.text.split()) == " ".join(words.split())
    (wrap,) = plot.js_property_callbacks["change:inner_width"]
    assert wrap.args == {"note": small, "figure": plot} and "figure.inner_width" in wrap.code
    assert small.js_property_callbacks["change:tags"] == [wrap]
    assert float(small.text_font_size[:-2]) < float(theme.SIZE["label"][:-2]) - 3


def test_values_below_the_floor_are_drawn_where_they_are():
    """Float32 features of float64 eigenvalues: the drop from 1e-30 to 1e-40 is in the table, and in the figure."""
    table = TABLE.assign(value=[1.0, 1e-8, 1e-20, 1e-30, 0], floor=1e-15)
    np.testing.assert_allclose(drawn(spectra(table))["Curve backbone"]["middle"], [1, 1e-8, 1e-20, 1e-30, 1e-30 / 3])
    low, high = hv.renderer("bokeh").get_plot(spectra(table)).state.y_range.start, 3.0
    assert low < 1e-30 < high


def test_many_curves_have_many_floors():
    steps = pd.concat([TABLE.assign(step=s, floor=10.0 ** (s - 20)) for s in range(12)])
    kept = floors(spectra(steps, by="step"))
    assert [height for _, height, _ in kept] == [10.0 ** (s - 20) for s in range(12)]
    assert [colour for *_, colour in kept] == list(palette(range(12), "step").values())
    source = drawn(spectra(steps, by="step"))["Contours floor"]
    np.testing.assert_allclose(np.array(source["ys"])[:, 0], 10.0 ** (np.arange(12) - 20))


def test_a_table_without_floors_is_drawn_without():
    """Tables that were kept before spectra had floors, alone and beside newer ones."""
    assert floors(spectra(TABLE)) == [] and not [e for e in spectra(TABLE) if isinstance(e, hv.Text)]
    assert drawn(spectra(TABLE))["Curve backbone"]["middle"][-1] == pytest.approx(1e-3 / 3)
    both = pd.concat([TABLE.assign(run="old"), TABLE.assign(run="new", floor=1e-9)])
    assert [height for _, height, _ in floors(spectra(both, by="run"))] == [1e-9]
    assert floors(spectra(TABLE.assign(floor=1e-9), floor=None)) == []
    assert [height for _, height, _ in floors(spectra(TABLE, floor=1e-3))] == [1e-3]
    assert [e.data for e in spectra(TABLE, marks={"here": 0.2}) if isinstance(e, hv.HLine)] == [0.2]


def test_spectra_range_holds_floors_only_where_they_matter():
    def of(values, floor=None):
        return spectra_range(pd.DataFrame({"value": values} | ({"floor": floor} if floor else {})))

    low, high = of([1.0, 1e-3], 1e-14)
    assert 1e-5 < low < 1e-3 and high > 1
    assert of([1.0, 1e-13], 1e-14)[0] < 1e-14
    assert of([1.0, 1e-10], 1e-14)[0] > 1e-12  # four decades above the floor
    assert of([1.0, 1e-3, 0.0], 1e-14) == (1e-3 / 5, 3.0)  # one dead unit would leave the curve a quarter of the height
    assert of([1.0, 1e-13, 1.0], [1e-3, 1e-14, 1e-30])[0] == pytest.approx(1e-14 / 50)
    assert of([1.0, 1e-13]) == (1e-13 / 5, 3.0)
    assert of([1.0, 1e-3, 1e-71]) == (1e-3 / 5, 3.0)  # 1e-71 of the largest is a zero, whatever it is called
    assert of([1.0, 1e-3, 1e-71], 1e-14)[0] == pytest.approx(1e-14 / 50)
    assert of([0.0]) == of([np.nan]) == (1e-3, 1.0)


def note(figure) -> str:
    """The small print below a figure."""
    return "\n".join(part.text for part in hv.renderer("bokeh").get_plot(figure).state.below if isinstance(part, Title))


def test_spectra_say_what_was_measured_on_how_many():
    how = "eigenvalues of the covariance, L2-normalised rows"
    one = TABLE.assign(n=2048, d=5, convention=how)
    state = hv.renderer("bokeh").get_plot(spectra(one)).state
    assert note(spectra(one)) == "N = 2,048, D = 5"
    assert state.yaxis[0].axis_label == "eigenvalues of the covariance,\nL2-normalised rows"
    two = pd.concat([one, one.assign(layer="projector", d=3)])
    assert note(spectra(two)) == "N = 2,048, D = 5 (backbone), 3 (projector)"
    assert note(spectra(pd.concat([one.assign(step=s, d=9 - s) for s in range(6)]), by="step")) == "N = 2,048, D = 4 to 9"
    mixed = pd.concat([one, one.assign(layer="plain", convention="eigenvalues of the covariance, rows as they are")])
    assert hv.renderer("bokeh").get_plot(spectra(mixed)).state.yaxis[0].axis_label == "value"
    assert hv.renderer("bokeh").get_plot(spectra(one, quantity="singular value")).state.yaxis[0].axis_label == "singular value"
    assert note(spectra(TABLE)) == "" and note(training_curves(METRICS)) == ""
    assert note(training_curves(METRICS.assign(n=100, d=7))) == "N = 100, D = 7"


def test_a_landscape_rings_its_lowest_place():
    heat, ring, cross = landscape(HILLS, x="first", y="second", truth=[(0, 12)]).values()
    assert heat.data["value"].tolist() == HILLS["value"].tolist()
    assert [part.data.to_numpy().tolist() for part in (ring, cross)] == [[[6, 12]], [[0, 12]]]


def test_a_verdict_table_marks_what_is_wrong_by_more_than_colour():
    heat, words = verdict_table(VERDICTS).values()
    assert words.data["printed"].tolist() == ["▼ 0.40", "0.99", "▲ 0.80"]
    assert [heat.data["verdict"].tolist(), heat.data["said"].tolist()] == [["too low", "right", "too high"], [2, 0, 1]]


def test_a_layer_table_says_how_its_numbers_were_taken():
    table = pd.DataFrame(
        {"layer": list("abab"), "measure": list("rrkk"), "value": [9.0, 3, 0.5, 0.4], "n": 500, "d": [16, 4] * 2}
    )
    table["convention"] = ["entropy of the singular values, uncentred, eps=1e-07"] * 2 + [""] * 2
    words = note(layer_table(table)).splitlines()
    assert words[0] == "N = 500, D = 16 (a), 4 (b)"
    assert " ".join(words[1:]) == "r: entropy of the singular values, uncentred, eps=1e-07"
    printed = layer_table(table.assign(low=table["value"] - 0.1, high=[9.5, 3.5, np.nan, np.nan])).values()[1].data["printed"]
    assert list(printed) == ["9\n8.9 to 9.5", "0.5", "3\n2.9 to 3.5", "0.4"] or set(printed) == {
        "9\n8.9 to 9.5", "3\n2.9 to 3.5", "0.5", "0.4",
    }  # fmt: skip


def test_one_spectrum_is_one_curve():
    figure = spectra(TABLE.drop(columns="layer"))
    np.testing.assert_allclose(drawn(figure)["Curve"]["middle"][:4], TABLE["value"][:4])
    rankme = pd.DataFrame({"layer": "backbone", "measure": "rankme", "value": [4.0], "rank": np.nan})
    np.testing.assert_allclose(drawn(spectra(pd.concat([TABLE, rankme])))["Curve backbone"]["middle"][:4], TABLE["value"][:4])


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
    assert note(training_curves(metrics)) == "bands: one standard deviation over 3 seeds"


def test_a_row_of_figures_has_a_title_in_the_looks_of_the_theme():
    row = training_curves(METRICS.assign(lr=0.1), values=["loss", "lr"], title="Falling")
    title = hv.renderer("bokeh").get_plot(row).handles["title"].text
    assert theme.INK in title and theme.FONT in title and "17px" in title


def test_a_layer_table_prints_its_numbers_and_colours_each_column_by_itself():
    table = pd.DataFrame(
        {
            "layer": ["a", "b", "a", "b", "a", "a"],
            "measure": ["x", "x", "y", "y", "s", "s"],
            "value": [10, 20, 0.3, 0.1, 1.0, 3.0],
            "seed": [0, 0, 0, 0, 0, 1],
        }
    )
    heat = layer_table(table).values()[0].data
    printed = {(r.layer, r.measure): r.printed for r in layer_table(table).values()[1].data.itertuples()}
    share = {(r.layer, r.measure): r.share for r in heat.itertuples()}
    assert printed == {("a", "x"): "10", ("b", "x"): "20", ("a", "y"): "0.3", ("b", "y"): "0.1", ("a", "s"): "2.00 ± 1.41"}
    assert share == {("a", "x"): 0, ("b", "x"): 1, ("a", "y"): 1, ("b", "y"): 0, ("a", "s"): 0.5}
    assert layer_table(table, least=["x"]).values()[0].data.query("measure == 'x'")["share"].tolist() == [1, 0]
    assert note(layer_table(table)) == "mean ± one standard deviation over 2 seeds"


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ([10.0, 40.0], "25 ± 21"),
        ([1_918.7, 2_318.7], "2,100 ± 300"),
        ([1_949.0, 2_009.0], "1,980 ± 40"),
        ([100.0, 106.0], "103 ± 4"),
        ([103.1, 103.2], "103 ± 0"),
        ([0.931, 0.935], "0.93 ± 0.00"),
        ([2_000.5, 2_000.5], "2,000"),
        ([0.0, 0.0], "0"),
        ([-0.001, 0.001], "0.0 ± 0.0"),
    ],
)
def test_deviations_have_the_places_of_their_mean(values, printed):
    table = pd.DataFrame({"layer": "a", "measure": "s", "value": values, "seed": [0, 1]})
    assert layer_table(table, digits=2).values()[1].data["printed"].tolist() == [printed]


@pytest.mark.parametrize(
    ("heading", "width", "tilted"), [("x", {}, 0), ("background_value", {}, 35), ("background_value", {"width": 160}, 0)]
)
def test_headings_of_a_layer_table_that_are_wider_than_their_column_are_tilted(heading, width, tilted):
    table = pd.DataFrame({"layer": ["a", "b"], "measure": heading, "value": [1.0, 2.0]})
    axis = hv.renderer("bokeh").get_plot(layer_table(table, **width)).state.above[0]
    assert np.degrees(axis.major_label_orientation if tilted else 0) == pytest.approx(tilted)
    assert tilted or axis.major_label_orientation in (0, "horizontal")


def test_dots_are_means_and_strokes_seeds_in_the_order_of_the_table():
    figure = setting_dots(DOTS, value="label", lines={"untrained": 21.0})
    dots = pd.concat([e.dframe() for e in figure if isinstance(e, hv.Points)], ignore_index=True)
    assert dots[["group", "setting"]].to_numpy().tolist() == [["views", "crop"], ["views", "none"], ["rate", "tenfold"]]
    assert dots[["low", "mean", "high"]].to_numpy().tolist() == [[30.0, 32.0, 34.0], [20.0] * 3, [25.0] * 3]
    place = dots["place"].to_numpy()
    assert (np.diff(place) < 0).all() and place[0] - place[1] < place[1] - place[2]  # from above, a gap between groups
    bars = pd.concat([e.dframe() for e in figure if isinstance(e, hv.Segments)])
    assert {(r.x0, r.x1) for r in bars.itertuples() if r.y0 == r.y1} == {(30.0, 34.0), (20.0, 20.0)}
    strokes = bars[bars["y0"] != bars["y1"]].assign(middle=lambda t: (t["y0"] + t["y1"]) / 2)
    assert strokes["x0"].tolist() == [21.0, 30.0, 34.0, 20.0, 20.0] and (strokes["x0"] == strokes["x1"]).all()
    assert set(strokes["middle"][1:].round(9)) == set(place[:2].round(9)), "one seed alone is its dot"
    low, high = hv.Store.lookup_options("bokeh", setting_dots(DOTS, value="label", lines={"raw pixels": 40.0}), "plot").kwargs[
        "xlim"
    ]
    assert low < 20 and high > 42, "there is room for the words to the right of the last line"
    with pytest.raises(ValueError, match="several values for one knob and setting"):
        setting_dots(DOTS.drop(columns="seed"), value="label")


def test_dots_take_the_colours_of_their_settings_and_groups_are_named():
    table = DOTS.assign(setting=["crop", "crop", "none", "none", "crop"])
    figure = setting_dots(table, value="label", colour="setting", colours={"crop": "#111111", "none": "#222222"})
    points = {e.label: e.dframe() for e in figure if isinstance(e, hv.Points)}
    assert points["crop"]["mean"].tolist() == [32.0, 25.0] and points["none"]["mean"].tolist() == [20.0]
    axis = hv.renderer("bokeh").get_plot(figure).state.left[0]
    named = {axis.major_label_overrides[at]: at for at in axis.ticker.ticks}
    views = sum(float(points[name]["place"].iloc[0]) for name in points) / 2
    assert named == {"views": pytest.approx(views), "rate": points["crop"]["place"].iloc[1]}
    with pytest.raises(ValueError, match="colours stand for 'knob' or 'setting', but got colour='seed'"):
        setting_dots(table, value="label", colour="seed")


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


def test_flatten_of_more_columns_than_rows_forms_no_matrix_of_columns():
    from sklearn.decomposition import PCA

    x = np.random.default_rng(0).normal(size=(12, 150_528)).astype(np.float32)  # 224 x 224 x 3; squared, 181 GB
    np.testing.assert_allclose(np.abs(flatten(x)), np.abs(PCA(2).fit_transform(x.astype(np.float64))), atol=1e-6)
    wide = np.random.default_rng(1).normal(size=(30, 31)) * np.arange(1, 32)
    both = flatten(wide), flatten(np.concatenate([wide, wide]))[:30]  # fewer rows than columns, and more: the same axes
    np.testing.assert_allclose(*both, atol=1e-9)
    np.testing.assert_array_equal(flatten(np.ones((3, 5))), 0)


def test_flatten_leaves_the_features_as_they_are():
    x = np.random.default_rng(0).normal(size=(9, 4)) + 5
    before = x.copy()
    flatten(x)
    np.testing.assert_array_equal(x, before)


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
    assert all(url.startswith("data:image/png;base64,") for url in data["map_image"])
    assert list(data["map_row"]) == [0, 1, 2, 3, 4] and list(data["label"]) == list("01012")
    plot = hv.renderer("bokeh").get_plot(figure)
    assert plot.handles["source"].selected.indices == [1]
    shown = [r for r in plot.state.renderers if r.visible]
    assert [r.view.filter.group for r in shown] == ["0", "1", "2"]
    assert all(r.nonselection_glyph.fill_color.value == theme.GREY and r.data_source is plot.handles["source"] for r in shown)
    assert [item.renderers for item in plot.state.legend[0].items] == [[r] for r in shown]


@pytest.fixture(scope="module")
def garment_factors() -> pd.DataFrame:
    from workbench.data import garments

    return garments(40).factors


@pytest.mark.parametrize("colour", ["x", "y", "label", "class_name", "garment", "light_angle"])
def test_a_map_leaves_every_factor_of_garments_as_it_is(garment_factors, colour):
    xy = np.random.default_rng(0).normal(size=(40, 2))
    data = drawn(embedding_map(xy, garment_factors, colour=colour))["Points"]
    for name in garment_factors:
        want = garment_factors[name].astype(type(data[name][0]))  # classes that colour the points are words
        assert list(data[name]) == list(want), name
    np.testing.assert_allclose(np.c_[data["map_x"], data["map_y"]], xy)
    assert list(map(str, data["color"])) == list(map(str, data[colour]))
    glyph = hv.renderer("bokeh").get_plot(embedding_map(xy, garment_factors, colour=colour)).handles["glyph_renderer"].glyph
    assert (glyph.x, glyph.y) == ("map_x", "map_y")


@pytest.mark.parametrize("colour", ["row", "color", "map_x", 7])
def test_a_map_shows_factors_of_any_name_on_hover(colour):
    names = ["row", "image", "x", "color", "map_x", 7]
    factors = pd.DataFrame({name: np.arange(5) * 10.0**k for k, name in enumerate(names)})
    figure = embedding_map(PLANE, factors, colour=colour, images=PIXELS)
    data = drawn(figure)["Points"]
    tips = hv.renderer("bokeh").get_plot(figure).state.select_one(HoverTool).tooltips
    for name in names:
        field = tips.partition(f"<b>{name}</b> @{{")[2].partition("}")[0]
        if name == "row":  # the first line is the point's own
            field = tips.rpartition(f"<b>{name}</b> @{{")[2].partition("}")[0]
        np.testing.assert_allclose(np.asarray(data[field], float), factors[name])
    np.testing.assert_allclose(np.asarray(data["color"], float), factors[colour])
    np.testing.assert_allclose(data["map_x"], PLANE[:, 0])
    assert '<img src="@{map_image}"' in tips and data["map_image"][0].startswith("data:image/png")


@pytest.mark.parametrize(
    "selected", [[1, 4], np.array([1, 4]), np.array([0, 1, 0, 0, 1], bool), [False, True, False, False, True]]
)
def test_rows_are_selected_by_number_or_by_mask(selected):
    assert hv.renderer("bokeh").get_plot(embedding_map(PLANE, selected=selected)).handles["source"].selected.indices == [1, 4]


def test_a_map_is_made_by_the_method_that_is_asked_for(monkeypatch):
    x = np.random.default_rng(0).normal(size=(20, 5))
    points = drawn(embedding_map(x, method="pca"))["Points"]
    np.testing.assert_allclose(np.c_[points["map_x"], points["map_y"]], flatten(x))
    turned = drawn(embedding_map(x[:, :2], method="pca"))["Points"]  # two columns are drawn as they are, unless a method is named
    np.testing.assert_allclose(np.c_[turned["map_x"], turned["map_y"]], flatten(x[:, :2]))

    class Umap:
        def __init__(self, **settings):
            self.settings = settings

        def fit_transform(self, x):
            return np.full((len(x), 2), self.settings["random_state"])

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    assert set(drawn(embedding_map(x, method="umap", seed=7))["Points"]["map_x"]) == {7}


def test_images_that_are_too_many_are_missed_aloud():
    with pytest.warns(UserWarning, match="images of 5 points are not shown on hover, only those of up to 4"):
        figure = embedding_map(PLANE, images=PIXELS, thumbnails=4)
    assert "map_image" not in drawn(figure)["Points"]
    with pytest.warns(UserWarning, match="images of 10,001 points.*only those of up to 10,000"):
        embedding_map(np.zeros((10_001, 2)), images=np.zeros((10_001, 1, 1), np.uint8), thumbnails=20_000)


def test_beyond_ten_thousand_points_what_is_not_selected_turns_grey():
    xy = np.repeat([[0.0, 0.0], [1.0, 1.0]], 6_000, axis=0)
    factors = pd.DataFrame({"label": np.repeat(["left", "right"], 6_000)})
    figure = embedding_map(xy, factors, colour="label", selected=factors["label"] == "right")
    grey, bright = (np.asarray(plot.handles["source"].data["image"][0]) for plot in _layers(figure))
    left, right = (slice(0, grey.shape[0] // 2), slice(grey.shape[0] // 2, None))
    assert _colours(grey[left]) == {theme.GREY.lower()} and _colours(grey[right]) == {theme.GREY.lower()}
    assert _colours(bright[left]) == set() and _colours(bright[right]) == {
        palette(["left", "right"], "category")["right"].lower()
    }


def _layers(figure) -> list:
    return list(hv.renderer("bokeh").get_plot(figure).subplots.values())


def _colours(image: np.ndarray) -> set[str]:
    """Of the pixels that are not see-through."""
    parts = np.ascontiguousarray(image).view(np.uint8).reshape(*image.shape, 4).reshape(-1, 4)
    return {"#" + bytes(part[:3]).hex() for part in parts if part[3] > 0}


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
        (lambda: spectra(TABLE.assign(rank=np.nan)), ValueError, "without rows"),
        (
            lambda: training_curves(pd.concat([METRICS, METRICS])),
            ValueError,
            "several values for one run and step: add a column that tells them apart",
        ),
        (lambda: training_curves(METRICS.drop(columns="run"), by="run"), KeyError, "['run'] are missing"),
        (
            lambda: training_curves(pd.concat([METRICS.assign(strength=s, lr=s * METRICS["loss"]) for s in (0.1, 0.2)])),
            ValueError,
            "choose one value of ['strength'], or draw by one. Only a column 'seed' is averaged",
        ),
        (
            lambda: layer_table(pd.concat([TABLE.assign(measure="r", layer=list("abcde"), step=s) for s in (0, 10)])),
            ValueError,
            "several values for one layer and measure: choose one value of ['step'], or draw by one",
        ),
        (lambda: layer_table(TABLE.assign(measure="spectrum")), ValueError, "choose one value of ['rank']"),
        (
            lambda: spectra(pd.concat([TABLE.assign(run=r) for r in "abcde"]), dash="run"),
            ValueError,
            "dash='run' has 5 values, but there are 4 styles of line; draw by='run'",
        ),
        (
            lambda: training_curves(pd.concat([METRICS.assign(kind=k) for k in "abcde"]), dash="kind"),
            ValueError,
            "dash='kind' has 5 values",
        ),
        (lambda: training_curves(METRICS, values=["knn"]), KeyError, "['knn'] are missing"),
        (lambda: training_curves(METRICS.iloc[:0]), ValueError, "without rows"),
        (lambda: layer_table(TABLE), KeyError, "['measure'] are missing"),
        (lambda: verdict_table(VERDICTS.assign(verdict="wrong")), ValueError, "but got ['wrong']"),
        (lambda: alignment_map(np.ones(3)), ValueError, "needs a matrix"),
        (lambda: image_grid(PIXELS.astype(float)), TypeError, "must be uint8 from 0 to 255, but got float64"),
        (lambda: image_grid(PIXELS[0, 0]), ValueError, "but got (4, 4"),
        (lambda: image_grid(PIXELS, ["a"]), ValueError, "1 captions for 5 images"),
        (lambda: embedding_map(PLANE, FACTORS, colour="size"), KeyError, "no factor 'size'"),
        (lambda: embedding_map(PLANE, FACTORS[:2]), ValueError, "5 points but 2 rows"),
        (lambda: embedding_map(np.where(PLANE == 2, np.nan, PLANE)), ValueError, "(5, 2) with 1 not finite"),
        (lambda: embedding_map(PLANE, images=PIXELS[:2]), ValueError, "5 points but 2 images"),
        (lambda: embedding_map(PLANE, selected=[0, 5]), IndexError, "rows from 0 to 5, but there are rows 0 to 4"),
        (lambda: embedding_map(PLANE, selected=[True]), ValueError, "mask of shape (1,) for 5 points"),
        (lambda: embedding_map(PLANE, method="tsne"), ValueError, "by 'pca' or 'umap', but got method='tsne'"),
        (lambda: flatten(PLANE, method="tsne"), ValueError, "by 'pca' or 'umap', but got method='tsne'"),
        (lambda: flatten(np.zeros((2, 3))), ValueError, "at least 3 rows, but got (2, 3)"),
        (lambda: flatten(np.full((4, 3), np.nan)), ValueError, "12 not finite"),
        (lambda: factor_map(HELD.drop(columns="factor")), KeyError, "['factor'] are missing"),
        (lambda: factor_map(pd.concat([HELD, HELD])), ValueError, "several values for one code and factor"),
        (lambda: factor_map(HELD, framed=7), ValueError, "no code 7 to frame; there are [0, 1, 2]"),
        (lambda: factor_map(HELD.assign(value=-1.0)), ValueError, "at least 0, but got -1"),
        (lambda: support_scatter(np.eye(3)), ValueError, "(rows, 2), but got (3, 3) with 0 not finite"),
        (lambda: support_scatter(np.array([[0.0, np.nan]])), ValueError, "(1, 2) with 1 not finite"),
        (lambda: support_scatter(PLANE, factor=[1, 2], name="hue"), ValueError, "5 rows but 2 values of hue"),
        (lambda: support_scatter(PLANE, witness=[1.0, 2.0]), ValueError, "two numbers each, but got shape (2,)"),
        (lambda: traversals(WALK[0]), ValueError, "but got shape (3, 3, 4, 4)"),
        (lambda: traversals(WALK, codes=["a"]), ValueError, "1 codes for images of 2 codes and 3 steps; give 2"),
        (lambda: traversals(WALK, values=[0, 1]), ValueError, "2 values for images of 2 codes and 3 steps; give 3"),
        (lambda: traversals(WALK, dead=[5]), ValueError, "no code 5 to mark; the codes are [0, 1]"),
        (lambda: traversals(WALK / 9.0), ValueError, "from 0 to 1, but got float64 from 0 to 28.3"),
        (lambda: save(spectra(TABLE), "figure.svg"), ValueError, "saved as .png or .html"),
    ],
)
def test_errors_say_what_was_wanted(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


def test_spectra_draw_what_measures_and_replays_give(tmp_path):
    import torch

    import workbench as wb

    z = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    alone = wb.spectrum(z)
    np.testing.assert_allclose(drawn(wb.spectra(alone))["Curve"]["middle"], alone["value"])
    assert note(wb.spectra(alone)) == "N = 60, D = 4; numerical floor 2e-16, below what is drawn"
    table = wb.over_layers({"h": z, "z": z[:, :2]}, spectrum=wb.spectrum)
    figure = wb.spectra(table)
    np.testing.assert_allclose(drawn(figure)["Curve h"]["middle"], alone["value"])
    assert [height for _, height, _ in floors(figure)] == [alone["floor"][0], wb.spectrum(z[:, :2])["floor"][0]]
    scalars = wb.over_layers({"h": z, "z": z[:, :2]}, rankme=wb.rankme, top=lambda z: 1.0)
    np.testing.assert_allclose(drawn(wb.spectra(pd.concat([scalars, table])))["Curve h"]["middle"], alone["value"])
    assert "eps=1e-07" in note(layer_table(scalars)).replace("\n", " ")

    images = wb.garments(48)
    trainer = wb.Trainer(epochs=1, batch_size=16)
    run = trainer.fit(
        wb.build_encoder("convnet", width=4), wb.SimCLR(), images, wb.Augment(), out=tmp_path / "run", progress=False
    )
    tables = wb.replay(run, n=24, layers=["backbone"], progress=False)
    first = tables["spectrum"][tables["spectrum"]["step"] == 0]
    state = hv.renderer("bokeh").get_plot(wb.spectra(first)).state
    np.testing.assert_allclose(drawn(wb.spectra(first))["Curve backbone"]["middle"], first["value"])
    assert note(wb.spectra(first)).startswith(f"N = 24, D = {first['d'].iloc[0]}") and floors(wb.spectra(first)) != []
    assert state.yaxis[0].axis_label.startswith("eigenvalues of the covariance")
    assert len(floors(wb.spectra(tables["spectrum"], by="step"))) == len(run.steps) > 2
    for draw, kept in ((wb.spectra, "spectrum"), (wb.layer_table, "measures")):
        with pytest.raises(ValueError, match=r"choose one value of \['step'\]"):
            draw(tables[kept])


def test_colours_can_be_told_apart():
    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for kind in ("run", "layer", "step"):
        colours = list(palette(range(8), kind).values())
        assert len(set(colours)) == 8
        assert all(1.05 / (luminance(c) + 0.05) > 1.7 for c in colours), kind  # contrast with white paper

    def lab(colour: str) -> np.ndarray:
        """CIE L*a*b* under D65."""
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
        f = np.cbrt(xyz / [0.9505, 1, 1.089])  # of colours that are not nearly black
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    eight = [lab(c) for c in list(palette(range(8), "layer").values())[1:]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(eight, 2)) > 18  # of viridis 15
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


def test_a_choice_is_drawn_as_mean_and_deviation_over_seeds():
    figure = choice_scatter(CHOICES, x="rankme", y="label", chosen=[("lr", 0.2)], floor=0.5)
    parts = drawn(figure)
    dots = parts["Points lr"]
    assert list(dots["x"]) == [2, 5, 7] and list(dots["y"]) == [41, 50, 46] and list(dots["seeds"]) == [2, 1, 2]
    spans = [part.data for part in figure if isinstance(part, hv.Segments)]
    assert spans[0]["x0"][0] == pytest.approx(2 - 2**0.5) and spans[1]["y1"][2] == pytest.approx(46 + 2**0.5)
    ring = [part for part in figure if isinstance(part, hv.Points) and not part.label]
    assert [r.data[["x", "y"]].to_numpy().tolist() for r in ring] == [[[5, 50]]]
    band = next(part for part in figure if isinstance(part, hv.HSpan))
    assert (band.data[0], band.data[1]) == (49, 51)
    with pytest.raises(ValueError, match="several values for one sweep and setting and seed"):
        choice_scatter(pd.concat([CHOICES, CHOICES]), x="rankme", y="label")


def test_a_measure_along_its_hyper_parameter():
    table = pd.concat([CHOICES, CHOICES.assign(sweep="b", rankme=CHOICES["rankme"] + 1)], ignore_index=True)
    table["taken"] = [False, True, True, False, False] + [False] * 4 + [True]
    figure = along_setting(
        table, "rankme", by="sweep", chosen="taken", band={"lr": (6.0, np.inf)}, picked=("b", 0.3), xlabel="rate"
    )
    dots = {part.label: part.data for part in figure if isinstance(part, hv.Points) and part.label}
    assert dots["lr"]["y"].tolist() == [2, 5, 7] and dots["b"]["y"].tolist() == [3, 6, 8]
    assert dots["lr"]["x"].round().tolist() == [0, 1, 2] and (dots["lr"]["x"].to_numpy() < dots["b"]["x"].to_numpy()).all()
    *rings, cross = [part.data[["x", "y"]].to_numpy() for part in figure if isinstance(part, hv.Points) and not part.label]
    assert [ring[:, 1].tolist() for ring in rings] == [[2, 5], [8]] and cross[:, 1].tolist() == [8]
    words = [part.data["words"].tolist() for part in figure if isinstance(part, hv.Labels)]
    assert words == [["1 of 2", "1 of 2"]]
    span = next(part.data for part in figure if isinstance(part, hv.HSpan))
    state = hv.renderer("bokeh").get_plot(figure).state
    assert span[:2] == [6, 7]
    assert state.xaxis[0].axis_label == "rate" and list(state.xaxis[0].major_label_overrides.values()) == ["0.1", "0.2", "0.3"]
    with pytest.raises(KeyError, match="along_setting needs the columns"):
        along_setting(table.drop(columns="setting"), "rankme", by="sweep")


def test_regrets_are_printed_in_brackets_where_seeds_alone_would_choose():
    told = REGRETS.assign(regret_std=[1.0, 0.1, np.nan, 0.0, 0.2], told=[None, True, False, None, None])
    words = drawn(regret_table(told))["Labels"]["printed"]
    assert set(words) == {"3.0 ± 1.0", "0.5 ± 0.1", "(1.0)", "2.0 ± 0.2"}
    assert "in brackets" in note(regret_table(told)) and "over seeds" in note(regret_table(told))
    assert "brackets" not in note(regret_table(REGRETS)) and "over seeds" not in note(regret_table(REGRETS))


def test_regrets_of_more_measures_than_sweeps_stand_below_each_other():
    def axes(table):
        plot = hv.renderer("bokeh").get_plot(regret_table(table)).state
        return list(plot.x_range.factors), list(plot.y_range.factors)[::-1]

    names = ["random", "RankMe (backbone.stage1)", "loss"]
    one = pd.DataFrame({"method": "SimCLR", "sweep": "lr", "measure": names, "regret": [1.0, 2.0, 0.5]})
    assert axes(one) == (["SimCLR, lr"], names)
    three = pd.concat([one.assign(sweep=sweep) for sweep in ("lr", "wd", "t")])
    assert axes(three) == (["random", "RankMe\n(backbone.stage1)", "loss"], ["SimCLR, lr", "SimCLR, wd", "SimCLR, t"])
    words = regret_table(one).values()[1].data
    assert words[["measure", "sweep", "printed"]].to_numpy().tolist() == [
        [name, "SimCLR, lr", said] for name, said in zip(names, ["1.0", "2.0", "0.5"], strict=True)
    ]


def test_dots_stand_on_all_curves_or_on_none():
    short, long = (TABLE.assign(layer=name) for name in ("short", "long"))
    long = pd.concat([long.assign(rank=long["rank"] + 5 * k) for k in range(6)])
    assert [k for k in drawn(spectra(pd.concat([short, TABLE]))) if k.startswith("Scatter")]
    assert not [k for k in drawn(spectra(pd.concat([short, long]))) if k.startswith("Scatter")]


def test_small_numbers_are_written_out_on_axes():
    state = hv.renderer("bokeh").get_plot(training_curves(METRICS.assign(lr=1e-4), values=["lr"])).state
    assert state.yaxis[0].formatter.power_limit_low == -5


# --- two models side by side ------------------------------------------------------------------------------------------------


def words(figure) -> dict[tuple[str, str], tuple[str, str]]:
    """The numbers printed in a similarity map and their colours, by column and row."""
    plot = hv.renderer("bokeh").get_plot(figure)
    out = {}
    for part in list(plot.subplots.values())[1:]:
        glyph, data = part.handles["glyph"], part.handles["source"].data
        places = zip(data["across"], data["down"], data["printed"], strict=True)
        out |= {(x, y): (text, glyph.text_color) for x, y, text in places}
    return out


def test_a_similarity_map_prints_its_numbers_where_they_can_be_read():
    figure = similarity_map(PAIRS, xlabel="SimCLR", ylabel="MAE")
    assert words(figure) == {
        ("x", "a"): ("0.95", theme.PAPER),
        ("y", "a"): ("0.40", theme.INK),
        ("x", "b"): ("(0.00)", theme.INK),  # as near as unrelated images come
        ("y", "b"): ("–", theme.INK),
        ("x", "c"): ("0.02", theme.INK),
    }
    plot = hv.renderer("bokeh").get_plot(figure)
    state = plot.state
    assert (state.xaxis[0].axis_label, state.yaxis[0].axis_label) == ("SimCLR", "MAE")
    assert (list(state.x_range.factors), list(state.y_range.factors)) == (["x", "y"], ["a", "b", "c"])  # the first at the bottom
    heat = next(iter(plot.subplots.values()))
    assert (heat.handles["color_mapper"].low, heat.handles["color_mapper"].high) == (0, 1)
    said = [re.match(r"@\{?(\w+)", word).group(1) for _, word in heat.handles["hover"].tooltips]
    assert len(said) == 4 and set(said) <= set(heat.handles["source"].data)
    (note,) = [part.text for part in state.below if isinstance(part, Title)]
    assert "N = 300, linear" in note
    assert "stay below 0.01 in 95% of permutations, the largest of the whole map below 0.03." in note.replace("\n", " ")


def test_a_similarity_map_means_over_seeds_and_refuses_two_measures():
    seeds = pd.concat([PAIRS.assign(seed=s, value=PAIRS["value"] + 0.1 * s) for s in (0, 1)])
    assert words(similarity_map(seeds))["y", "a"][0] == "0.45"
    both = pd.concat([PAIRS, PAIRS.assign(measure="svcca")])
    with pytest.raises(ValueError, match=r"choose one value of \['measure'\]"):
        similarity_map(both)
    with pytest.raises(KeyError, match="similarity_map needs the columns"):
        similarity_map(PAIRS.drop(columns="other"))


def test_similarity_maps_stand_side_by_side_in_the_table_s_order():
    both = pd.concat([PAIRS.assign(kind="same"), PAIRS.assign(kind="another", value=PAIRS["value"] / 2)])
    layout = similarity_map(both, by="kind", xlabel="SimCLR", title="Two kinds")
    assert isinstance(layout, hv.Layout)
    assert [words(part)["y", "a"][0] for part in layout] == ["0.40", "0.20"]
    states = [hv.renderer("bokeh").get_plot(part).state for part in layout]
    assert [(state.title.text, state.xaxis[0].axis_label) for state in states] == [("same", "SimCLR"), ("another", "SimCLR")]
    with pytest.raises(KeyError, match="similarity_map needs the columns"):
        similarity_map(PAIRS, by="kind")
    with pytest.raises(ValueError, match=r"choose one value of \['kind'\]"):
        similarity_map(both)


def test_a_similarity_map_without_a_null_has_none_and_a_large_one_no_numbers():
    plain = PAIRS[["layer", "other", "value"]]
    assert words(similarity_map(plain))["x", "b"][0] == "0.00"
    assert not [part for part in hv.renderer("bokeh").get_plot(similarity_map(plain)).state.below if isinstance(part, Title)]
    wide = pd.DataFrame({"layer": "a", "other": [f"b{i}" for i in range(17)], "value": 0.5})
    assert words(similarity_map(wide)) == {}
    assert len(words(similarity_map(wide[:16]))) == 16


def test_axes_may_be_named_otherwise():
    state = hv.renderer("bokeh").get_plot(training_curves(METRICS, xlabel="", ylabel="bits")).state
    assert state.xaxis[0].axis_label == "" and state.yaxis[0].axis_label == "bits"


# --- codes and factors ------------------------------------------------------------------------------------------------------


def test_a_factor_map_prints_its_numbers_and_greys_dead_codes():
    figure = factor_map(HELD.assign(dead=[False] * 4 + [True]), framed=1, quantity="information (nats)")
    assert words(figure) == {
        ("x", "0"): ("1.50", theme.PAPER),
        ("y", "0"): ("0.10", theme.INK),
        ("x", "1"): ("0.20", theme.INK),
        ("y", "1"): ("0.80", theme.INK),
        ("x", "2 (dead)"): ("0.30", theme.INK),
    }
    plot = hv.renderer("bokeh").get_plot(figure)
    heat, state = next(iter(plot.subplots.values())), plot.state
    assert (list(state.x_range.factors), list(state.y_range.factors)) == (["x", "y"], ["2 (dead)", "1", "0"])  # first on top
    assert (heat.handles["color_mapper"].low, heat.handles["color_mapper"].high) == (0, 1.5)
    coloured = heat.handles["source"].data
    alive = dict(zip(zip(coloured["down"], coloured["across"], strict=True), coloured["alive"], strict=True))
    assert alive["2 (dead)", "x"] == "-" and alive["1", "y"] == "0.8", "HoloViews' word for what has no colour of the scale"
    (frame,) = [part for part in state.center if getattr(part, "name", "") == "framed"]
    assert (frame.left, frame.right, frame.bottom, frame.top) == (0, 2, 1, 2)
    assert note(figure) == "information (nats), N = 300"


def test_factor_maps_of_runs_share_one_scale_and_mean_over_seeds():
    seeds = pd.concat([HELD.assign(seed=s, value=HELD["value"] * (1 + s)) for s in (0, 1)])
    assert words(factor_map(seeds))["x", "0"][0] == "2.25"
    both = pd.concat([HELD.assign(run="a"), HELD[HELD["code"] < 2].assign(run="b", value=0.5)])
    layout = factor_map(both, by="run", framed=2)
    plots = [hv.renderer("bokeh").get_plot(part) for part in layout]
    assert [plot.state.title.text for plot in plots] == ["a", "b"]
    assert [next(iter(plot.subplots.values())).handles["color_mapper"].high for plot in plots] == [1.5, 1.5]
    framed = [[part for part in plot.state.center if getattr(part, "name", "") == "framed"] for plot in plots]
    assert [len(frames) for frames in framed] == [1, 0]
    many = pd.DataFrame({"code": range(241), "factor": "x", "value": 1.0})
    assert words(factor_map(many)) == {} and len(words(factor_map(many[1:]))) == 240


def test_a_support_scatter_marks_corners_that_nothing_comes_near():
    rows = np.array([[0.0, 0], [0, 1], [10, 1], [2, 0]])
    figure = support_scatter(rows, factor=list("abab"), witness=([10, 0], [10, 1]), unit="sides")
    parts = {part.label: part for part in figure}
    assert parts["missing"].dframe()[["x", "y"]].to_numpy().tolist() == [[10, 0]]
    assert [parts[name].dframe()[["x", "y"]].to_numpy().tolist() for name in "ab"] == [[[0, 0], [10, 1]], [[0, 1], [2, 0]]]
    x, y = parts["product"].dframe().to_numpy().T
    assert (x.min(), x.max(), y.min(), y.max()) == (0, 10, 0, 1)
    assert parts["witness"].dframe().to_numpy().tolist() == [[10, 0, 10, 1]]
    assert parts["length"].dframe()["words"].tolist() == [" 1.00"]
    assert "(1 of 4)" in note(figure).replace("\n", " ") and "1.00 sides long." in note(figure).replace("\n", " ")
    assert "(0 of 4)" in note(support_scatter(rows, near=0.8)).replace("\n", " ")
    state = hv.renderer("bokeh").get_plot(support_scatter(rows * [0.1, 1])).state
    spans = [end.end - end.start for end in (state.x_range, state.y_range)]
    assert state.frame_width / spans[0] == pytest.approx(state.frame_height / spans[1]), "lengths are true"


def test_a_support_scatter_of_many_rows_draws_some_and_says_so():
    codes = np.random.default_rng(0).random((9_000, 2))
    figure = support_scatter(codes, factor=codes[:, 0])
    parts = {part.label: part.dframe() for part in figure}
    rows = parts["rows"]
    assert len(rows) == 4_000 and "N = 9,000, of which 4,000 are drawn" in note(figure).replace("\n", " ")
    np.testing.assert_array_equal(rows[["x", "y"]], codes[rows["row"]])
    np.testing.assert_array_equal(rows["factor"], rows["x"])
    assert parts["product"].iloc[:, 0].max() == codes[:, 0].max()


def test_traversals_lay_a_row_a_code_and_pale_the_dead():
    figure = traversals(WALK, codes=["a", "b"], values=[-1, 0, 2], dead=["b"], framed="a", size=8)
    parts = {part.label: part for part in figure}
    picture = np.stack([parts["traversals"].dimension_values(i, flat=False)[::-1] for i in (2, 3, 4)], -1)
    assert picture.shape == (2 * 16 + 8, 3 * 16 + 2 * 8, 3)
    np.testing.assert_array_equal(picture[:16:4, 24:40:4], WALK[0, 1].transpose(1, 2, 0))
    np.testing.assert_allclose(picture[24::4, :16:4], 255 - 0.35 * (255.0 - WALK[1, 0].transpose(1, 2, 0)), atol=1)
    state = hv.renderer("bokeh").get_plot(figure).state
    assert list(state.yaxis[0].major_label_overrides.values()) == ["a", "b (dead)"]
    assert list(state.xaxis[0].major_label_overrides.values()) == ["−1", "0", "2"]
    box = parts["framed"].dframe().to_numpy()[0]
    assert (box[1], box[3]) == (-10, 2), "around the upper row"
    bytes_, floats = (next(iter(traversals(images))).dframe() for images in (WALK, WALK / 255))
    np.testing.assert_array_equal(bytes_, floats)
    assert hv.renderer("bokeh").get_plot(traversals(WALK)).state.xaxis[0].visible is False, "without values there is no axis"


def test_a_joint_map_leaves_what_never_occurs_white():
    plot = hv.renderer("bokeh").get_plot(joint_map(JOINT, xlabel="across", title="together"))
    source = plot.handles["source"].data
    cells = dict(zip(zip(source["across"], source["up"], strict=True), source["share"], strict=True))
    assert float(cells[1, 1]) == 40 and float(cells[2, 3]) == 20 and cells[0, 3] == "-"
    assert (plot.state.x_range.start, plot.state.x_range.end, plot.state.y_range.end) == (-0.5, 2.5, 3.5)
    with pytest.raises(ValueError, match="several values for one x and y"):
        joint_map(pd.concat([JOINT, JOINT.assign(share=0.5)]))


# --- samples of a representation ----------------------------------------------------------------------------------------------


def sheet(figure) -> np.ndarray:
    """The picture, row by row from above."""
    return np.stack([figure.RGB.Sheet.dimension_values(i, flat=False)[::-1] for i in (2, 3, 4)], -1)


def test_sample_rows_set_each_sample_beside_its_source():
    first, second = DRAWN, np.round(255 * (1 - DRAWN[:5])).astype(np.uint8)
    figure = sample_rows(PIXELS, {"backbone": first, "projector": second}, targets=PIXELS[::-1], size=12)
    picture, gap, wide = sheet(figure), 1, 2
    starts = [0, 4 + wide, 4 + wide + 4 + gap, 4 + 2 * wide + 2 * (4 + gap) - gap, 8 + 3 * wide + 2 * (4 + gap) - gap]
    drawn = (255 * first).round().astype(np.uint8)
    wanted = [PIXELS, drawn[::2], drawn[1::2], second, PIXELS[::-1]]
    for left, images in zip(starts, wanted, strict=True):
        for i, image in enumerate(images):
            np.testing.assert_array_equal(picture[5 * i : 5 * i + 4, left : left + 4], image.transpose(1, 2, 0))
    assert (picture[4::5] == 255).all() and (picture[:, 4:6] == 255).all()
    state = hv.renderer("bokeh").get_plot(figure).state
    assert (state.frame_width, state.frame_height) == (3 * picture.shape[1], 3 * picture.shape[0])  # squares of whole pixels
    assert list(state.xaxis[0].major_label_overrides.values()) == ["source", "backbone", "projector", "target"]


def test_the_mouse_reads_what_is_known_of_a_sample():
    ranks = pd.DataFrame({"distance": np.arange(10) / 8, "rank": [1.5] + [1200.0] * 9, "nearest": range(10), "relative": 0.1})
    figure = sample_rows(PIXELS, {"z": DRAWN}, ranks={"z": ranks}, rows=list("vwxyz"))
    boxes = figure.Rectangles.Images.data
    assert len(boxes) == 15
    assert boxes.iloc[0][["what", "row", "distance", "rank", "nearest"]].tolist() == ["source", "v", "–", "–", "–"]
    assert boxes.iloc[5][["what", "row", "distance", "rank", "nearest"]].tolist() == ["z, 1 of 2", "v", "0", "1.5", "0"]
    assert boxes.iloc[14][["what", "row", "distance", "rank", "nearest"]].tolist() == ["z, 2 of 2", "z", "1.12", "1,200", "9"]
    hover = hv.renderer("bokeh").get_plot(figure).state.select_one(HoverTool)
    assert ("distance to the condition", "@{distance}") in hover.tooltips and (
        "nearest real image",
        "@{nearest}",
    ) in hover.tooltips
    plain = hv.renderer("bokeh").get_plot(sample_rows(PIXELS, DRAWN)).state.select_one(HoverTool)
    assert [name for name, _ in plain.tooltips] == ["image", "row"]


def test_samples_that_are_not_drawn_yet_are_grey_places():
    half = np.where(np.arange(10)[:, None, None, None] < 3, DRAWN, np.nan)
    picture = sheet(sample_rows(PIXELS, half, size=4))
    assert (picture[5:9, 11:15] == picture[10:14, 6:10]).all() and picture[10, 6].tolist() == [236] * 3
    np.testing.assert_array_equal(picture[5:9, 6:10], (255 * DRAWN[2]).round().transpose(1, 2, 0))


def test_a_grid_of_sixteen_by_sixteen_is_one_small_picture():
    small = np.zeros((256, 3, 16, 16), np.uint8)
    figure = sample_rows(small[:16], small)
    assert sheet(figure).shape == (16 * 17 - 1, 16 + 4 + 16 * 17 - 1, 3) and len(figure) == 2


def test_means_and_deviations_stand_where_they_belong():
    mean, deviation = DRAWN[:5], DRAWN[5:, 0] / 4
    figure = mean_and_deviation(PIXELS, {"a": (mean, deviation), "b": (1 - mean, 2 * deviation)}, size=8)
    picture, spread = sheet(figure), figure.Image.Deviation.dimension_values(2, flat=False)[::-1]
    np.testing.assert_array_equal(picture[5:9, 6:10], (255 * mean[1]).round().transpose(1, 2, 0))
    np.testing.assert_allclose(spread[5:9, 11:15], deviation[1])
    np.testing.assert_allclose(spread[5:9, 22:26], 2 * deviation[1])
    assert np.isnan(spread[:, :11]).all() and (picture[:, 11:15] == 255).all()
    state = hv.renderer("bokeh").get_plot(figure).state
    assert state.xaxis[0].major_label_overrides and state.right[0].color_mapper.high == pytest.approx(2 * deviation.max())
    assert (
        hv.renderer("bokeh").get_plot(mean_and_deviation(PIXELS, (mean, deviation), high=0.5)).state.right[0].color_mapper.high
        == 0.5
    )


def test_rank_curves_draw_values_intervals_and_chance():
    parts = drawn(rank_curve(RANKS, x="eps"))
    assert list(parts["Curve a"]["value"]) == [2, 8, 30] and list(parts["Curve chance"]["value"]) == [50.5, 50.5, 50.5]
    assert sorted(parts["Area a"]["y"]) == [1, 4, 5, 12, 20, 40]
    plot = hv.renderer("bokeh").get_plot(rank_curve(RANKS, x="eps")).state
    assert type(plot.y_scale).__name__ == "LogScale" and plot.yaxis[0].axis_label == "mean rank of the source among 100 images"
    assert note(rank_curve(RANKS, x="eps")) == "bands: intervals over 9 sources. 1 is the best rank."
    reciprocal = RANKS.assign(measure="MRR", value=1 / RANKS["value"], low=0.01, high=1.0, chance=0.05)
    plot = hv.renderer("bokeh").get_plot(rank_curve(pd.concat([RANKS, reciprocal]), x="eps", measure="MRR")).state
    assert type(plot.y_scale).__name__ == "LinearScale" and plot.y_range.start == 0


def test_several_seeds_take_the_place_of_intervals():
    seeds = pd.concat([RANKS.assign(seed=i, value=RANKS["value"] + 2 * i) for i in range(3)])
    parts = drawn(rank_curve(seeds, x="eps"))
    assert list(parts["Curve a"]["value"]) == [4, 10, 32] and sorted(parts["Area a"]["y"]) == [2, 6, 8, 12, 30, 34]
    assert "one standard deviation over 3 seeds" in note(rank_curve(seeds, x="eps"))
    bars = pd.concat([KEPT.assign(seed=i, value=KEPT["value"] + 0.02 * i) for i in range(3)])
    figure = agreement_bars(bars)
    assert list(figure.Rectangles.A.data["value"]) == pytest.approx([0.82, 0.27])
    lines = next(e for e in figure if e.label == "interval").data
    assert (lines["x1"] - lines["x0"]).tolist() == pytest.approx([0.04] * 4)


def test_agreement_bars_are_beside_what_a_probe_reads():
    figure = agreement_bars(KEPT)
    parts = {element.label: element.data for element in figure}
    assert parts["a"]["right"].tolist() == [0.8, 0.25] and parts["b"]["right"].tolist() == [0.3, 0.3]
    assert parts["linear probe"]["value"].tolist() == [0.95]
    assert parts["linear probe"]["place"][4] == pytest.approx((parts["a"]["bottom"][0] + parts["a"]["top"][0]) / 2)
    assert parts["chance"]["x0"].tolist() == [0.2, 0.2, 0.125, 0.125]
    assert parts["a"]["bottom"][0] > parts["b"]["top"][1] > parts["a"]["top"][2]  # first factor, first layer on top
    assert note(figure) == "whiskers: intervals over 9 sources."
    assert note(agreement_bars(KEPT.assign(interval=0.9))) == "whiskers: 90 % intervals over 9 sources."
    changes = KEPT[:4].assign(measure="changed").rename(columns={"layer": "change"}).drop(columns="chance")
    names = {element.label for element in agreement_bars(changes, measure="changed", by="change")}
    assert names == {"a", "b", "interval"}


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: sample_rows(PIXELS, DRAWN[:9]), ValueError, "each of 5 sources, .* but got {'samples'"),
        (lambda: sample_rows(PIXELS, DRAWN * 2), ValueError, "numbers from 0 to 1, but got float64 from 0 to 2"),
        (lambda: sample_rows(PIXELS, DRAWN, rows=["a"]), ValueError, "1 rows for 5 sources of 2 samples; give 5"),
        (lambda: sample_rows(PIXELS, DRAWN, headings=["a"]), ValueError, "1 headings for 5 sources of 2 samples; give 2"),
        (lambda: sample_rows(PIXELS, DRAWN, ranks=RANKS), ValueError, "ranks have a row a sample, {'samples': 10}"),
        (
            lambda: mean_and_deviation(PIXELS, (DRAWN, DRAWN[:, 0])),
            ValueError,
            "means and deviations are of the 5 sources, 4 x 4",
        ),
        (lambda: mean_and_deviation(PIXELS, (DRAWN[:5], DRAWN[:5, 0]), rows=["a"]), ValueError, "1 rows for 5 sources; give 5"),
        (lambda: rank_curve(RANKS, x="dose"), KeyError, "rank_curve needs the columns"),
        (
            lambda: rank_curve(RANKS, x="eps", measure="MRR"),
            ValueError,
            r"finds no 'MRR'; the table has the measures \['mean rank'\]",
        ),
        (lambda: rank_curve(pd.concat([RANKS, RANKS]), x="eps"), ValueError, "several values for one layer and eps"),
        (lambda: agreement_bars(KEPT.drop(columns="factor")), KeyError, "agreement_bars needs the columns"),
    ],
)
def test_figures_of_samples_say_what_does_not_fit(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
