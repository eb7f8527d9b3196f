"""A trained run that came with the workbench: an encoder, and what draws images of its layers, so that a look costs no training.

``workbench/demo/README.md`` has the command that made it. Of the denoisers the package has the averaged weights alone, in half
precision; a run has room for those that are trained too, and its folder must be one that can be written to, so it is laid out
once, in the user's cache.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

import torch

from workbench.data.local import data_home
from workbench.run import Run, read_tensors, write_tensors
from workbench.sampling import FOLDER, denoisers

__all__ = ["demo_run", "keep_demo"]

DEMO = Path(__file__).parent / "demo"
AVERAGE = "average."  # in front of the names of averaged weights


def demo_run(folder: str | Path | None = None) -> Run:
    """Returns the run that came with the workbench: SimCLR on sprites of 16 pixels, with denoisers of backbone and projector.

    Arguments:
        folder: Where it is laid out, if it is not there yet; by default ``demo-...`` in :func:`workbench.data_home`.

    Example:
        >>> run = demo_run("demo")
        >>> sorted(wb.denoisers(run))
        ['backbone', 'projector']
    """
    files = sorted(p for p in DEMO.rglob("*") if p.suffix in (".json", ".jsonl", ".safetensors"))
    h = hashlib.blake2b(digest_size=6)
    for path in files:
        h.update(path.read_bytes())
    folder = data_home() / f"demo-{h.hexdigest()}" if folder is None else Path(folder)
    if not (folder / "run.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            for path in files:
                _lay_out(path, Path(part) / "run" / path.relative_to(DEMO))
            try:
                (Path(part) / "run").rename(folder)
            except OSError:  # another process was as quick
                if not (folder / "run.json").exists():
                    raise
    return Run(folder)


def keep_demo(run: Run | str | Path, folder: str | Path = DEMO) -> Path:
    """Writes a run and its denoisers as :func:`demo_run` lays them out: the last weights, of denoisers averaged and halved.

    Arguments:
        run: Of an encoder, with denoisers.
        folder: Replaced, but for what is no part of a run.
    """
    run, folder = run if isinstance(run, Run) else Run(run), Path(folder)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    shutil.rmtree(folder / "weights", ignore_errors=True)
    for one in (run, *denoisers(run).values()):
        home = folder / one.path.relative_to(run.path)
        home.mkdir(parents=True, exist_ok=True)
        for name in ("run.json", "metrics.jsonl"):
            shutil.copy(one.path / name, home / name)
        name = f"weights/{one.steps[-1]:08d}.safetensors"
        write_tensors(home / name, _halved(read_tensors(one.path / name)))
    return folder


def _halved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns averaged weights alone, those of the UNet in half precision; what has none is left as it is."""
    average = {k: v.half() if k.startswith(f"{AVERAGE}unet.") else v for k, v in tensors.items() if k.startswith(AVERAGE)}
    return average or tensors


def _lay_out(path: Path, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".safetensors":
        shutil.copy(path, new)
        return
    tensors = {k: v.float() if v.dtype is torch.float16 else v for k, v in read_tensors(path).items()}
    write_tensors(new, tensors | {k.removeprefix(AVERAGE): v for k, v in tensors.items()})
