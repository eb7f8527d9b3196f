"""A run is a folder: ``run.json`` says what was made, ``metrics.jsonl`` how it went, the rest is weights, features and tables.

Everything is readable without this library, every file appears whole or not at all, and opening a run executes nothing in
it: weights are safetensors, classes come from the workbench or from packages that the reader names, and no path leads out
of the folder. Importing this module does not import torch, so finished runs open at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    import torch.nn as nn
    from torch import Tensor

    from workbench.data.images import Images
    from workbench.features import Features
    from workbench.objectives.base import Objective

__all__ = ["Run", "runs"]

GIVE = "pass the images (in a shell: --data FOLDER)"


class Run:
    """One training run on disk.

    Arguments:
        path: Its folder.
        allow: Packages, beside the workbench, whose classes may be built when the model is asked for.

    Raises:
        FileNotFoundError: If the folder is no run.
        ValueError: If ``run.json`` is damaged.
    """

    def __init__(self, path: str | Path, *, allow: Sequence[str] = ()) -> None:
        self.path, self.allow = Path(path), tuple(allow)
        if not (self.path / "run.json").is_file():
            there = "it does not exist" if not self.path.exists() else "it holds no run.json"
            raise FileNotFoundError(f"{self.path} is no run: {there}")
        try:
            self.spec: dict[str, Any] = json.loads(self._inside("run.json").read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{self.path / 'run.json'} is damaged: {error}") from error
        if not isinstance(self.spec, dict):
            raise ValueError(f"{self.path / 'run.json'} must hold an object, but holds {type(self.spec).__name__}")

    @classmethod
    def create(cls, path: str | Path, spec: dict[str, Any]) -> Run:
        """Makes the folder. Raises FileExistsError where a run stands already."""
        path = Path(path)
        if (path / "run.json").exists():
            raise FileExistsError(
                f"{path} already holds a run: go on with it by resume=True (in a shell: --resume), look at it by "
                f"Run({str(path)!r}) (`workbench show {path}`), or give another folder"
            )
        if any((path / "weights").glob("*.safetensors")):
            raise FileExistsError(f"{path} holds weights of a run whose run.json is gone; give another folder, or delete it")
        path.mkdir(parents=True, exist_ok=True)
        write(path / "run.json", json.dumps(spec, indent=1).encode())
        return cls(path)

    def __repr__(self) -> str:
        steps, total = self.steps, self.spec.get("total", "?")
        return f"Run({str(self.path)!r}: {len(steps)} snapshots, to step {steps[-1] if steps else 0} of {total})"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def steps(self) -> list[int]:
        """The steps whose weights were kept, in order."""
        return sorted(int(p.stem) for p in (self.path / "weights").glob("*.safetensors") if p.stem.isdecimal())

    @property
    def finished(self) -> bool:
        """Whether training came to its planned end."""
        total = self.spec.get("total", 0)
        return bool(self.steps) and isinstance(total, int) and self.steps[-1] >= total

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a logged step: step, epoch, lr, rate (images/s), waiting (share of time), and every term."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in self._inside("metrics.jsonl").read_text().splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # a line cut off by a crash: what follows was never written
        return pd.DataFrame(rows)

    def log(self, **values: float) -> None:
        """Appends a row to the metrics."""
        with self._inside("metrics.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps({k: v if math.isfinite(v) else None for k, v in values.items()}) + "\n")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While entered, no other process trains into this folder; the lock is the process's, so that none outlives it.

        Raises:
            RuntimeError: If another does.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self._inside(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(f"{self.path} is being trained by another process; wait for it, or give another folder") from None
        try:
            yield
        finally:
            lock.release()

    def forget_after(self, step: int) -> None:
        """Drops metrics beyond ``step``, which are about to be written again, and the half files of a killed process."""
        for half in (*self.path.glob("weights/.part-*"), *self.path.glob("last/.part-*")):
            half.unlink(missing_ok=True)
        kept = [row for row in self.metrics.to_dict("records") if row["step"] <= step]
        lines = (json.dumps({k: v for k, v in row.items() if v == v}) + "\n" for row in kept)
        write(self._inside("metrics.jsonl"), "".join(lines).encode())

    def save(self, model: nn.Module, step: int) -> None:
        """Writes the model's weights of ``step``."""
        write_tensors(self._inside("weights", f"{step:08d}.safetensors"), weights(model))

    def model(self, step: int | None = None, *, into: nn.Module | None = None) -> nn.Module:
        """Returns the model as it was after ``step`` (the last kept where none is given), in evaluation mode.

        Arguments:
            step: One of :attr:`steps`.
            into: A module to load the weights into, where the run's own cannot be built from its record.

        Raises:
            KeyError: If the weights of that step were not kept.
            ValueError: If the file is damaged, or the record asks for a class that is not trusted.
        """
        model = self.built("model") if into is None else into
        self._load(model, read_tensors(self._inside("weights", f"{self._step(step):08d}.safetensors")), "weights")
        return model.eval()

    def identity(self, step: int | None = None) -> str:
        """Returns 16 hexadecimal letters that change with the model's record and its weights of ``step``, by default the last.

        Raises:
            KeyError: If the weights of that step were not kept.
        """
        h = hashlib.blake2b(json.dumps(self.spec.get("model"), sort_keys=True).encode(), digest_size=8)
        with self._inside("weights", f"{self._step(step):08d}.safetensors").open("rb") as f:
            return hashlib.file_digest(f, lambda: h).hexdigest()

    def objective(self) -> Objective:
        """Returns the objective with what it learned (predictor, teacher), as at the last checkpoint.

        Raises:
            FileNotFoundError: If the run keeps no checkpoint.
        """
        step, tensors, _ = self.checkpoint()
        model, objective = self.built("model"), self.built("objective")
        self._load(model, {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, f"checkpoint {step}")
        objective.begin(model, self._sample(model))
        self._load(objective, {k[10:]: v for k, v in tensors.items() if k.startswith("objective.")}, f"checkpoint {step}")
        return objective

    def images(self, **changes: Any) -> Images:
        """Returns the images that it was trained on, made again where the workbench can draw or ships them.

        Arguments:
            changes: Arguments to change; ``split="test"`` gives held-out images of the same kind.

        Raises:
            ValueError: If they came from elsewhere; pass them yourself to what asked for them.

        Warns:
            UserWarning: If what is drawn now is not, to the last bit, what was trained on.
        """
        from workbench.features import digest

        spec = self._recorded("images")
        name, recipe = spec.get("name", "unknown images"), spec.get("recipe")
        if not isinstance(recipe, dict):
            raise ValueError(f"{self.path} was trained on {name!r}, which it cannot make again; {GIVE}")
        images = self._drawn(recipe | changes)
        if "digest" not in spec:
            raise ValueError(f"{self.path} does not record what its images looked like; pass the images")
        if not changes and digest(images) != spec["digest"]:
            warnings.warn(
                f"{name} as drawn now differs from what {self.path} was trained on: "
                f"by rounding where another machine trained it, or because the code has changed since",
                stacklevel=2,
            )
        return images

    def images_before(self) -> Images:
        """Returns the images that a correlation of factors was made of, in which none go together; without one, its own.

        Raises:
            ValueError: As :meth:`images`.
        """
        recipe = self._recorded("images").get("recipe")
        before = _before(recipe)
        return self.images() if before is recipe else self._drawn(before)

    def held_out(self) -> Images | None:
        """Returns images of the same kind that it was not trained on: the test split, or, of random drawings, another seed.

        None where there are none (a folder, arrays, a full grid). A correlation holds for them too; a subset does not, so that
        a run on some rows of the training split is held against the whole test split.

        Raises:
            ValueError: As :meth:`images`.
        """
        recipe = _unseen(self._recorded("images").get("recipe"))
        return None if recipe is None else self._drawn(recipe)

    def _drawn(self, recipe: dict[str, Any]) -> Images:
        from workbench.data.images import Images
        from workbench.spec import build, without_weights

        name = self._recorded("images").get("name", "unknown images")
        try:
            with without_weights():
                images = build(recipe, allow=self.allow)
        except ValueError as error:
            path = recipe.get("path")
            how = f"{GIVE}: {error}" if path is None else GIVE.replace("FOLDER", str(path))
            raise ValueError(f"{self.path} was trained on {name!r}, which is not made again; {how}") from error
        if not isinstance(images, Images):
            raise ValueError(f"the images of {self.path} are recorded as a {type(images).__name__}; pass the images")
        return images

    def features(
        self,
        images: Images,
        layers: str | Sequence[str],
        step: int | None = None,
        *,
        tokens: str = "mean",
        progress: bool = False,
    ) -> Features:
        """Returns the layers' features of ``images``, from the run's folder where they were taken before.

        Arguments:
            images: Whose features; they are known again by their pixels and factors.
            layers: Module paths.
            step: One of :attr:`steps`; by default the last.
            tokens: What becomes of token sequences, as :func:`workbench.features.extract` says.
            progress: Whether to show a bar.

        Raises:
            TypeError: If the images are no ``Images``.
            KeyError, ValueError: As of ``extract``.
        """
        import torch

        from workbench.data.images import Images
        from workbench.features import Features, digest, extract

        names, step = [layers] if isinstance(layers, str) else list(layers), self._step(step)
        if not names:
            raise ValueError("name at least one layer; wb.main_layers(run.model()) gives those worth a look first")
        if not isinstance(images, Images):
            raise TypeError(f"features are taken of Images, such as run.images(), but got {type(images).__name__}")
        safe = "".join(c if c.isalnum() else "-" for c in images.name)
        folder = f"{safe}-{digest(images)}-{step:08d}" + (f"-{tokens}" if tokens != "mean" else "")
        there = sorted(p.parent.name for p in (self.path / "features" / folder).glob("*/factors.parquet"))
        stores = [self._inside("features", folder, name) for name in there if not name.endswith(".part")]
        missing = sorted(set(names) - {name for store in stores for name in Features.load(store)})
        if missing:
            stores.append(self._inside("features", folder, f"{len(stores):03d}"))
            model = self.model(step).to("cuda" if torch.cuda.is_available() else "cpu")
            extract(model, images, missing, tokens=tokens, out=stores[-1], progress=progress)
        kept = [Features.load(store) for store in stores]
        joined = {name: z for features in kept for name, z in features.items()}
        return Features({name: joined[name] for name in names}, kept[0].factors)

    def table(self, name: str) -> pd.DataFrame | None:
        """Returns a table kept with the run (``"spectrum"``, ``"measures"``), or None where it was not made."""
        path = self._inside("tables", f"{name}.parquet")
        if not path.exists():
            return None
        try:
            return pd.read_parquet(path)
        except Exception as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and make it again") from error

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Keeps a table with the run."""
        write(self._inside("tables", f"{name}.parquet"), frame.to_parquet())

    def save_checkpoint(self, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> Path:
        """Writes all that resuming needs, as one file; the one before is kept, older ones go."""
        path = self._inside("last", f"{step:08d}.safetensors")
        write_tensors(path, tensors, about)
        for old in sorted(p for p in path.parent.glob("*.safetensors") if p.stem.isdecimal() and int(p.stem) <= step)[:-2]:
            old.unlink()
        return path

    def checkpoint(self) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
        """Returns the newest readable checkpoint: its step, its tensors, its record.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If every one is damaged.
        """
        found = sorted((self.path / "last").glob("*.safetensors"), reverse=True)
        if not found:
            raise FileNotFoundError(f"{self.path} holds no checkpoint to go on from: last/ is empty")
        for path in found:
            try:
                path = self._inside("last", path.name)
                return int(path.stem), read_tensors(path), read_about(path)
            except ValueError as error:
                damage = error
                print(f"{error}; trying the one before")
        raise ValueError(f"no checkpoint of {self.path} can be read: {damage}. Its snapshots in weights/ may still be whole.")

    def _step(self, step: int | None) -> int:
        steps = self.steps
        if not steps:
            raise KeyError(f"{self.path} keeps no weights yet")
        if step is not None and step not in steps:
            raise KeyError(f"{self.path} keeps no weights of step {step}; it keeps {', '.join(map(str, steps))}")
        return steps[-1] if step is None else step

    def built(self, part: str) -> Any:
        """Returns the ``"model"``, ``"objective"``, ``"views"`` or ``"trainer"`` that the record describes, made anew.

        Raises:
            ValueError: If it is not recorded, or asks for a class that is not trusted.
        """
        from workbench.spec import build, without_weights

        spec = self.spec.get(part)
        if not isinstance(spec, dict) or "is" not in spec:
            raise ValueError(
                f"{self.path} has no record from which its {part} could be built; for the model, pass it: run.model(into=model)"
            )
        with without_weights():
            return build(spec, allow=self.allow)

    def _load(self, module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
        try:
            module.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            raise ValueError(f"the {what} of {self.path} do not fit {type(module).__name__}: {str(error)[:600]}") from error

    def _sample(self, model: nn.Module) -> Any:
        from workbench.objectives.base import sample_embedding

        try:
            channels, height, width = self._recorded("images")["shape"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path} does not say of what shape its images were: run.json is damaged") from error
        return sample_embedding(model, channels, height, width)

    def _recorded(self, part: str) -> dict[str, Any]:
        spec = self.spec.get(part)
        return spec if isinstance(spec, dict) else {}

    def _inside(self, *parts: str) -> Path:
        path = self.path.joinpath(*parts)
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{path} leads out of the run's folder; it is not opened")
        return path


def runs(folder: str | Path = "runs") -> pd.DataFrame:
    """Returns one row a run below ``folder``: its path, its settings (``trainer.lr``, ``objective.is`` ...), its last metrics.

    Raises:
        FileNotFoundError: If the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; runs are made by `workbench train --out {folder}/NAME`")
    rows = []
    for path in sorted(folder.rglob("run.json")):
        try:
            run = Run(path.parent)
            last = run.metrics.iloc[-1].to_dict() if len(run.metrics) else {}
            last |= {"step": int(max([*run.steps, last.get("step", 0)]))}  # kept weights may be newer than the last logged row
            rows.append({"run": str(path.parent.relative_to(folder)), "finished": run.finished, **_flat(run.spec), **last})
        except Exception as error:  # one damaged run, whatever is wrong with it, must not hide the others
            rows.append({"run": str(path.parent.relative_to(folder)), "finished": False, "error": str(error)})
    return pd.DataFrame(rows)


def _before(recipe: Any) -> Any:
    """The recipe without the correlation in it; the same where there is none."""
    if not isinstance(recipe, dict) or not isinstance(recipe.get("images"), dict):
        return recipe
    if recipe.get("is") == "workbench.data.correlation:correlate":
        return recipe["images"]
    inner = _before(recipe["images"])
    return recipe if inner is recipe["images"] else inner


def _unseen(recipe: Any) -> dict[str, Any] | None:
    if not isinstance(recipe, dict):
        return None
    if recipe.get("split") == "train":
        return recipe | {"split": "test"}
    if "images" in recipe:
        inner = _unseen(recipe["images"])
        return inner and (inner if recipe.get("is") == "workbench.data.images:subset" else recipe | {"images": inner})
    if recipe.get("n") is not None and isinstance(recipe.get("seed"), int):
        return recipe | {"seed": recipe["seed"] + 1}
    return None


def _flat(spec: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in spec.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            short = str(value).rpartition(":")[2] if key == "is" else value
            flat[prefix + key] = str(short) if isinstance(short, list) else short
    return flat


def write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        Path(part).chmod(0o644)
        os.replace(part, path)  # noqa: PTH105
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Returns a module's state as contiguous tensors on the CPU."""
    return {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    """Writes tensors as safetensors, whole or not at all; ``about`` goes into the header as JSON."""
    from safetensors.torch import save

    apart = {k: v.clone() for k, v in tensors.items()}  # safetensors refuses tensors that share memory
    write(path, save(apart, {"about": json.dumps(about or {})}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file; raises ValueError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error})") from error


def read_about(path: Path) -> dict[str, Any]:
    """Returns the JSON record in the header of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:
        return json.loads((f.metadata() or {}).get("about", "{}"))
