"""What the tests share: seeds, folders that look like runs, a browser that allows no error and no foreign request."""

import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
LAYERS = {"backbone.stage1": 8, "backbone": 16, "projector": 12}
STEPS = [0, 1, 4, 16, 40]


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random numbers; torch's only where it was imported anyway."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  what others draw from
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def measured_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder that is a run with its tables, as training and replaying leave it, without training anything."""

    def make(name: str = "mine", *, fall: float = 0.05, tables: bool = True) -> Path:
        path = tmp_path / name
        (path / "weights").mkdir(parents=True)
        (path / "run.json").write_text(json.dumps({"total": STEPS[-1], "trainer": {"lr": 1e-3}}))
        for step in STEPS:
            (path / "weights" / f"{step:08d}.safetensors").write_bytes(b"")
        logged = [{"step": s, "epoch": 0, "lr": 1e-3, "loss": 5 / (1 + s * fall)} for s in range(1, STEPS[-1] + 1)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
        if tables:
            write_tables(path, fall)
        return path

    make.layers, make.steps, make.write_tables = LAYERS, STEPS, write_tables
    return make


def write_tables(path: Path, fall: float) -> None:
    """The tables of a run whose spectra fall the faster the deeper the layer."""
    spectrum, measures = [], []
    for step in STEPS:
        for depth, (layer, width) in enumerate(LAYERS.items()):
            values = np.exp(-np.arange(width) * (0.2 + fall * depth * np.log1p(step)))
            facts = {"step": step, "layer": layer, "n": 300, "d": width, "floor": 1e-15 / width}
            spectrum += [facts | {"rank": k, "value": v} for k, v in enumerate(values, 1)]
            p = np.sqrt(values) / np.sqrt(values).sum()
            worth = {"rankme": np.exp(-(p * np.log(p)).sum()), "knn": 0.3 + 0.01 * step - 0.05 * depth}
            measures += [{"step": step, "layer": layer, "measure": k, "value": v, "d": width} for k, v in worth.items()]
    (path / "tables").mkdir(exist_ok=True)
    pd.DataFrame(spectrum).to_parquet(path / "tables" / "spectrum.parquet")
    pd.DataFrame(measures).to_parquet(path / "tables" / "measures.parquet")


@pytest.fixture(scope="session")
def denoised_run() -> Callable[..., Any]:
    """Makes the run of a very small encoder of sprites, with denoisers that hardly learned anything."""

    def make(folder: Path, layers: Sequence[str] = ("backbone", "projector")) -> Any:
        import torch

        import workbench as wb

        torch.manual_seed(0)
        factors = {"scales": 2, "orientations": 1, "positions": 4, "hues": 4, "background_hues": 2}
        images = wb.sprites(96, size=16, shapes=("heart", "ell"), **factors)
        model = wb.build_encoder("convnet", "12-6", width=4, depth=2)
        trainer, quiet = wb.Trainer(epochs=1, batch_size=32), {"progress": False}
        run = trainer.fit(model, wb.SimCLR(), images, wb.Augment(), out=folder, **quiet)
        for layer in layers:
            wb.train_denoiser(run, layer, images, widths=(8, 16), trainer=trainer, **quiet)
        return run

    return make


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict) -> dict:
    """The Chromium of the system, drawing in software."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; install it, or set $CHROMIUM to its path")
    args = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    return {**browser_type_launch_args, "executable_path": CHROMIUM, "args": args}


@pytest.fixture
def clean_page(page):
    """A page that fails the test on an error of its scripts, and on any request that leaves this machine."""
    errors = []
    here = ("http://localhost", "ws://localhost", "data:", "blob:", "about:", "file:")
    page.on("pageerror", lambda error: errors.append(f"script: {error.stack or error}"))
    page.on("request", lambda r: None if r.url.startswith(here) else errors.append(f"request: {r.url}"))
    page.set_default_timeout(90_000)
    page.set_viewport_size({"width": 1440, "height": 1000})
    yield page
    assert errors == []


@pytest.fixture
def servers() -> Iterator[None]:
    """Stops what a test served from its own process."""
    yield
    import panel as pn

    pn.state.kill_all_servers()
    pn.state.cache.clear()
