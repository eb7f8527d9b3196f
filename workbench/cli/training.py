"""Training from a shell."""

import argparse
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.cli.typed import (
    PARTS,
    UsageError,
    accept,
    call,
    choose,
    data_option,
    given_images,
    read_images,
    read_objective,
    read_settings,
    run_option,
    view_makers,
)

if TYPE_CHECKING:
    from workbench.models.encoder import Encoder
    from workbench.objectives.base import Objective
    from workbench.run import Run
    from workbench.train import Trainer

FIT = ("log_every", "snapshots", "checkpoint_seconds")
CHOSEN = {
    "data": ("garments", "a data set (`workbench data`) or the path of a folder of images"),
    "objective": ("simclr", "`workbench objectives` lists them; with +hfs behind, HFS of its codes is added"),
    "backbone": (None, "`workbench backbones` lists them; convnet, or locatello-small where images are drawn again"),
    "projector": (None, "widths after the representation, or none; 128-128. Of an autoencoder: the dimensions of its code; 10"),
    "views": (
        None,
        "`workbench views` lists what makes them; augment, or where images are drawn again plain (adavae: factor-pairs)",
    ),
}
"""What a run is made of: the default, and what else can be chosen."""


def train(args: argparse.Namespace) -> None:
    """Train an encoder on images and keep the run in a folder.

    workbench train --data garments --objective simclr --backbone convnet --projector 256-128 --epochs 5 --out runs/mine
    workbench train --data ~/pictures --set data.size=64 views.blur=0.5 objective.temperature=0.2 --out runs/pictures
    accelerate launch -m workbench.cli train --data cifar10 --backbone resnet18 --out runs/many
    """
    _summarise(trained(args), args)


def trained(args: argparse.Namespace) -> "Run":
    """Returns the run that the options say."""
    import torch

    given, settings = vars(args), read_settings(args.set)
    trainer, objective, maker = parts(args)
    images = read_images(args.data, settings["data"])
    one = {"n": 1} if objective.takes == 1 and "n" not in settings["views"] else {}  # makers compare two where nothing is said
    views = call(maker, "views", settings["views"], given={"images": images} | one)
    channels, size = views(images.at([0]), torch.tensor([0])).images[0].shape[1:3]
    torch.manual_seed(trainer.seed)  # the same command starts from the same weights
    model = _model(args, objective, channels=channels, image_size=size, **settings["backbone"])
    record = {k: v for k, v in given.items() if k in FIT}
    record |= {"out": args.out, "resume": args.resume, "minutes": args.minutes, "progress": not args.no_progress}
    return trainer.fit(model, objective, images, views, **record)


def _model(args: argparse.Namespace, objective: "Objective", **settings: Any) -> "Encoder":
    from workbench.models.building import build_autoencoder, build_encoder

    if objective.code is None:
        return build_encoder(args.backbone or "convnet", args.projector or "128-128", **settings)
    if not (args.projector or "10").isdecimal():
        raise UsageError(f"of an autoencoder --projector is the dimensions of its code, such as 10, but got {args.projector!r}")
    latents = int(args.projector or 10)
    return build_autoencoder(args.backbone or "locatello-small", latents, code=objective.code, **settings)


def parts(args: argparse.Namespace) -> "tuple[Trainer, Objective, Callable]":
    """Returns what the options say that needs no images: trainer, objective, and what makes views.

    Raises:
        UsageError: If something has another name, or takes no such argument.
        ValueError: If a setting lies outside its range.
    """
    from workbench.train import Trainer

    settings, makers = read_settings(args.set), view_makers()
    trainer = Trainer(**{k: v for k, v in vars(args).items() if k in Trainer.__dataclass_fields__})
    objective = read_objective(args.objective, settings["objective"])
    drawn_again = "plain" if objective.takes == 1 else "factor-pairs"  # crops and jitter would take the factors away
    maker = makers[choose("view maker", args.views or ("augment" if objective.code is None else drawn_again), makers)]
    accept(maker, "views", settings["views"])
    return trainer, objective, maker


