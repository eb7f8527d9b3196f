r"""What a representation still knows of its image: samples conditioned on it show what stays; what varies it has forgotten.

The paper's claims: the backbone of a self-supervised network is not invariant to the augmentations it was trained with, its
projector is; self-supervised representations withstand small adversarial changes of the image better than supervised ones;
and the structure of the representation can be used to edit images. It shows them by pictures, of ResNet-50s on ImageNet.

Reproduced here with numbers beside the pictures, on images of which the factors are known, so that a small network (the
reader, a classifier of factors) can tell from a picture where its object stands, how large it is and of which colour. A
denoiser is trained on each layer, samples are conditioned on held-out images, and it is asked how often the reader says of the
samples what is true of the source (agreement), and which place the source takes among all held-out images, ordered by their
distance to the sample in the layer (rank). Beside it stand what a linear probe reads from the same features, conditions that
were permuted among images (shuffled), an untrained network, and principal components of the pixels.

References:
    High Fidelity Visualization of What Your Self-Supervised Representation Knows About (Bordes, Balestriero and Vincent, TMLR
    2022), https://arxiv.org/abs/2112.09164; code: https://github.com/facebookresearch/RCDM
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.cutting import keep_model
from workbench.data.folders import folder
from workbench.data.gridded import factor_numbers
from workbench.data.images import Images
from workbench.data.shapes import sprites
from workbench.data.wardrobe import garments
from workbench.generate.attacks import attacked
from workbench.generate.operators import between, common_dimensions, manipulate, random_dimensions, shared_noise
from workbench.generate.pixels import represent_pixels, represent_views
from workbench.generate.representations import Representation, represent
from workbench.measures.agreement import factor_agreement, factor_changes
from workbench.measures.distances import frechet_distance
from workbench.measures.sources import rank_summary, source_ranks
from workbench.measures.variation import invariance_ratio, sample_variation
from workbench.models.building import build_encoder
from workbench.models.encoder import Encoder, Projector
from workbench.models.fixed import LinearPixels
from workbench.objectives.base import Objective
from workbench.objectives.simclr import SimCLR
from workbench.objectives.supervised import Supervised
from workbench.objectives.vicreg import VICReg
from workbench.probes import LinearProbe
from workbench.run import Run
from workbench.sampling import denoisers, train_denoiser
from workbench.spec import entry
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.augment import Augment

if TYPE_CHECKING:
    from workbench.generate.rcdm import RCDMPipeline

__all__ = [
    "CONTROLS",
    "FACTORS",
    "OBJECTIVES",
    "SCALES",
    "VIEWS",
    "Reader",
    "classes",
    "fresh",
    "images_of",
    "judged",
    "layers_of",
    "principal",
    "reader_of",
    "reproduce",
    "row",
    "train",
]


class Scale(NamedTuple):
    """How large a reproduction is: the images and networks, what trains them, and of how many ``sources`` samples are drawn.

    ``widths`` and ``inside`` (attention, layers) are of the denoisers; ``steps`` of their sampling; ``encoders`` says which
    are trained on which data, and on folders those of ``"garments"``.
    """

    size: int
    images: int
    held_out: int
    backbone: dict[str, Any]
    projector: tuple[int, ...]
    encoder: Trainer
    denoiser: Trainer
    widths: tuple[int, ...]
    inside: dict[str, int]
    sources: int
    steps: int
    encoders: dict[str, tuple[str, ...]]


CONTROLS = ("untrained", "PCA of pixels")

SCALES = {
    "smoke": Scale(
        16, 512, 256, {"name": "convnet", "width": 4}, (16, 8), Trainer(epochs=1, batch_size=64, lr=2e-3),
        Trainer(epochs=1, batch_size=64, lr=2e-3, weight_decay=0.0), (8, 16), {}, 24, 3,
        {"sprites": ("SimCLR", "supervised", "PCA of pixels"), "garments": ("SimCLR",)},
    ),
    "cpu": Scale(
        16, 14_400, 4_000, {"name": "convnet", "width": 16}, (128, 64), Trainer(epochs=10, batch_size=128, lr=2e-3),
        Trainer(epochs=3, batch_size=64, lr=2e-3, weight_decay=0.0), (32, 64), {}, 96, 8,
        {"sprites": ("SimCLR", "supervised", *CONTROLS), "garments": ("SimCLR", "supervised")},
    ),
    # for one GPU: denoisers of 100,000 steps of 512
    "gpu": Scale(
        64, 102_400, 4_000, {"name": "resnet18"}, (512, 128), Trainer(epochs=50, batch_size=512, lr=1e-3),
        Trainer(epochs=500, batch_size=512, lr=1e-4, weight_decay=0.0), (192, 384, 576, 768), {"attention": 2, "layers": 2},
        1_024, 50,
        {"sprites": ("SimCLR", "VICReg", "supervised", *CONTROLS), "garments": ("SimCLR", "VICReg", "supervised", *CONTROLS)},
    ),
}  # fmt: skip

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "SimCLR": lambda: SimCLR(temperature=0.2),
    "VICReg": VICReg,
    "supervised": Supervised,
}
"""What trains an encoder; it is named after it."""

VIEWS = Augment(scale=(0.5, 1.0), ratio=(1.0, 1.0), flip=0.5, jitter=(0.4, 0.0, 0.0, 0.5), jitter_p=1.0, grey=0.0)
"""What all encoders are trained with: crops of half the image or more, mirror images, any hue, lighter and darker."""

FACTORS = {
    "sprites": {"label": None, "scale": None, "x": None, "y": None, "hue": 8, "background_hue": 8},
    "garments": {"label": None, "x": 4, "y": 4, "scale": 4, "rotation": 4, "background_value": 4, "light": 4},
}
"""What the reader is asked, and into how many equal parts of its range a factor is cut, where it takes more values."""


def train(encoder: str, data: str, out: str | Path, *, scale: str = "cpu", seed: int = 0, progress: bool = True) -> Run:
    """Trains an encoder into ``out``, or takes a control, and then a denoiser of each of its :func:`layers_of`.

    What is there is opened, or gone on with; :func:`workbench.denoisers` finds the denoisers. A folder of fewer images than the
    scale's is shown more often, so that as many steps are taken.

    Arguments:
        encoder: One of :data:`OBJECTIVES`, ``"untrained"`` or ``"PCA of pixels"``.
        data: ``"sprites"``, ``"garments"`` or the path of a folder of images.

    Raises:
        KeyError: If there is no such encoder or scale.
    """
    s, (images, _) = entry(SCALES, scale), images_of(data, scale=scale)
    if encoder == "PCA of pixels":
        run = keep_model(principal(images, s.projector[0]), out, images=images)
    elif encoder == "untrained":
        run = keep_model(fresh(scale=scale, seed=seed), out, images=images)
    else:
        trainer, objective = _fitted(s.encoder, s.images, len(images), seed), entry(OBJECTIVES, encoder)()
        model = fresh(scale=scale, seed=seed, projector=encoder != "supervised")
        run = trainer.fit(model, objective, images, VIEWS, out=out, resume=True, snapshots=2, progress=progress)
    for layer in layers_of(encoder):
        trainer = _fitted(s.denoiser, s.images, len(images), seed)
        train_denoiser(run, layer, images, widths=s.widths, trainer=trainer, snapshots=1, progress=progress, **s.inside)
    return run


def _fitted(trainer: Trainer, planned: int, images: int, seed: int) -> Trainer:
    """Returns a trainer of as many steps on so many images as this one takes on those planned."""
    batch = min(trainer.batch_size, images)
    epochs = max(1, round(trainer.epochs * (planned // trainer.batch_size) / (images // batch)))
    return dataclasses.replace(trainer, epochs=epochs, batch_size=batch, seed=seed)


def fresh(*, scale: str = "cpu", seed: int = 0, projector: bool = True) -> Encoder:
    """Returns the network that every encoder starts from with this seed; without a projector the embedding is ``backbone``."""
    s = entry(SCALES, scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(projector=s.projector if projector else None, image_size=s.size, **s.backbone)


def principal(images: Images, n: int) -> Encoder:
    """Returns the first ``n`` principal components of pixels in [0, 1], as many as there are, as an encoder: its ``backbone``."""
    rows = images.at(np.random.default_rng(0).permutation(len(images))[:4_000]).flatten(1).double() / 255
    axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:n]
    body = LinearPixels(rows.shape[1], len(axes))
    body.map.load_state_dict({"weight": axes.float(), "bias": -(axes @ rows.mean(0)).float()})
    return Encoder(body, Projector([len(axes)]), mean=(0.0,), std=(1.0,))


def layers_of(encoder: str) -> tuple[str, ...]:
    """Returns the layers of an encoder that are drawn of: the projector of those that are trained with one, too."""
    return ("backbone", "projector") if encoder in ("SimCLR", "VICReg") else ("backbone",)


@functools.lru_cache(maxsize=2)
def images_of(data: str, *, scale: str = "cpu") -> tuple[Images, Images]:
    """Returns the images that are trained on, and those that are held out.

    Sprites are drawn at random from a grid of 248,832 (three shapes, four sizes, 6 x 6 places, 24 x 24 hues); what was drawn for
    training is not held out. Of a folder a fifth is held out, at most as many as the scale wants.
    """
    s = entry(SCALES, scale)
    if data == "sprites":
        points = {
            "shapes": ("heart", "arrow", "ell"),
            "scales": 4,
            "orientations": 1,
            "positions": 6,
            "hues": 24,
            "background_hues": 24,
        }
        images, others = (sprites(n, size=s.size, seed=seed, **points) for n, seed in ((s.images, 0), (2 * s.held_out, 1)))
        seen = images.factors.merge(others.factors.reset_index(), how="inner")["index"]
        return images, others[~others.factors.index.isin(seen)][: s.held_out]
    if data == "garments":
        return garments(s.images, size=s.size), garments(s.held_out, split="test", size=s.size)
    images, others = folder(data, size=s.size, progress=False).to("cpu").split(0.8)
    return images[: s.images], others[: s.held_out]


def classes(images: Images, data: str) -> pd.DataFrame:
    """Returns the factors that the reader is asked, as whole numbers from 0; of a folder its label, where it has one."""
    wanted = FACTORS.get(data, {"label": None} if "label" in images.factors else {})
    whole = [name for name, parts in wanted.items() if parts is None]
    table = factor_numbers(images, whole) if whole else pd.DataFrame(index=range(len(images)))
    for name, parts in wanted.items():
        if parts is not None:
            low, high = getattr(images.renderer, "ranges", {}).get(name, (0.0, 1.0))
            share = (images.factors[name].to_numpy() - low) / (high - low)
            table[name] = np.clip((share * parts + 1e-6).astype(int), 0, parts - 1)
    return table[list(wanted)]


class Reader(nn.Module):
    """Reads factors off pixels: convolutions that halve the image to 4 pixels, a layer of 128, a softmax a factor.

    Arguments:
        values: How many values each factor takes.
        size: Side of the images in pixels, a power of 2.
    """

    def __init__(self, values: dict[str, int], size: int) -> None:
        super().__init__()
        self.values, stages = values, round(np.log2(size / 4))
        widths = [3, *(min(32 * 2**i, 128) for i in range(stages))]
        self.body = nn.Sequential()
        for a, b in pairwise(widths):
            self.body.extend([nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)])
        self.body.extend([nn.Flatten(), nn.Linear(16 * widths[-1], 128), nn.ReLU()])
        self.heads = nn.Linear(128, sum(values.values()))

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, ...]:
        """Returns the logits of each factor."""
        return self.heads(self.code(x)).split(list(self.values.values()), 1)

    def code(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 128"]:
        """Returns the last layer but one, of images in [0, 1]: the space of Fréchet distances."""
        return self.body(4 * x - 2)

    @torch.no_grad()
    def read(self, x: Float[Tensor, "b c h w"]) -> pd.DataFrame:
        """Returns the likeliest value of every factor of images in [0, 1]."""
        said = self(x.to(self.heads.weight.device))
        return pd.DataFrame({name: logits.argmax(1).cpu().numpy() for name, logits in zip(self.values, said, strict=True)})


@functools.lru_cache(maxsize=2)
def reader_of(data: str, *, scale: str = "cpu", seed: int = 0) -> Reader | None:
    """Returns a reader, trained on the images that are trained on and on noisier ones; None where no factor is known."""
    images, _ = images_of(data, scale=scale)
    table = classes(images, data)
    if table.empty:
        return None
    truth, draws = torch.tensor(table.to_numpy()), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader({name: int(table[name].max()) + 1 for name in table}, images.pixels.shape[-1])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reader, steps = reader.to(device).train(), 30 if scale == "smoke" else 400
    optimiser = torch.optim.AdamW(reader.parameters(), lr=2e-3)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,), generator=draws)
        x = images.at(rows).float() / 255
        rough = 0.05 * torch.rand(len(x), 1, 1, 1, generator=draws) * torch.randn(x.shape, generator=draws)
        said = reader((x + rough).clamp(0, 1).to(device))
        loss = sum(F.cross_entropy(logits, truth[rows, i].to(device)) for i, logits in enumerate(said))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    return reader.eval()


COPIES = 4
"""Samples of each source; half as many where conditions are changed."""

EPS = (0, 1, 2, 4, 8)
"""How far an attack moves a pixel, in 255ths."""

SHOWN = {"flip": ["x"], "hue": ["hue", "background_hue"]}
"""The factors that a view changes."""


class Case(NamedTuple):
    """A layer and all that is asked of it: ``seen`` are its representations of the held-out images, ``order`` the sources."""

    model: Encoder
    layer: str
    pipe: "RCDMPipeline"
    reader: Reader | None
    images: Images
    held: Images
    truth: pd.DataFrame
    known: Representation
    seen: Representation
    order: np.ndarray
    steps: int
    seed: int

    def draw(self, h: Representation, copies: int) -> Float[Tensor, "n c h w"]:
        """Returns samples, those of a representation together; the i-th is drawn of the same noise whatever it is drawn of."""
        noise = shared_noise(self.pipe, len(h) * copies, self.seed).split(256 * copies)
        parts = [h[rows] for rows in torch.arange(len(h)).split(256)]
        how = {"num_images_per_rep": copies, "num_inference_steps": self.steps}
        return torch.cat([self.pipe(part, latents=x, **how).images.cpu() for part, x in zip(parts, noise, strict=True)])

    def ranks(self, pixels: Tensor, order: np.ndarray) -> pd.DataFrame:
        """Returns mean and median rank, MRR and relative distance of the sources of samples."""
        again = represent_pixels(self.model, pixels, self.layer).values
        return rank_summary(source_ranks(again, order, self.seen.values))


def judged(run: Run, layer: str, *, data: str, scale: str = "cpu", seed: int = 0) -> pd.DataFrame:
    """Returns all numbers of a layer of a run whose denoiser is trained.

    Returns:
        Columns analysis, setting, factor, measure, value, chance. Analyses:

        - ``samples``: ranks, agreement with the source (``kept``) and of samples with one another (``shared``), how much samples
          differ, Fréchet distance in the reader's space; settings ``own``, ``own, mirrored`` (places are held against those of
          the mirror image), ``shuffled`` and ``the image itself``, where ``kept`` is the reader's accuracy.
        - ``probe``: accuracy of a linear probe of every factor, held out.
        - ``invariance``: squared distance by which each of :data:`workbench.MOVES` moves the representation, over that
          between two images.
        - ``views``: agreement of samples of a moved image with it (``as moved``) and with what it was (``as it was``).
        - ``attack``: FGSM and PGD of ten steps by their L-infinity eps, of 255, on the layer's own probe of ``label``: its
          accuracy, how far the representation moves (as in ``invariance``), rank of the source; and of samples of attacked
          images.
        - ``manipulation``: factors that ``changed`` when common dimensions, or as many random ones, are set to their mean or
          swapped for another image's (then also ``as the other``); ``dimensions``, how many.
        - ``between``: on the line between two images, agreement with the ``first`` and the ``second``, of factors in which they
          differ.
    """
    s, (images, held) = entry(SCALES, scale), images_of(data, scale=scale)
    pipe = denoisers(run)[layer].model().pipeline().to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    known, truth = images[:4_000], classes(held, data)
    told = [represent(run, x, layer) for x in (known, held)]
    order = np.random.default_rng(seed).permutation(len(held))[: min(s.sources, len(held) // 2)]  # others are compared with
    reader = reader_of(data, scale=scale, seed=seed)
    case = Case(run.model().to(pipe.device), layer, pipe, reader, known, held, truth, *told, order, s.steps, seed)
    parts = [_samples(case), _invariance(case)]
    if reader is not None:
        probes = {name: LinearProbe().fit(case.known.values, classes(known, data)[name]) for name in truth}
        parts += [_probed(case, probes), _views(case), _manipulation(case), _between(case), _attacks(case, probes["label"])]
    return pd.concat(parts, ignore_index=True).reindex(columns=["analysis", "setting", "factor", "measure", "value", "chance"])


def _samples(case: Case) -> pd.DataFrame:
    order, held = case.order, case.held
    rest = held.at(np.setdiff1d(np.arange(len(held)), order)).float() / 255
    tables = []
    for setting, given in (("own", order), ("shuffled", np.roll(order, 1))):
        x = case.draw(case.seen[given], COPIES)
        tables.append(case.ranks(x, order).assign(setting=setting))
        varied = sample_variation(x, copies=COPIES)
        tables.append(varied[varied["measure"] == "share"].assign(measure="variation", setting=setting))
        if case.reader is None:
            continue
        read = case.reader.read(x)
        tables.append(factor_agreement(read, case.truth.iloc[order], copies=COPIES).assign(setting=setting))
        if setting == "own":
            tables.append(_number("samples", setting, "Fréchet distance", _apart(case, x, rest)))
        if setting == "own" and "x" in case.truth:
            mirror = case.truth[["x"]].max() - case.truth[["x"]].iloc[order]
            mirrored = factor_agreement(read[["x"]], mirror, copies=COPIES)
            tables.append(mirrored[mirrored["measure"] == "kept"].assign(setting="own, mirrored"))
    if case.reader is not None:
        x = held.at(order).float() / 255
        tables.append(factor_agreement(case.reader.read(x), case.truth.iloc[order], copies=1).assign(setting="the image itself"))
        real = case.images.at(range(min(len(order) * COPIES, len(case.images)))).float() / 255
        tables.append(_number("samples", "the image itself", "Fréchet distance", _apart(case, real, rest)))
    return pd.concat(tables).assign(analysis="samples")


@torch.no_grad()
def _apart(case: Case, x: Tensor, others: Tensor) -> float:
    device = case.pipe.device
    with warnings.catch_warnings(action="ignore"):  # so few rows bias it: real images, as many, stand beside it
        return float(frechet_distance(case.reader.code(x.to(device)), case.reader.code(others.to(device))))


def _probed(case: Case, probes: dict[str, LinearProbe]) -> pd.DataFrame:
    rows = [
        _number("probe", "", "accuracy", probe.score(case.seen.values, case.truth[name]), name, case.truth[name])
        for name, probe in probes.items()
    ]
    return pd.concat(rows)


def _invariance(case: Case) -> pd.DataFrame:
    seen = represent_views(case.model, case.held[:1_000], case.layer, seed=case.seed)
    still = seen.pop("unmoved").representation.values
    return pd.concat(
        [_number("invariance", n, "ratio", float(invariance_ratio(still, m.representation.values))) for n, m in seen.items()]
    )


def _views(case: Case) -> pd.DataFrame:
    order, tables = case.order[: len(case.order) // 2], []
    for view, moved in represent_views(case.model, case.held[order], case.layer, seed=case.seed).items():
        names = [name for name in SHOWN.get(view, []) if name in case.truth]
        if names:
            read = case.reader.read(case.draw(moved.representation, COPIES // 2))[names]
            for measure, wanted in (("as moved", case.reader.read(moved.pixels)), ("as it was", case.truth.iloc[order])):
                table = factor_agreement(read, wanted[names], copies=COPIES // 2)
                tables.append(table[table["measure"] == "kept"].assign(measure=measure, setting=view))
    return pd.concat(tables).assign(analysis="views") if tables else pd.DataFrame()


def _attacks(case: Case, probe: LinearProbe) -> pd.DataFrame:
    order, rows = case.order, []
    images, labels = case.held[order], case.truth["label"].iloc[order]
    for kind, steps in (("FGSM", None), ("PGD", 10)):
        for eps in EPS:
            x = attacked(case.model, probe, images, labels, case.layer, eps / 255, steps=steps, seed=case.seed)
            h = represent_pixels(case.model, x, case.layer)
            found = source_ranks(h.values, order, case.seen.values)
            numbers = {
                "probe accuracy": probe.score(h.values, labels),
                "moved": float(invariance_ratio(case.seen[order].values, h.values)),
                "rank": float(found["rank"].mean()),
            }
            if kind == "PGD":
                half = slice(len(order) // 2)
                drawn = case.draw(h[half], COPIES // 2)
                ranks = case.ranks(drawn, order[half]).set_index("measure")["value"]
                kept = case.reader.read(drawn)["label"].to_numpy() == np.repeat(labels.to_numpy()[half], COPIES // 2)
                numbers |= {"rank of samples": ranks["mean rank"], "MRR of samples": ranks["MRR"], "label kept": kept.mean()}
            rows += [_number("attack", f"{kind} {eps}", name, value) for name, value in numbers.items()]
    return pd.concat(rows)


def _manipulation(case: Case) -> pd.DataFrame:
    order, copies = case.order[: len(case.order) // 2], COPIES // 2
    h, other = case.seen[order], case.seen[np.roll(order, 1)]
    near = min(20, len(case.seen))
    common = common_dimensions(h, case.seen, neighbours=near, at_least=round(0.75 * near))
    masks = {"common": common, "random": random_dimensions(common, seed=case.seed)}
    before = case.reader.read(case.draw(h, copies))
    tables = [_number("manipulation", "common", "dimensions", float(common.double().sum(1).mean()))]
    for how, to in (("to the mean", case.seen.values.mean(0)), ("swapped", other)):
        after = {f"{n}, {how}": case.reader.read(case.draw(manipulate(h, m, to=to), copies)) for n, m in masks.items()}
        tables.append(factor_changes(before, after, copies=copies).rename(columns={"change": "setting"}))
        for name, read in after.items() if how == "swapped" else ():
            table = factor_agreement(read, case.truth.iloc[np.roll(order, 1)], copies=copies)
            tables.append(table[table["measure"] == "kept"].assign(measure="as the other", setting=name))
    return pd.concat(tables).assign(analysis="manipulation")


def _between(case: Case) -> pd.DataFrame:
    order, n = case.order[: len(case.order) // 2], 5
    other = np.roll(order, 1)
    lines = [between(case.seen[a : a + 1], case.seen[b : b + 1], n) for a, b in zip(order, other, strict=True)]
    ends = {"first": case.truth.iloc[order].to_numpy(), "second": case.truth.iloc[other].to_numpy()}
    differ, rows = ends["first"] != ends["second"], []
    for k, share in enumerate(np.linspace(0, 1, n)):
        h = Representation(torch.cat([line.values[k : k + 1] for line in lines]), case.seen.source)
        read = case.reader.read(case.draw(h, 1)).to_numpy()
        rows += [_number("between", f"{share:g}", name, float((read == end)[differ].mean())) for name, end in ends.items()]
    return pd.concat(rows)


def _number(
    analysis: str, setting: str, measure: str, value: float, factor: str | None = None, truth: pd.Series | None = None
) -> pd.DataFrame:
    chance = np.nan if truth is None else truth.value_counts(normalize=True).max()
    row = {"analysis": analysis, "setting": setting, "factor": factor, "measure": measure, "value": value, "chance": chance}
    return pd.DataFrame([row])


def row(out: str | Path, *, data: str, encoder: str, seed: int, scale: str) -> pd.DataFrame:
    """Trains an encoder and its denoisers into ``out`` and returns :func:`judged` of each layer; a row of the sweep."""
    run = train(encoder, data, out, scale=scale, seed=seed, progress=False)
    return pd.concat([judged(run, x, data=data, scale=scale, seed=seed).assign(layer=x) for x in layers_of(encoder)])


def reproduce(
    out: str | Path,
    *,
    data: str | Sequence[str] = ("sprites", "garments"),
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    encoders: Sequence[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Trains encoders with every seed, and denoisers of their layers, and asks them.

    It is a sweep: rows that stand in ``out`` are not made again, and trainings that were stopped go on.

    Arguments:
        out: Folder of the sweep.
        data: ``"sprites"``, ``"garments"``, or the path of a folder of images; or several of them.
        encoders: Some of :data:`OBJECTIVES` and :data:`CONTROLS`; by default those of the scale, of a folder those of garments,
            without ``"supervised"`` where it has no ``label``.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        Columns data, encoder, layer, seed, analysis, setting, factor, measure, value, chance.
    """
    table = []
    for name in [data] if isinstance(data, str) else data:
        table += grid(data=name, encoder=list(encoders or _usual(name, scale)), seed=list(seeds))
    how = {"workers": workers, "scheduler": scheduler, "progress": progress}
    swept = sweep(row, table, out=out, fixed={"scale": scale}, retry_failed=True, strict=True, **how)
    return swept[["data", "encoder", "layer", "seed", "analysis", "setting", "factor", "measure", "value", "chance"]]


def _usual(data: str, scale: str) -> list[str]:
    known = entry(SCALES, scale).encoders
    if data in known:
        return list(known[data])
    labelled = "label" in images_of(data, scale=scale)[0].factors
    return [encoder for encoder in known["garments"] if labelled or encoder != "supervised"]
