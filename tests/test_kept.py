"""The tables that came with the workbench: small, whole, with the command that made them."""

from pathlib import Path

import pytest

from workbench.kept import TABLES, kept_table
from workbench.notebooks import notebook_paths

FILES = sorted(TABLES.glob("*/*.csv"))


@pytest.mark.parametrize("path", FILES, ids=[f"{p.parent.name}-{p.stem}" for p in FILES])
def test_a_table_reads_and_says_which_command_made_it(path: Path):
    paper = path.parent.name
    table = kept_table(paper, path.stem)
    assert len(table) > 1
    assert table.columns.is_unique
    assert paper in notebook_paths()
    assert f"workbench reproduce {paper} -p scale cpu" in (TABLES / "README.md").read_text()


@pytest.mark.parametrize("paper", sorted({p.parent.name for p in FILES}))
def test_measures_have_three_seeds_and_a_paper_is_small(paper):
    assert {0, 1, 2} <= set(kept_table(paper)["seed"])
    assert sum(p.stat().st_size for p in (TABLES / paper).glob("*")) < 400_000


@pytest.mark.parametrize("paper", ["nothing", "..", "../papers"])
def test_a_table_that_is_not_there_is_named(paper):
    with pytest.raises(FileNotFoundError, match=r"no table .*/measures came with the workbench; there are "):
        kept_table(paper)