def train_options(parser: argparse.ArgumentParser) -> None:
    """Adds where the run goes, what it is made of, and every setting of the trainer with its default and meaning."""
    add = parser.add_argument
    add("--out", required=True, help="folder of the run")
    add("--minutes", type=float, help="stop after so much training, to be gone on with; by default train to the end")
    add("--resume", action="store_true", help="go on with the run in that folder; start it where there is none")
    add("--no-progress", action="store_true", help="show no bar")
    about = f"arguments of {', '.join(PARTS)}, such as objective.temperature=0.2"
    add("--set", nargs="+", action="extend", default=[], metavar="PART.KEY=VALUE", help=about)
    setting_options(parser)
    parser.set_defaults(**{name: default for name, (default, _) in CHOSEN.items()})


def setting_options(parser: argparse.ArgumentParser) -> list[str]:
    """Adds the options of a training that are settings of the run, and returns their names; what is not typed stays away."""
    from workbench.train import Trainer

    group = parser.add_argument_group("parts")
    for name, (default, about) in CHOSEN.items():
        said = about if default is None else f"{about}; default {default}"
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=said)
    for title, thing, names in (("trainer", Trainer, Trainer.__dataclass_fields__), ("record", Trainer.fit, FIT)):
        group, meaning = parser.add_argument_group(title), meanings(thing)
        for name in names:
            _add_setting(group, name, inspect.signature(thing).parameters[name].default, meaning.get(name, ""))
    return [*CHOSEN, *Trainer.__dataclass_fields__, *FIT]


def _add_setting(group: Any, name: str, default: Any, meaning: str) -> None:
    flag, about = f"--{name.replace('_', '-')}", f"{meaning} Default {default}.".replace("%", "%%").replace("``", "").strip()
    if isinstance(default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=about)
    else:
        kind = type(default)
        group.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=about, metavar=kind.__name__.upper())


def meanings(thing: Any) -> dict[str, str]:
    """Returns what the section ``Arguments`` of a docstring says of each name.

    Example:
        >>> from workbench.train import Trainer
        >>> meanings(Trainer)["batch_size"]
        'Images a step, over all processes together.'
    """
    found: dict[str, str] = {}
    for line in inspect.getdoc(thing).partition("Arguments:\n")[2].partition("\n\n")[0].splitlines():
        name, colon, text = line.strip().partition(": ")
        if colon and not line.startswith(" " * 5):
            found[last := name] = text
        elif found:
            found[last] += " " + line.strip()
    return found


def resume(args: argparse.Namespace) -> None:
    """Go on with a run that was stopped, from its own record.

    workbench resume runs/mine
    """
    from workbench.run import Run

    run = Run(args.run, allow=args.allow)
    images = given_images(args, run) or run.images()
    trainer, objective = (run.built(part) for part in ("trainer", "objective"))
    if _draws(run):
        from workbench.sampling import views_of

        views = views_of(run, images, progress=not args.no_progress)
    else:
        views = run.built("views")
    start = run.model(min(run.steps, default=None))  # the checkpoint replaces its weights, where there is one
    record = {"out": run.path, "resume": True, "minutes": args.minutes, "progress": not args.no_progress}
    _summarise(trainer.fit(start, objective, images, views, **record), args)


def resume_options(parser: argparse.ArgumentParser) -> None:
    """Adds the run, and the images where they cannot be made again."""
    run_option(parser)
    data_option(parser, "images of the run, where it cannot make them again")
    parser.add_argument("--minutes", type=float, help="stop after so much training; by default train to the end")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def _summarise(run: "Run", args: argparse.Namespace) -> None:
    loss = run.metrics["loss"].iloc[-1] if "loss" in run.metrics else float("nan")
    made, total = run.spec["made"], run.spec["total"]
    print(f"{run!r}, loss {loss:.4g}, trained in {made['precision'].replace('no', 'fp32')} on {made['on']}")
    if args.minutes is not None and not run.finished:
        print(f"stopped after {args.minutes:g} minutes, as asked, at step {run.steps[-1]} of {total}")
    recipe = run.spec["images"]["recipe"] or {"path": args.data}
    given = f" --data {recipe['path']}" if recipe.get("path") else ""  # a folder is read again only where it is named
    goes_on = "" if run.finished else f"workbench resume {run.path}{given}; "
    looked = f"workbench replay {run.path}{given}; workbench apps {run.path}"
    if _draws(run):
        looked = f"workbench know {run.path.parent.parent}{given}"
    print(f"next: {goes_on}{looked}")


def _draws(run: "Run") -> bool:
    """Whether it is of a denoiser, in the folder of the run whose representations it is conditioned on."""
    return "h" in (run.spec.get("views") or {})
