"""Notebooks run strictly: what may be set, what is kept of a failure, where the results land."""

import json
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from workbench.notebooks import ReproductionError, _checked, notebook_paths, parameters_of, reproduce, results

PARAMETERS = """\
scale = "smoke"
seeds = 3  # how many
lr: float = 0.1
layers = ["backbone"]
run: str | None = None
out = "out/nowhere"
"""


def write(path, *cells):
    """Writes a notebook of a title, the parameters' cell and ``cells``."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title")])
    book.cells.append(nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
    book.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(book, path)
    return path


def statuses(path):
    cells = json.loads(path.read_text())["cells"]
    return {"".join(c["source"]).splitlines()[0]: c["metadata"].get("papermill", {}).get("status") for c in cells}


def test_parameters_are_read_with_annotations_and_defaults(tmp_path):
    known = parameters_of(write(tmp_path / "a.ipynb"))
    assert known == {"scale": "smoke", "seeds": 3, "lr": 0.1, "layers": ["backbone"], "run": None, "out": "out/nowhere"}


def test_results_land_beside_the_executed_notebook_and_the_kernel_is_this_interpreter(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "kernels"))  # a kernel of this name elsewhere must not be taken
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "wrong", "language": "python"}
    (tmp_path / "kernels/kernels/python3").mkdir(parents=True)
    (tmp_path / "kernels/kernels/python3/kernel.json").write_text(json.dumps(spec))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    source = write(
        tmp_path / "table.ipynb",
        "import sys, os, pandas as pd",
        "row = dict(python=sys.executable, folder=os.getcwd(), seeds=seeds, lr=lr, layers='+'.join(layers), run=run)",
        "pd.DataFrame([row]).to_csv(f'{out}/table.csv', index=False)",
    )
    before = source.read_bytes()
    done = reproduce(source, {"seeds": 5, "lr": 1, "layers": ("a", "b"), "run": "./here"}, out="results", progress=False)
    assert done == tmp_path / "results/table.ipynb"
    assert results(done.parent) == [tmp_path / "results/table.csv"]
    assert not (tmp_path / "results/table.log").exists()
    row = pd.read_csv(tmp_path / "results/table.csv").iloc[0]
    assert row.to_dict() == {
        "python": sys.executable,
        "folder": str(tmp_path),
        "seeds": 5,
        "lr": 1,
        "layers": "a+b",
        "run": str(tmp_path / "here"),
    }
    assert source.read_bytes() == before
    assert set(statuses(done).values()) == {"completed"}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"seed": 1}, KeyError, "has no parameter 'seed'; it has scale, seeds, lr, layers, run, out"),
        ({"seeds": "many"}, TypeError, "seeds must be int, such as 3, but got 'many'"),
        ({"seeds": True}, TypeError, "seeds must be int"),
        ({"seeds": 1.5}, TypeError, "seeds must be int"),
        ({"layers": "backbone"}, TypeError, r"layers must be list, such as \['backbone'\], but got 'backbone'"),
    ],
)
def test_what_may_not_be_set_is_refused_before_anything_runs(tmp_path, given, error, said):
    with pytest.raises(error, match=said):
        reproduce(write(tmp_path / "a.ipynb"), given, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_number_of_seeds_stands_for_the_first_ones():
    path = notebook_paths()["dimensional_collapse"]
    assert _checked(path, parameters_of(path), {"seeds": 2}) == {"seeds": [0, 1]}
    with pytest.raises(TypeError, match=r"seeds must be list, such as \[0, 1, 2\], but got 0"):
        _checked(path, parameters_of(path), {"seeds": 0})


def test_a_failing_cell_is_named_and_marked_and_the_rest_is_pending(tmp_path):
    source = write(tmp_path / "bad.ipynb", "print('kept')", "# a comment\nraise ValueError('no such thing')", "print('never')")
    with pytest.raises(ReproductionError, match=r"bad.ipynb stopped at cell 4, `raise ValueError.*`: ValueError: no such thing"):
        reproduce(source, out=tmp_path / "out", progress=False)
    kept = tmp_path / "out/bad.ipynb"
    found = statuses(kept)
    assert found["print('kept')"] == "completed"
    assert found["# a comment"] == "failed"
    assert found["print('never')"] == "pending"
    assert "papermill-error-cell" in kept.read_text()
    assert "kept" in kept.read_text()
    assert not (tmp_path / "out/bad.log").exists()


def test_a_cell_that_takes_too_long_is_stopped_and_marked(tmp_path):
    source = write(tmp_path / "slow.ipynb", "import time\ntime.sleep(60)", "print('never')")
    with pytest.raises(ReproductionError, match=r"stopped at cell 3, `import time`: it took longer than the 2 s"):
        reproduce(source, out=tmp_path / "out", timeout=2, progress=False)
    found = statuses(tmp_path / "out/slow.ipynb")
    assert (found["import time"], found["print('never')"]) == ("failed", "pending")
    assert "papermill-error-cell" in (tmp_path / "out/slow.ipynb").read_text()


def test_a_kernel_that_dies_is_reported_with_its_last_words(tmp_path):
    source = write(tmp_path / "dead.ipynb", "import os\nos._exit(9)")
    with pytest.raises(ReproductionError, match=r"cell 3, `import os`: its process died.*dead.log"):
        reproduce(source, out=tmp_path / "out", progress=False)
    assert (tmp_path / "out/dead.log").exists()
    assert statuses(tmp_path / "out/dead.ipynb")["import os"] == "failed"


def test_what_is_no_notebook_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no notebook 'nothing'; there are .*or give the path of an .ipynb"):
        reproduce("nothing")
    with pytest.raises(FileNotFoundError, match="there is no notebook nothing.ipynb"):
        reproduce("nothing.ipynb")
    (tmp_path / "broken.ipynb").write_text("{")
    with pytest.raises(ValueError, match="broken.ipynb cannot be read as a notebook"):
        reproduce("broken.ipynb")
    source = write(tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match="would be overwritten by its own outputs"):
        reproduce(source, out=tmp_path)
    book = nbformat.read(source, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell("more = 1", metadata={"tags": ["parameters"]}))
    nbformat.write(book, source)
    with pytest.raises(ValueError, match="has 2 cells tagged 'parameters'; it may have one"):
        reproduce(source)


def test_notebooks_are_found_here_first_then_beside_the_package(tmp_path, monkeypatch):
    (tmp_path / "notebooks/papers").mkdir(parents=True)
    write(tmp_path / "notebooks/mine.ipynb")
    write(tmp_path / "notebooks/papers/claim.ipynb")
    monkeypatch.chdir(tmp_path)
    found = notebook_paths()
    assert found["mine"] == tmp_path / "notebooks/mine.ipynb"
    assert found["claim"] == tmp_path / "notebooks/papers/claim.ipynb"
    house = Path(__file__).parents[1] / "notebooks"
    assert {p.stem for p in house.glob("*.ipynb")} <= set(found)
