"""Denoisers of a run at work: loaded once, in a thread, they draw images of what a layer says, and look at what they drew."""

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
import panel as pn

import workbench
from workbench.panels.layer_cuts import Subject

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.data.images import Images
    from workbench.generate.representations import Representation
    from workbench.run import Run

__all__ = ["Condition", "DemoSubject", "DrawSettings", "Drawn", "Studio", "denoised_layers", "open_studio", "png_of"]

DEMO = Path(workbench.__file__).parent / "demo"

GALLERY = 2048  # held-out images that a source is looked for among
LEARNT = 3072  # others, from which the factor classifiers learn
LEAST = 256  # fewer teach it nothing
SMALL = 16  # pixels a side that it looks at, at most
VALUES = 32  # of a factor that is read, at most
OTHERS = 256  # images that stand in the place of samples
NEIGHBOURS = 20  # of an image, in which a dimension is common that is on in three quarters of them
FRAMES = 9  # from one image to another, both ends included

Source = int | bytes  # the row of the gallery; of an image that was dropped in, its pixels (uint8, H W C)


class DrawSettings(NamedTuple):
    """How images are drawn of a condition."""

    seed: int = 0
    steps: int = 10
    guidance: float = 1.0
    annealing: float = 0.0


class Condition(NamedTuple):
    """What images are drawn of: what a layer says of an image, as it is or changed.

    ``kind`` is ``"plain"``; ``"between"``, ``at`` eighths of the way to the second image; or ``"zeroed"`` or ``"swapped"``, the
    common dimensions without what they said, or with what the second image says in them; ``"random zeroed"`` and
    ``"random swapped"`` do so to as many dimensions at random.
    """

    layer: str
    first: Source
    kind: str = "plain"
    second: Source | None = None
    at: int = 0


class Drawn(NamedTuple):
    """An image that was drawn (uint8, H W C; and as PNG), and where its layer has it.

    ``distance`` is that to what it was drawn of, in standard deviations of the gallery; ``rank`` and ``relative`` are those of
    the first image, see :func:`source_ranks`; ``nearest`` is the row of the gallery nearest to it.
    """

    pixels: np.ndarray
    png: bytes
    distance: float
    relative: float
    rank: float
    candidates: int
    nearest: int


@dataclass(frozen=True)
class DemoSubject(Subject):
    """The run that comes with the workbench, see :func:`demo_run`."""

    name: str = "demo"
    path: Path = DEMO

    def run(self, images: "Images | None" = None) -> "Run":
        """Returns the run, laid out where it can be written to."""
        from workbench.demonstration import demo_run

        return demo_run()


