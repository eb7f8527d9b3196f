"""The run that came with the workbench opens at once and draws what its layers say."""

import numpy as np
import pytest
import torch

import workbench as wb
from workbench import demonstration


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return wb.demo_run(tmp_path_factory.mktemp("demo") / "run")


def test_it_is_small_and_says_how_it_was_made():
    files = [p for p in demonstration.DEMO.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 5e6
    said = (demonstration.DEMO / "README.md").read_text()
    assert "```" in said and "keep_demo" in said


def test_it_is_laid_out_once_where_it_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    first = wb.demo_run()
    assert first.path.parent == tmp_path
    (first.path / "mark").touch()
    assert (wb.demo_run().path / "mark").exists()


def test_samples_of_the_backbone_find_their_source_and_shuffled_ones_do_not(run):
    held = run.held_out()[:500]
    pipe = wb.denoisers(run)["backbone"].model().pipeline()
    pipe.set_progress_bar_config(disable=True)
    h = wb.represent(run, held, "backbone")
    x = pipe(h[:24], num_inference_steps=8, generator=torch.Generator().manual_seed(0)).images
    read = wb.from_arrays((255 * x).round().to(torch.uint8))
    again = wb.represent(run.model(), read, "backbone").values
    own, other = (wb.source_ranks(again, rows, h.values)["rank"].mean() for rows in (range(24), np.roll(range(24), 1)))
    assert own < 60 < 150 < other


def test_what_is_kept_is_what_was_there_but_for_rounding(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demonstration, "DEMO", wb.keep_demo(run, tmp_path / "kept"))
    again = wb.demo_run(tmp_path / "again")
    assert again.identity() == run.identity()
    for layer, one in wb.denoisers(run).items():
        tensors, other = one.model().state_dict(), wb.denoisers(again)[layer].model().state_dict()
        assert all(torch.equal(other[k], v) for k, v in tensors.items())
