"""Objectives matter: of one vision transformer, joint embedding and reconstruction make two different networks.

Joint embedding (two views of an image shall agree) and reconstruction (hidden patches shall be drawn) are held against each
other layer by layer, by centred kernel alignment: the claims are that networks of one family are alike whatever the objective,
that the families differ, early and most in attention and normalisation, that joint embedding is the better linear probe for
labels and the worse where place matters, and that fine-tuning turns a reconstructing network into one like joint embedding.

What is reproduced: one :class:`workbench.TokenViT`, from the same random weights for each objective of a seed, trained by SimCLR
and MoCo v3, MAE and SimMIM, on garments of which the pose alone varies; every part of every block compared between any two of
the networks, before and after fine-tuning; labels and pose read from every block. The paper's text beyond its abstract could
not be had: what is held against it are the abstract's claims. Its estimator and its pooling are not known to us; here the CKA
is linear and unbiased, of the mean over the patches' tokens.

References:
    Objectives Matter: Understanding the Impact of Self-Supervised Objectives on Vision Transformer Representations (Shekhar,
    Bordes, Vincent, Morcos, 2023), https://arxiv.org/abs/2304.13089
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F

from workbench.cutting import keep_model
from workbench.data.images import Images
from workbench.data.posed import posed_garments
from workbench.features import Features, extract
from workbench.fine_tuning import fine_tune, head_accuracy
from workbench.measures.neighbours import mutual_knn
from workbench.measures.similarity import cka_map
from workbench.measures.tokens import attention_distance, fourier_amplitude
from workbench.models.building import build_encoder
from workbench.models.encoder import PARTS, Encoder, main_layers, sublayers
from workbench.models.pretrained import Timm
from workbench.models.tokens import TokenViT
from workbench.objectives.base import Objective
from workbench.objectives.mae import MAE
from workbench.objectives.mocov3 import MoCoV3
from workbench.objectives.simclr import SimCLR
from workbench.objectives.simmim import SimMIM
from workbench.probes import KNNProbe, LinearProbe, probe_layers
from workbench.run import Run
from workbench.spec import entry
from workbench.sweeping import grid, sweep
from workbench.train import Trainer
from workbench.views.augment import Augment

__all__ = [
    "CONDITIONS",
    "KINDS",
    "NETWORKS",
    "POSE",
    "SCALES",
    "TABLES",
    "alike_by_depth",
    "by_depth",
    "by_part",
    "claims",
    "fresh",
    "measure",
    "pair",
    "raw_pixels",
    "reproduce",
    "row",
    "similarity",
    "to_joint_embedding",
    "tokens_by_depth",
    "train",
]


class Scale(NamedTuple):
    """How large a reproduction is; ``epochs`` and ``lr`` are by condition."""

    vit: dict[str, Any]
    projector: tuple[int, ...]
    hidden: int
    images: int
    labelled: int
    held_out: int
    batch_size: int
    epochs: dict[str, int]
    lr: dict[str, float]
    tuning: dict[str, Any]


ALL = ("SimCLR", "MoCo v3", "MAE", "SimMIM")

SCALES = {
    "smoke": Scale(
        {"image_size": 16, "patch": 4, "width": 16, "depth": 2, "heads": 2},
        (32, 16),
        *(32, 256, 128, 128, 64),
        epochs=dict.fromkeys(ALL, 1),
        lr=dict.fromkeys(ALL, 1e-3),
        tuning={"epochs": 1},
    ),
    "cpu": Scale(
        {"image_size": 24, "patch": 6, "width": 64, "depth": 4, "heads": 2},
        (256, 256, 64),
        *(256, 10_000, 3_000, 1_000, 64),
        epochs={"SimCLR": 2, "MoCo v3": 2, "MAE": 5, "SimMIM": 4},
        lr={"SimCLR": 1e-3, "MoCo v3": 1e-3, "MAE": 2e-3, "SimMIM": 1e-3},
        tuning={"epochs": 3, "batch_size": 64},
    ),
    # ViT-S, 14 x 14 patches as of 224 pixels in patches of 16, 300 epochs; MoCo v3 and MAE at their authors' rates of AdamW
    # (1.5e-4 for every 256 images of a batch). SimCLR's and SimMIM's rates are ours; nothing here is the paper's own recipe.
    "gpu": Scale(
        {"image_size": 56, "patch": 4, "width": 384, "depth": 12, "heads": 6},
        (4096, 4096, 256),
        *(4096, 50_000, 10_000, 2_000, 1024),
        epochs=dict.fromkeys(ALL, 300),
        lr=dict.fromkeys(ALL, 6e-4),
        tuning={"epochs": 100, "layer_decay": 0.75, "batch_size": 1024},
    ),
}


class Condition(NamedTuple):
    """An objective, the family it is of, and how it is shown the images."""

    family: str
    objective: Callable[[Scale], Objective]
    views: Augment


CONDITIONS = {
    "SimCLR": Condition("joint embedding", lambda s: SimCLR(temperature=0.2), Augment()),
    "MoCo v3": Condition("joint embedding", lambda s: MoCoV3(hidden=s.hidden), Augment()),
    "MAE": Condition("reconstruction", lambda s: MAE(), Augment(1, scale=(0.2, 1.0), jitter_p=0, grey=0)),
    "SimMIM": Condition("reconstruction", lambda s: SimMIM(), Augment(1, scale=(0.67, 1.0), jitter_p=0, grey=0)),
}

POSE = ["x", "y", "scale", "rotation"]
"""The factors of the images that say where and how a garment lies."""

NETWORKS = {
    ("joint embedding", "pretrained"): "joint embedding",
    ("reconstruction", "pretrained"): "reconstruction",
    ("untrained", "pretrained"): "untrained",
    ("joint embedding", "fine-tuned"): "joint embedding, fine-tuned",
    ("reconstruction", "fine-tuned"): "reconstruction, fine-tuned",
    ("untrained", "fine-tuned"): "labels alone",
}
"""What :func:`to_joint_embedding` calls a network, by family and stage."""

KINDS = ("same objective", "joint embeddings", "reconstructions", "other family", "untrained")
"""What two networks can be to each other, see :func:`by_part`."""

TABLES = ("measures", "similarity", "maps")
"""The tables that :func:`reproduce` returns."""


def fresh(*, scale: str = "cpu", seed: int = 0, projector: Sequence[int] = ()) -> Encoder:
    """Returns the network that every condition of this seed starts from; its backbone is the same with any projector."""
    s = entry(SCALES, scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder("vit-tiny", projector, channels=1, **s.vit)


def train(condition: str, out: str | Path, *, scale: str = "cpu", seed: int = 0, progress: bool = True) -> Run:
    """Trains one condition into the folder ``out``, or goes on with, or opens, the run that is there.

    Raises:
        KeyError: If there is no such condition or scale.
    """
    s, how = entry(SCALES, scale), entry(CONDITIONS, condition)
    settings = {"epochs": s.epochs[condition], "batch_size": s.batch_size, "lr": s.lr[condition], "weight_decay": 0.05}
    model = fresh(scale=scale, seed=seed, projector=s.projector if how.family == "joint embedding" else ())
    precision = "auto" if torch.cuda.is_available() else "fp32"  # of so narrow a network the faster on a processor
    trainer = Trainer(**settings, precision=precision, seed=seed)
    parts = model, how.objective(s), _images(scale)[0], how.views
    return trainer.fit(*parts, out=out, resume=True, snapshots=2, progress=progress)


def measure(model: Encoder | Run, *, scale: str = "cpu") -> pd.DataFrame:
    """Returns what every block's output tells of label and pose: columns layer, task, probe, measure, value, chance.

    Of the mean over the patches' tokens, on held-out garments: accuracy of the label by a linear probe and by 20 nearest
    neighbours, R2 of each of :data:`POSE` by ridge regression.
    """
    model = _on_device(model)
    layers = [name for name in main_layers(model) if name.startswith("backbone")]
    return _probed(*(extract(model, images, layers, tokens="patches", progress=False) for images in _labelled(scale)))


def raw_pixels(*, scale: str = "cpu") -> pd.DataFrame:
    """Returns :func:`measure` of the pixels themselves: what is to be had without a network."""
    return _probed(*(Features({"pixels": x.at(range(len(x))).flatten(1).float()}, x.factors) for x in _labelled(scale)))


def tokens_by_depth(model: Encoder | Run, images: Images, *, batch_size: int = 128) -> pd.DataFrame:
    """Returns how far each block attends, and how much its tokens vary from patch to patch.

    Arguments:
        model: Of a plain vision transformer: a :class:`workbench.TokenViT`, or one of timm's that computes as such.
        images: A few hundred will do.
        batch_size: Images at a time.

    Returns:
        Columns ``block`` (from 1), ``measure``, ``value``: ``"attention distance"`` in pixels, the mean over heads and images;
        ``"high frequencies"``, the log-amplitude of the highest diagonal frequency less that of frequency 0.

    Raises:
        ValueError: If it is no such transformer.

    References:
        What Do Self-Supervised Vision Transformers Learn? (Park et al., 2023), https://arxiv.org/abs/2305.00729
    """
    model = _on_device(model)
    body = model.backbone
    vit = (TokenViT.of(body.model) if isinstance(body, Timm) else body).eval()
    if not isinstance(vit, TokenViT):
        raise ValueError(f"tokens by depth are those of a plain vision transformer, but got a {type(vit).__name__}")
    device, parts = next(model.parameters()).device, []
    for start in range(0, len(images), batch_size):
        x = images.at(range(start, min(start + batch_size, len(images)))).to(device).float() / 255
        x = model.normalise(x)
        if getattr(body, "resize", False):
            x = F.interpolate(x, (body.size, body.size), mode="bilinear", antialias=True)
        parts.append(_token_rows(vit, x).assign(images=len(x)))
    table = pd.concat(parts)
    table["value"] *= table["images"] / len(images)
    return table.groupby(["block", "measure"], sort=False)["value"].sum().reset_index()


def similarity(
    one: Encoder | Run,
    other: Encoder | Run,
    images: Images,
    *,
    layers: Sequence[str] | None = None,
    others: Sequence[str] | None = None,
    tokens: str = "patches",
    permutations: int = 200,
) -> pd.DataFrame:
    """Returns the CKA of every layer of ``one`` with every layer of ``other``, and whom they have for neighbours.

    Any two vision transformers will do that take the images, such as published ones::

        dino = wb.keep_model("timm:vit_small_patch16_224.dino", "runs/dino", images=images)  # downloads; or checkpoint="file"
        mae = wb.keep_model("timm:vit_base_patch16_224.mae", "runs/mae", images=images)
        similarity(dino, mae, images)

    Arguments:
        one, other: Encoders, or runs, whose features are then kept beside them.
        images: What both look at.
        layers, others: Their layers; by default all of :func:`workbench.sublayers`.
        tokens: What stands for an image: ``"patches"``, the mean of their tokens, ``"mean"``, of all, or ``"first"``, the class
            token; see :func:`workbench.extract`.
        permutations: Of the null.

    Returns:
        The columns of :func:`workbench.cka_map`, and ``knn``, the share of an image's ten nearest that both have, for layers in
        the same place (where both have as many).

    Raises:
        ValueError: If a model has no transformer blocks and no layers are named.
    """
    seen = [_features(model, images, names, tokens) for model, names in ((one, layers), (other, others))]
    table = cka_map(*seen, permutations=permutations)
    names = [list(features) for features in seen]
    if len(names[0]) != len(names[1]):
        return table.assign(knn=float("nan"))
    k = min(10, len(images) - 1)
    near = {(a, b): float(mutual_knn(seen[0][a], seen[1][b], k=k)) for a, b in zip(*names, strict=True)}
    return table.assign(knn=[near.get(at, float("nan")) for at in zip(table["layer"], table["other"], strict=True)])


def row(out: str | Path, *, condition: str, seed: int, scale: str) -> pd.DataFrame:
    """Trains one condition with one seed into ``out``, fine-tunes it, and measures both; a row of the sweep.

    Returns:
        The columns of :func:`measure`, and ``stage``, ``"pretrained"`` or ``"fine-tuned"``; the tokens' measures by depth and
        the accuracy of the fine-tuned head (layer ``"head"``) are rows too.
    """
    if condition == "raw pixels":
        return raw_pixels(scale=scale).assign(stage="pretrained")
    known, seen = _labelled(scale)
    if condition == "untrained":
        run = keep_model(fresh(scale=scale, seed=seed), out, images=_images(scale)[0])
    else:
        run = train(condition, out, scale=scale, seed=seed, progress=False)
    how = {"out": Path(out) / "tuned", "seed": seed, "resume": True, "progress": False}
    tuned = fine_tune(run, known, **how, **entry(SCALES, scale).tuning)
    right = {"layer": "head", "task": "label", "probe": "fine-tuning", "measure": "accuracy", "value": head_accuracy(tuned, seen)}
    tables = []
    for stage, which in (("pretrained", run), ("fine-tuned", tuned)):
        tables.append(measure(which, scale=scale).assign(stage=stage))
        depth = tokens_by_depth(which, seen[:256])
        layers = [f"backbone.blocks.{block - 1}" for block in depth["block"]]
        tables.append(depth.drop(columns="block").assign(layer=layers, stage=stage))
    return pd.concat([*tables, pd.DataFrame([right]).assign(stage="fine-tuned")], ignore_index=True)


def pair(out: str | Path, *, one: str, other: str, scale: str) -> pd.DataFrame:
    """Returns :func:`similarity` of two runs of the sweep in the folder ``runs`` beside that of ``out``; a row of a sweep.

    Where ``one`` is fine-tuned, of the blocks' outputs alone.
    """
    runs = [Run(Path(out).parents[1] / "runs" / name) for name in (one, other)]
    model = runs[0].model()
    layers = main_layers(model) if one.endswith("tuned") else sublayers(model)
    table = similarity(*runs, _labelled(scale)[1], layers=layers, others=layers)
    return table.rename(columns={"other": "other_layer"})


def reproduce(
    out: str | Path,
    *,
    scale: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    conditions: Sequence[str] = tuple(CONDITIONS),
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Trains, fine-tunes and measures every condition with every seed, beside an untrained network and raw pixels.

    Two sweeps, ``runs`` and ``pairs``: rows that stand in ``out`` are not made again.

    Arguments:
        out: Folder of the sweeps.
        workers, scheduler: As in :func:`workbench.sweep`.

    Returns:
        ``measures``: condition, seed, stage and the columns of :func:`measure`. ``similarity``: layers in the same place of any
        two networks (condition, stage, seed; other, other_seed, which is pretrained): layer, value (CKA), null, knn.
        ``maps``: for each of :data:`KINDS` but the last the mean CKA of every layer with those of the same part (see
        :func:`by_part`), over pairs of pretrained networks of different seeds (of the one seed, where it is given one).
    """
    how = {"fixed": {"scale": scale}, "retry_failed": True, "strict": True, "progress": progress}
    how |= {"workers": workers, "scheduler": scheduler}
    names = [*conditions, "untrained"]
    table = [{"condition": "raw pixels", "seed": 0}, *grid(condition=names, seed=list(seeds))]
    measures = sweep(row, table, out=Path(out) / "runs", **how)
    about = _pairs(measures[["run", "condition", "seed"]].drop_duplicates())
    pairs = about[["run", "other_run"]].rename(columns={"run": "one", "other_run": "other"})
    compared = sweep(pair, pairs, out=Path(out) / "pairs", **how)
    return _tables(measures, compared, about)


