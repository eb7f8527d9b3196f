"""Under which correlation of factors a run was trained, read from its record; and which runs differ in nothing else."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.panels.layer_cuts import Subject

__all__ = ["Correlation", "correlation_of", "relatives"]

CORRELATE = "workbench.data.correlation:correlate"


@dataclass(frozen=True)
class Correlation:
    """Which pairs of factors go together, and how strongly: ``sigma``, or None where none does.

    ``besides`` says what else was done to the images: the inverse, and holes.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    sigma: float | None = None
    besides: str = ""

    @property
    def kind(self) -> str:
        """What goes together, without how strongly: ``"x-y"``, ``"x-y, inverse"``; empty where nothing does."""
        return ", ".join(filter(None, ["+".join(f"{a}-{b}" for a, b in self.pairs), self.besides])) if self.pairs else ""

    @property
    def said(self) -> str:
        """How strongly, in a word: ``"none"`` or sigma."""
        return "none" if self.sigma is None else f"{self.sigma:g}"


def correlation_of(spec: Mapping[str, Any]) -> Correlation:
    """Returns the correlation in a run's record; none where its images are uncorrelated.

    Example:
        >>> recipe = {"is": "workbench.data.correlation:correlate", "a": {"x": "y"}, "sigma": 0.1, "images": {}}
        >>> correlation_of({"images": {"recipe": recipe}}).kind
        'x-y'
    """
    recipe = _correlate(_recipe(spec))
    pairs = _pairs(recipe.get("a"), recipe.get("b"))
    holes = [f"without {hole}" for hole in recipe.get("holes") or ()]
    besides = ", ".join((["inverse"] if pairs and recipe.get("inverse") else []) + holes)
    sigma = recipe.get("sigma")
    return Correlation(pairs, float(sigma) if pairs and isinstance(sigma, int | float) else None, besides)


def relatives(name: str, found: Mapping[str, Subject]) -> dict[str, Correlation]:
    """Returns the runs that differ from one in the correlation of their images alone, itself among them, by name.

    Objective, model, views, trainer with its seed, and the images before the correlation are the same; how many images were
    drawn, and their draw, may differ.
    """
    known = {other: _known(subject) for other, subject in found.items() if not subject.model}
    mine = known.get(name)
    if mine is None:
        return {}
    return {other: one[1] for other, one in known.items() if one is not None and one[0] == mine[0]}


def _known(subject: Subject) -> tuple[str, Correlation] | None:
    """What a run has in common with its relatives, and its correlation; None where its record cannot be read."""
    try:
        path = subject.path / "run.json"
        return _read(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)  # a sweep's records are looked at with every choice
def _read(path: Path, changed: int) -> tuple[str, Correlation] | None:
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return (_same(spec), correlation_of(spec)) if isinstance(spec, dict) else None


def _same(spec: Mapping[str, Any]) -> str:
    """What two runs that differ in their correlation alone have in common."""
    trainer = spec.get("trainer")
    trainer = (
        {k: v for k, v in trainer.items() if k not in ("device", "precision", "compile")} if isinstance(trainer, dict) else 0
    )
    parts = [spec.get(part) for part in ("model", "objective", "views")]
    return json.dumps([trainer, *parts, _before(_recipe(spec))], sort_keys=True)


def _recipe(spec: Mapping[str, Any]) -> dict[str, Any]:
    images = spec.get("images")
    recipe = images.get("recipe") if isinstance(images, dict) else None
    return recipe if isinstance(recipe, dict) else {}


def _correlate(recipe: dict[str, Any]) -> dict[str, Any]:
    """The correlation in a recipe, outermost first; empty where there is none."""
    while recipe and recipe.get("is") != CORRELATE:
        recipe = recipe["images"] if isinstance(recipe.get("images"), dict) else {}
    return recipe


def _before(recipe: dict[str, Any]) -> dict[str, Any]:
    found = _correlate(recipe)
    return found["images"] if isinstance(found.get("images"), dict) else recipe


def _pairs(a: Any, b: Any) -> tuple[tuple[str, str], ...]:
    table = {a: b} if isinstance(a, str) else a if isinstance(a, dict) else {}
    return tuple(
        (str(one), str(other))
        for one, others in table.items()
        for other in ([others] if isinstance(others, str) else others or ())
    )