def png_of(pixels: np.ndarray) -> bytes:
    """Returns pixels (uint8, H W C) as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def denoised_layers(subject: Subject) -> list[str]:
    """Returns the layers of a run that images can be drawn of, read off its files."""
    return sorted({unquote(path.parents[1].name) for path in (subject.path / "denoisers").glob("*/weights/*.safetensors")})


def open_studio(subject: Subject, told: Callable[[str], None]) -> "Studio":
    """Returns the studio of a run as it is now, which all sessions share; ``told`` hears what is being done, in words."""
    kept = sorted((subject.path / "denoisers").glob("*/weights/*.safetensors"))
    key = f"studio {subject.path.resolve()} {[(str(file), file.stat().st_mtime_ns) for file in kept]}"
    return pn.state.as_cached(key, lambda: Studio(subject, told))


class Studio:
    """A run's encoder and denoisers, and the gallery: held-out images with what each layer says of them.

    Arguments:
        subject: The run; its ``images`` are the gallery, where it has some.
        told: Hears what is being done, in words.

    Raises:
        ModuleNotFoundError: Without diffusers.
        ValueError: If the run's images cannot be made again and none are given, or there are fewer than 2 to choose from.
    """

    def __init__(self, subject: Subject, told: Callable[[str], None] = lambda words: None) -> None:
        told("Loading torch and the denoisers…")
        import torch

        from workbench.data.gridded import factor_numbers
        from workbench.generate.operators import is_sparse
        from workbench.generate.representations import represent
        from workbench.sampling import denoisers

        run, shown, self._lock = subject.run(), denoised_layers(subject), threading.Lock()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._pipes = {layer: one.model().pipeline().to(self._device) for layer, one in denoisers(run).items() if layer in shown}
        for pipe in self._pipes.values():
            pipe.set_progress_bar_config(disable=True)
        told("Making the images to choose from…")
        images = subject.images() if subject.images else run.held_out()
        self.unseen = subject.images is None and images is not None
        images = run.images() if images is None else images
        try:
            numbers = factor_numbers(images)
        except ValueError:  # no factor varies
            numbers = pd.DataFrame(index=range(len(images)))
        numbers = numbers[[c for c in numbers if numbers[c].nunique() <= VALUES]]
        many = min(GALLERY, len(images) // 2 if len(numbers.columns) else len(images))
        if many < 2:
            raise ValueError(
                f"the source is looked for among at least 2 images, but of the {len(images)} given {many} can be chosen; give 4."
            )
        rows = np.random.default_rng(0).permutation(len(images))
        rows, others = rows[:many], rows[many:][:LEARNT]
        self.factors, self._taught = numbers.iloc[rows].reset_index(drop=True), numbers.iloc[others]
        gallery, self._teachers = images[rows], images[others]
        self.pixels = gallery.at(range(len(gallery))).cpu().numpy().transpose(0, 2, 3, 1)  # N H W C
        told(f"Looking at {len(gallery):,} images…")
        self._model = run.model().to(self._device).eval()
        self._said = {layer: represent(run, gallery, layer) for layer in self._pipes}
        self._sparse = {layer: is_sparse(said) for layer, said in self._said.items()}
        self._others: dict[tuple[str, Source], pd.Series] = {}
        self._unlike: dict[tuple[str, Source], tuple[float, float]] = {}
        self._of: dict[tuple[str, bytes], Representation] = {}
        self._tokens: dict[tuple[str, Source], Representation] = {}
        self._common: dict[tuple[str, Source], Tensor] = {}
        self._readers: dict[str, object] = {}
        self.reads: dict[str, float] = {}  # how often the classifier of a factor is right about the gallery

    @property
    def layers(self) -> list[str]:
        """The layers that images can be drawn of."""
        return list(self._pipes)

    def source(self, source: Source) -> np.ndarray:
        """Returns the pixels (uint8, H W C) of an image of the gallery, or of one that was dropped in."""
        return (
            np.frombuffer(source, np.uint8).reshape(self.pixels.shape[1:]) if isinstance(source, bytes) else self.pixels[source]
        )

    def draw(self, conditions: Sequence[Condition], numbers: Sequence[int], settings: DrawSettings) -> list[Drawn]:
        """Draws an image of each condition, all of one layer, from the noise of that number, and looks at them."""
        import torch

        from workbench.core import mixed_seed
        from workbench.generate.operators import shared_noise

        layer, n = conditions[0].layer, max(numbers) + 1
        for one in set(conditions):  # here, in the thread, so that the page need not wait for it
            self.others(layer, one.first)
            for source in (one.first, one.second):
                if isinstance(source, bytes):
                    self.unlike(layer, source)
        pipe, h = self._pipes[layer], self._rows([self._condition(one, self._told) for one in conditions])
        noise = {"latents": shared_noise(pipe, n, settings.seed)[list(numbers)]}
        if settings.annealing:
            seeds = [mixed_seed(settings.seed, number, 1) for number in numbers]
            noise |= {"annealing": settings.annealing, "generator": [torch.Generator().manual_seed(s) for s in seeds]}
        steps = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
        with self._lock:
            drawn = pipe(h, **steps, **noise).images
        pixels = (drawn * 255).round().to(torch.uint8).cpu()
        return self._look(pixels, conditions)

    def _look(self, pixels: "Tensor", conditions: Sequence[Condition]) -> list[Drawn]:
        from workbench.measures.sources import source_ranks

        layer, gallery = conditions[0].layer, self._said[conditions[0].layer].values
        seen = self._represent(pixels.float() / 255, layer).values.cpu()
        first = self._rows([self._of_source(layer, one.first) for one in conditions])
        table = source_ranks(seen, first.values, gallery)
        plain = all(one.kind == "plain" for one in conditions)
        h = first if plain else self._rows([self._condition(one, self._of_source) for one in conditions])
        table["apart"] = table["distance"] if plain else source_ranks(seen, h.values, gallery)["distance"]
        arrays = pixels.permute(0, 2, 3, 1).numpy()
        return [
            Drawn(array, png_of(array), row.apart, row.relative, row.rank, int(row.candidates), int(row.nearest))
            for array, row in zip(arrays, table.itertuples(), strict=True)
        ]

    def _represent(self, pixels: "Tensor", layer: str, tokens: str = "mean") -> "Representation":
        """What a layer says of pixels (N, C, H, W) in [0, 1], in the size of the gallery."""
        import torch.nn.functional as F

        from workbench.generate.pixels import represent_pixels

        height, width = self.pixels.shape[1:3]
        if tuple(pixels.shape[2:]) != (height, width):
            pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
        return represent_pixels(self._model, pixels, layer, tokens=tokens)

    def _of_source(self, layer: str, source: Source) -> "Representation":
        """What a layer says of an image, (1, D); of tokens their mean."""
        if isinstance(source, int):
            return self._said[layer][source]
        if (layer, source) not in self._of:
            self._of[layer, source] = self._represent(self._pixels(source), layer)
        return self._of[layer, source]

    def _told(self, layer: str, source: Source) -> "Representation":
        """What the denoiser is told of an image, (1, D) or its tokens (1, T, D)."""
        if self.tokens(layer) is None:
            return self._of_source(layer, source)
        if (layer, source) not in self._tokens:
            self._tokens[layer, source] = self._represent(self._pixels(source), layer, "all")
        return self._tokens[layer, source]

    def tokens(self, layer: str) -> int | None:
        """Returns how many tokens of an image the denoiser of a layer is told; None where it is told one vector."""
        return self._pipes[layer].projector.config.tokens

    def _pixels(self, source: Source) -> "Tensor":
        import torch

        return torch.tensor(self.source(source).transpose(2, 0, 1)[None]).float() / 255

    def _condition(self, one: Condition, of: "Callable[[str, Source], Representation]") -> "Representation":
        """What images are drawn of, made of what ``of`` gives of a layer and an image."""
        from workbench.generate.operators import between, manipulate, random_dimensions

        first = of(one.layer, one.first)
        if one.kind == "plain":
            return first
        second = None if one.second is None else of(one.layer, one.second)
        if one.kind == "between":
            return between(first, second, FRAMES)[one.at]
        dimensions = self.common(one.layer, one.first)
        if one.kind.startswith("random"):
            dimensions = random_dimensions(dimensions)
        nothing = None if self.sparse(one.layer) else self._said[one.layer].values.mean(0)
        return manipulate(first, dimensions, to=second if one.kind.endswith("swapped") else nothing)

    def common(self, layer: str, source: Source) -> "Tensor":
        """Which dimensions an image has in common with its neighbours in the gallery, (D,), bool."""
        from workbench.generate.operators import common_dimensions

        if (layer, source) not in self._common:
            neighbours, least = self.neighbourhood()
            settings = {"neighbours": neighbours, "at_least": least}
            self._common[layer, source] = common_dimensions(self._of_source(layer, source), self._said[layer], **settings)
        return self._common[layer, source]

    def neighbourhood(self) -> tuple[int, int]:
        """How many neighbours an image has, and in how many of them a dimension is on that is common."""
        many = min(NEIGHBOURS, len(self.pixels))
        return many, -(-3 * many // 4)

    def sparse(self, layer: str) -> bool:
        """Whether what a layer says is sparse, see :func:`is_sparse`."""
        return self._sparse[layer]

    def others(self, layer: str, source: Source) -> pd.Series:
        """Returns what :func:`rank_summary` says of an image where others of the gallery stand in the place of its samples."""
        from workbench.measures.sources import rank_summary, source_ranks

        if (layer, source) not in self._others:
            gallery = self._said[layer].values
            rows = [row for row in range(len(gallery)) if row != source][:OTHERS]
            table = source_ranks(gallery[rows], self._of_source(layer, source).values, gallery)
            table["rank"] = (table["rank"] - 1).clip(1)  # each of them is nearest to itself
            self._others[layer, source] = rank_summary(table).set_index("measure")["value"]
        return self._others[layer, source]

    def unlike(self, layer: str, source: Source) -> tuple[float, float]:
        """Returns how far an image is from the gallery: ``relative`` and ``beyond`` of :func:`out_of_distribution`."""
        from workbench.generate.operators import out_of_distribution

        if (layer, source) not in self._unlike:
            (row,) = out_of_distribution(self._of_source(layer, source), self._said[layer]).itertuples()
            self._unlike[layer, source] = row.relative, row.beyond
        return self._unlike[layer, source]

    @staticmethod
    def _rows(parts: "Sequence[Representation]") -> "Representation":
        import torch

        from workbench.generate.representations import Representation

        return Representation(torch.cat([part.values.cpu() for part in parts]), parts[0].source)

    # what factors look like

    @property
    def teaches(self) -> bool:
        """Whether there are factors, and images enough to learn to read them."""
        return len(self._teachers) >= LEAST and len(self.factors.columns) > 0

    def learn(self) -> None:
        """Learns to read the factors off pixels, from images that are not in the gallery; where there are too few, nothing."""
        from workbench.perceptron import MLPProbe

        if not self.teaches or self.reads:
            return
        shown = self._small(self._teachers.at(range(len(self._teachers))).permute(0, 2, 3, 1).numpy())
        asked = self._small(self.pixels)
        readers = {
            name: MLPProbe((96,), lr=3e-3, batch_size=64, epochs=8).fit(shown, self._taught[name].to_numpy())
            for name in self.factors
        }
        self._readers = readers
        self.reads = {name: float(one.score(asked, self.factors[name].to_numpy())) for name, one in readers.items()}

    def read(self, pixels: np.ndarray) -> pd.DataFrame:
        """Returns what the factors of images (uint8, N H W C) look like, as whole numbers, a row an image."""
        small = self._small(pixels)
        return pd.DataFrame({name: self._readers[name].predict(small) for name in self.reads})

    @staticmethod
    def _small(pixels: np.ndarray) -> "Tensor":
        import torch
        import torch.nn.functional as F

        x = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
        return (F.adaptive_avg_pool2d(x, SMALL) if min(x.shape[2:]) > SMALL else x).flatten(1)