def by_part(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a table of layers with the columns ``depth`` (the block's, from 1; the backbone's output stands last) and ``part``.

    Parts are those of :func:`workbench.sublayers`, ``"block"`` for a block's output and ``"output"`` for the backbone's. Where
    the table has ``condition`` and ``other``, ``kind`` says what the two are, one of :data:`KINDS`: of the same objective, two
    joint embeddings or two reconstructions of different objectives, of either family one, or one of them untrained. Of a column
    ``other_layer`` the same is said as ``other_depth`` and ``other_part``.
    """
    for side in ("", *(["other_"] if "other_layer" in table else [])):
        depth, part = _places(table[f"{side}layer"])
        table = table.assign(**{f"{side}depth": depth, f"{side}part": part})
    if {"condition", "other"} <= set(table):
        table["kind"] = [_kind(*both) for both in zip(table["condition"], table["other"], strict=True)]
    return table


def by_depth(table: pd.DataFrame, *, stage: str = "pretrained") -> pd.DataFrame:
    """Returns a row a condition, seed and depth, a column a task (in %), as :func:`workbench.training_curves` draws them.

    ``label`` is the linear probe's accuracy, ``label, knn`` the neighbours'; the tokens' measures are columns as they are. Raw
    pixels have no depth, and are left out.
    """
    asked = by_part(table[(table["stage"] == stage) & ~table["layer"].isin(["pixels", "head"])])
    name = asked["task"].fillna(asked["measure"]).where(asked["probe"] != "KNNProbe", "label, knn")
    value = asked["value"] * asked["measure"].map({"accuracy": 100, "r2": 100}).fillna(1)
    wide = asked.assign(name=name, value=value).pivot(index=["condition", "seed", "depth"], columns="name", values="value")
    order = {condition: i for i, condition in enumerate(dict.fromkeys(asked["condition"]))}
    wide = wide.reset_index().rename_axis(columns=None)
    return wide.sort_values(["condition", "seed", "depth"], key=lambda c: c.map(order) if c.name == "condition" else c)


def alike_by_depth(table: pd.DataFrame, *, value: str = "value", same_start: bool = False) -> pd.DataFrame:
    """Returns how alike pretrained networks are at each depth: a row a kind, pair and depth, a column a part.

    Arguments:
        table: The table ``similarity`` of :func:`reproduce`.
        value: ``"value"``, the CKA, or ``"knn"``.
        same_start: Whether the two started from the same random weights (and saw the same order of images), or from others; of
            one seed alone there are only the former, and these are given.

    ``kind`` is that of :func:`by_part`, ``seed`` numbers the pairs; ``block`` holds the backbone's output too, one deeper.
    """
    asked = table[table["stage"] == "pretrained"]
    asked = asked[asked["seed"] == asked["other_seed"]] if same_start else _apart(asked)
    asked = by_part(asked).replace({"part": {"output": "block"}})
    asked = asked.assign(pair=asked.groupby(["condition", "seed", "other", "other_seed"], sort=False).ngroup())
    wide = asked.pivot(index=["kind", "pair", "depth"], columns="part", values=value).rename_axis(columns=None)
    return _in_order(wide.reset_index().rename(columns={"pair": "seed"}))


def to_joint_embedding(table: pd.DataFrame) -> pd.DataFrame:
    """Returns how alike each network is to pretrained joint embeddings of other seeds, before and after fine-tuning.

    Columns ``network`` (one of :data:`NETWORKS`), ``seed`` (numbers the pairs), ``depth``, ``value`` (CKA) and ``knn``. Of one
    seed alone, to joint embeddings of that seed.
    """
    parts = by_part(_apart(table))
    parts = parts[parts["part"].isin(["block", "output"])]
    families = {name: how.family for name, how in CONDITIONS.items()}
    sides = [parts[name].map(families).fillna("untrained") for name in ("condition", "other")]
    both = parts.assign(own=sides[0], beside=sides[1])
    turned = both[both["stage"] == "pretrained"].rename(columns={"own": "beside", "beside": "own"})
    both = pd.concat([both, turned[turned["own"] != turned["beside"]]])
    both = both[both["beside"] == "joint embedding"]
    both["network"] = [NETWORKS[at] for at in zip(both["own"], both["stage"], strict=True)]
    pairs = both.groupby(["network", "condition", "seed", "other", "other_seed"], sort=False).ngroup()
    both = both.assign(seed=pairs)[["network", "seed", "depth", "value", "knn"]]
    order = {name: i for i, name in enumerate(NETWORKS.values())}
    return both.sort_values(["network", "seed", "depth"], key=lambda c: c.map(order) if c.name == "network" else c)


def claims(measures: pd.DataFrame, similarity: pd.DataFrame) -> pd.DataFrame:
    """Returns the abstract's claims as comparisons of two numbers, the first of which should be the larger.

    Columns ``claim``, ``larger`` and ``smaller`` (means), ``larger_std`` and ``smaller_std`` (over networks or pairs), ``holds``
    (whether the difference is positive and above the sum of both deviations). Probes are of the backbone's output, CKA is of
    blocks' outputs and of networks of different seeds.
    """
    alike = alike_by_depth(similarity)
    last = alike[alike["depth"] == alike["depth"].max()].set_index("kind")["block"]
    first = alike[alike["depth"] == 1].set_index("kind")
    own, apart = first[first.index.isin(["joint embeddings", "reconstructions"])], first.loc[["other family"]]
    depth = by_depth(measures)
    depth = depth[depth["depth"] == depth["depth"].max()]
    of = {
        f: depth[depth["condition"].map({n: c.family for n, c in CONDITIONS.items()}) == f]
        for f in ("joint embedding", "reconstruction")
    }
    toward = to_joint_embedding(similarity)
    toward = toward[toward["depth"] == toward["depth"].max()].set_index("network")["value"]
    asked = [
        *((f"1: {kind} are alike, families not", last[kind], last["other family"]) for kind in KINDS[1:3]),
        *((f"2: and so in the first block, {part}", own[part], apart[part]) for part in (*PARTS, "block")),
        ("3: joint embedding tells the label better (%)", *(of[family]["label"] for family in of)),
        *(
            (f"3: reconstruction tells {name} better (%)", *(of[family][name] for family in reversed(of)))
            for name in ("x", "y", "scale")
        ),
        (
            "4: tuned, reconstruction nears joint embedding",
            toward["reconstruction, fine-tuned"],
            toward["reconstruction"],
        ),
        ("4: and nearer than labels alone do", toward["reconstruction, fine-tuned"], toward["labels alone"]),
    ]
    rows = [(claim, a.mean(), a.std(), b.mean(), b.std()) for claim, a, b in asked]
    table = pd.DataFrame(rows, columns=["claim", "larger", "larger_std", "smaller", "smaller_std"])
    return table.assign(holds=table["larger"] - table["smaller"] > table["larger_std"] + table["smaller_std"])


def _places(layers: pd.Series) -> tuple[list[int], list[str]]:
    """Returns depth and part of every layer."""
    places = [layer.split(".") for layer in layers]
    number = [next((int(word) + 1 for word in place if word.isdecimal()), 0) for place in places]
    last = max(number, default=0) + 1
    part = [place[-1] if place[-1] in PARTS else "block" if n else "output" for place, n in zip(places, number, strict=True)]
    return [n or last for n in number], part


def _apart(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the pairs of networks that started from other weights; all of them, where there is one seed alone."""
    apart = table[table["seed"] != table["other_seed"]]
    return apart if len(apart) else table


def _kind(one: str, other: str) -> str:
    if one not in CONDITIONS or other not in CONDITIONS:
        return "untrained"
    if one == other:
        return "same objective"
    families = CONDITIONS[one].family, CONDITIONS[other].family
    return f"{families[0]}s" if families[0] == families[1] else "other family"


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows with kinds as :data:`KINDS` has them."""
    return table.sort_values("kind", key=lambda kinds: kinds.map(KINDS.index), kind="stable", ignore_index=True)


def _pairs(made: pd.DataFrame) -> pd.DataFrame:
    """Returns which networks are compared: any two pretrained ones, and each fine-tuned one with each joint embedding."""
    nets = made[made["condition"] != "raw pixels"].to_dict("records")
    joint = [net for net in nets if net["condition"] in CONDITIONS and CONDITIONS[net["condition"]].family == "joint embedding"]
    wanted = [(one, "pretrained", other) for one, other in itertools.combinations(nets, 2)]
    wanted += [(one | {"run": f"{one['run']}/tuned"}, "fine-tuned", other) for one in nets for other in joint]
    keys = {"run": "other_run", "condition": "other", "seed": "other_seed"}
    return pd.DataFrame([one | {"stage": stage} | {keys[k]: v for k, v in other.items()} for one, stage, other in wanted])


def _tables(measures: pd.DataFrame, compared: pd.DataFrame, about: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    measures = measures[["condition", "seed", "stage", "layer", "task", "probe", "measure", "value", "chance"]]
    runs = ["one", "other"]
    compared = compared[[*runs, "layer", "other_layer", "value", "null", "knn"]]
    compared = about.merge(compared.rename(columns={"one": "run", "other": "other_run"}), on=["run", "other_run"])
    compared = compared.drop(columns=["run", "other_run"])
    alike = compared[compared["layer"] == compared["other_layer"]].drop(columns="other_layer")
    apart = _apart(compared[compared["stage"] == "pretrained"])
    apart = by_part(apart).replace({"part": {"output": "block"}, "other_part": {"output": "block"}})
    apart = apart[(apart["part"] == apart["other_part"]) & (apart["kind"] != "untrained")]
    maps = apart.groupby(["kind", "layer", "other_layer"], sort=False)[["value", "null"]].mean().reset_index()
    return measures, alike.reset_index(drop=True), _in_order(maps)


def _token_rows(vit: TokenViT, x: torch.Tensor) -> pd.DataFrame:
    with torch.no_grad():
        maps, tokens, before = vit.attention(x), vit.enter(x), vit.num_prefix_tokens
        grid, rows = vit.grid_of(*x.shape[-2:]), []
        for number, (block, attention) in enumerate(zip(vit.blocks, maps, strict=True), 1):
            tokens = block(tokens)
            far = attention_distance(attention, grid=grid, before=before, patch=vit.patch)["value"].mean()
            high = fourier_amplitude(tokens, grid=grid, before=before)["value"].iloc[-1]
            rows += [(number, "attention distance", far), (number, "high frequencies", high)]
    return pd.DataFrame(rows, columns=["block", "measure", "value"])


def _features(model: Encoder | Run, images: Images, layers: Sequence[str] | None, tokens: str) -> Features:
    if isinstance(model, Run):
        return model.features(images, list(layers or sublayers(model.model())), tokens=tokens)
    return extract(model, images, list(layers or sublayers(model)), tokens=tokens, progress=False)


def _probed(known: Features, seen: Features) -> pd.DataFrame:
    tables = [probe_layers(known, seen, factor="label", probe=probe) for probe in (LinearProbe(), KNNProbe())]
    table = pd.concat([*tables, probe_layers(known, seen, factor=POSE)], ignore_index=True)
    return table.rename(columns={"factor": "task"})[["layer", "task", "probe", "measure", "value", "chance"]]


def _on_device(model: Encoder | Run) -> Encoder:
    model = model.model() if isinstance(model, Run) else model
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _labelled(scale: str) -> tuple[Images, Images]:
    """Images whose labels are learned from, and those that are asked about."""
    images, held_out = _images(scale)
    return images[: entry(SCALES, scale).labelled], held_out


@functools.lru_cache(maxsize=1)
def _images(scale: str) -> tuple[Images, Images]:
    s = entry(SCALES, scale)
    size = s.vit["image_size"]
    return posed_garments(s.images, size=size), posed_garments(s.held_out, split="test", size=size)
