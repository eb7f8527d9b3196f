"""Every notebook asks a question, keeps its cells short, and runs from top to bottom at smoke scale."""

import ast
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from workbench.notebooks import parameters_of, reproduce
from workbench.panels.interactive import knobs

NOTEBOOKS = sorted(Path(__file__).parents[1].glob("notebooks/**/[!.]*.ipynb"))
TABLES = {  # what each paper leaves beside its notebook
    "cookbook": {"measures.csv", "protocols.csv", "actions.csv"},
    "democratizing": {"measures.csv"},
    "dimensional_collapse": {"linear.csv", "measures.csv", "summary.csv", "spectra.parquet"},
    "duality": {"measures.csv", "off_diagonals.csv"},
    "expand_or_narrow": {"measures.csv"},
    "guillotine": {"measures.csv", "cuts.csv"},
    "objectives_matter": {"measures.csv", "similarity.csv", "maps.csv", "claims.csv"},
    "hfs": {"recovery.csv", "limit.csv", "measures.csv", "transfer.csv"},
    "metric_zoo": {"measures.csv", "along.csv", "correlated.csv", "regressors.csv"},
    "projection_head": {"linear.csv", "measures.csv"},
    "rankme": {"measures.csv", "regrets.csv", "controls.csv"},
    "rcdm": {"measures.csv"},
}
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def cells(path, kind="code"):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


@every
def test_it_is_a_valid_notebook(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert len({c.id for c in book.cells}) == len(book.cells)
    assert "widgets" not in book.metadata


@every
def test_it_asks_a_question_says_its_time_and_asserts_its_claims(path):
    first, *_ = cells(path, "markdown")
    assert first.source.splitlines()[0].endswith("?")
    assert "**Time**" in first.source
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cells(path)[-1].source)))


@every
def test_its_cells_are_short(path):
    assert all(len(cell.source.splitlines()) <= 16 for cell in cells(path))
    words = sum(len(cell.source.split()) for cell in cells(path, "markdown"))
    assert words <= 1_500


@pytest.mark.slow
@every
def test_it_runs_at_smoke_scale(path, tmp_path):
    settings = {"scale": "smoke"} | ({"seeds": [0]} if "seeds" in parameters_of(path) else {})
    done = reproduce(path, settings, out=tmp_path / "out", progress=False)
    assert all(cell.execution_count for cell in cells(done))
    shown = [o for cell in cells(done) for o in cell.outputs if "data" in o]
    assert sum("application/vnd.holoviews_exec.v0+json" in o["data"] for o in shown) >= 2, "figures are drawn, not printed"
    if path.parent.name == "papers":
        tables = {p.name for p in done.parent.glob("*") if p.suffix in (".csv", ".parquet")}
        assert TABLES[path.stem] <= tables
        assert set(pd.read_csv(done.parent / "measures.csv")["seed"]) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if "kept" in parameters_of(p)], ids=lambda path: path.stem)
def test_its_claims_hold_of_the_tables_that_came_with_the_workbench(path, tmp_path):
    done = reproduce(path, {"scale": "cpu", "kept": True}, out=tmp_path / "out", progress=False)
    assert all(cell.execution_count for cell in cells(done))
    assert not list(done.parent.rglob("run.json")), "nothing was trained"


def test_knobs_draw_at_once_and_again_when_turned():
    import holoviews as hv
    import ipywidgets

    seen = []

    def draw(layer, step):
        seen.append((layer, step))
        return hv.Curve([step, step], label=layer)

    slider = ipywidgets.IntSlider(3, min=0, max=9)
    pane = knobs(draw, layer=["a", "b"], step=slider)
    assert seen == [("a", 3)]
    slider.value = 5
    assert seen[-1] == ("a", 5)
    assert pane.object.label == "a"
    assert list(pane.object["y"]) == [5, 5]
    with pytest.raises(ValueError, match="the knob 'step' has nothing to choose from"):
        knobs(draw, layer=["a"], step=[])
