"""Runs, features and menus from a shell."""

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workbench.cli.typed import (
    UsageError,
    call,
    choose,
    data_option,
    given_images,
    measures,
    read_settings,
    run_option,
    view_makers,
)

if TYPE_CHECKING:
    import pandas as pd


def list_runs(args: argparse.Namespace) -> None:
    """List the runs in a folder: where they stand, and the settings in which they differ.

    workbench runs
    workbench runs runs --csv > runs.csv
    """
    from workbench.run import runs

    table = runs(args.folder)
    if args.csv:
        print(table.to_csv(index=False), end="")
        return
    if table.empty:
        print(f"no runs in {args.folder}")
        return
    first = [c for c in ("run", "finished", "step", "total", "objective.is", "images.name", "loss", "error") if c in table]
    other = [c for c in table if c not in first and c.partition(".")[0] in ("trainer", "model", "objective", "views", "images")]
    differ = [c for c in other if table[c].astype(str).nunique() > 1 and not c.endswith("digest") and ".recipe." not in c]
    short = {c: c.removesuffix(".is").rpartition(".")[2] for c in differ}  # trainer.lr: lr; model.backbone.is: backbone
    names = {c: name if [*short.values()].count(name) == 1 else c for c, name in short.items()}
    _print(table[first + differ].rename(columns=names | {"objective.is": "objective", "images.name": "images"}))


def runs_options(parser: argparse.ArgumentParser) -> None:
    """Adds the folder and how to print."""
    parser.add_argument("folder", nargs="?", default="runs", help="default runs")
    parser.add_argument("--csv", action="store_true", help="print every column as CSV")


def show(args: argparse.Namespace) -> None:
    """Show a run: its settings, its last metrics, what it keeps.

    workbench show runs/demo
    workbench show runs/demo --layers
    """
    import pandas as pd

    from workbench.run import Run

    run = Run(args.run, allow=args.allow)
    if args.layers:
        from workbench.models.encoder import layers

        print("\n".join(layers(run.model())))
        return
    print(f"{run!r}\n\n{pd.json_normalize(run.spec).iloc[0].to_string()}")
    if len(run.metrics):
        last = run.metrics.iloc[-1].dropna()
        print(f"\nlast of {len(run.metrics)} rows of metrics")
        print("\n".join(f"{name:<12} {value:g}" for name, value in last.items()))
    print(f"\nweights of steps {', '.join(map(str, run.steps)) or 'none'}")
    tables = [name for name in ("spectrum", "measures") if run.table(name) is not None]
    print(f"tables {', '.join(tables)}" if tables else f"no tables yet: workbench replay {run.path}")


def show_options(parser: argparse.ArgumentParser) -> None:
    """Adds the run and what to show of it."""
    run_option(parser)
    parser.add_argument("--layers", action="store_true", help="the names of its layers instead")


def replay_run(args: argparse.Namespace) -> None:
    """Measure every kept step of a run; the tables stay with it.

    Other images, another --n or another --factor replace what was measured before.

    workbench replay runs/demo --layers backbone projector
    """
    from workbench.replaying import replay
    from workbench.run import Run

    run = Run(args.run, allow=args.allow)
    images = given_images(args, run)
    asked = {"layers": args.layers, "steps": args.steps, "n": args.n, "factor": args.factor}
    table = replay(run, images, **asked, progress=not args.no_progress)["measures"]
    if images is not None or run.held_out() is None:
        print("nothing is held out of these images: a random half is searched for the other half")
    _print_measures(table[table["step"] == table["step"].max()])
    print(f"\nat step {table['step'].max()}; all {table['step'].nunique()} steps are in {run.path / 'tables'}")


def replay_options(parser: argparse.ArgumentParser) -> None:
    """Adds where and when to measure."""
    run_option(parser)
    data_option(parser, "images to measure on; by default held-out ones of the run's kind")
    parser.add_argument("--layers", nargs="+", help="module paths; by default the stages of the backbone and the projector")
    parser.add_argument("--steps", nargs="+", type=int, help="which of the kept steps; by default all")
    parser.add_argument("--n", type=int, default=2048, help="images; default 2048")
    parser.add_argument("--factor", help="whose classes the nearest neighbours vote for; default label, where there is one")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def features(args: argparse.Namespace) -> None:
    """Keep what the layers of a run say about images: a .npy a layer and the factors as a table.

    workbench features runs/demo --data fashion_mnist --layers backbone projector --out features/demo
    workbench features runs/demo --views augment --set views.n=10 --n 500 --out features/views
    """
    import numpy as np
    import torch

    from workbench.features import extract
    from workbench.models.encoder import main_layers
    from workbench.run import Run

    run = Run(args.run, allow=args.allow)
    model = run.model(args.step).to("cuda" if torch.cuda.is_available() else "cpu")
    images = given_images(args, run) or run.images()
    if args.n is not None and args.n < len(images):
        images = images[np.sort(np.random.default_rng(args.seed).permutation(len(images))[: args.n])]
    settings = read_settings(args.set)["views"]
    if settings and not args.views:
        raise UsageError("--set views.KEY=VALUE is about views, but --views names none")
    makers = view_makers() if args.views else {}
    views = (
        call(makers[choose("view maker", args.views, makers)], "views", settings, given={"images": images}) if makers else None
    )
    layers = args.layers or main_layers(model)
    asked = {"tokens": args.tokens, "views": views, "seed": args.seed, "out": args.out}
    kept = extract(model, images, layers, **asked, progress=not args.no_progress)
    print(f"{kept!r}\nin {args.out}")


def features_options(parser: argparse.ArgumentParser) -> None:
    """Adds what to take and where to."""
    run_option(parser)
    data_option(parser, "images; by default those of the training")
    parser.add_argument("--layers", nargs="+", help="module paths (`workbench show RUN --layers`); by default the main ones")
    parser.add_argument("--step", type=int, help="which of the kept steps; by default the last")
    parser.add_argument("--n", type=int, help="at most so many images, drawn at random; by default all")
    parser.add_argument("--tokens", default="mean", help="of token sequences: mean (default), patches or first")
    parser.add_argument(
        "--views", help="how views are made (augment, rerender ...), a row each, as lidar and alignment want them"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the views and of the images drawn; default 0")
    parser.add_argument("--out", required=True, help="folder for the store; an interrupted one is gone on with")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def measure(args: argparse.Namespace) -> None:
    """Measure every layer of kept features.

    workbench measure features/demo --measures rankme participation_ratio
    workbench measure features/demo --measures rankme --interval 0.95
    workbench measure features/views --measures lidar alignment
    """
    from workbench.features import Features
    from workbench.measures.table import over_layers

    known = measures()
    names, kept = [choose("measure", name, known) for name in args.measures], Features.load(args.features)
    if "source" not in kept.factors:
        names = _without_views(names, known)
    table = over_layers(kept, interval=args.interval, **{name: known[name] for name in names})
    if args.csv:
        print(table.to_csv(index=False), end="")
    else:
        _print_measures(table)


def _without_views(names: list[str], known: Mapping[str, Callable]) -> list[str]:
    """Returns the measures that need no views, and says of the others what they need."""
    need = [name for name in names if "source" in inspect.signature(known[name]).parameters]
    said = "several views of each image are needed: workbench features RUN --views augment --set views.n=10 --out FOLDER"
    if need and len(need) == len(names):
        raise UsageError(f"for {' and '.join(need)} {said}")
    if need:
        print(f"left out: for {' and '.join(need)} {said}", file=sys.stderr)
    return [name for name in names if name not in need]


def measure_options(parser: argparse.ArgumentParser) -> None:
    """Adds the features and the measures."""
    parser.add_argument("features", help="folder that `workbench features` wrote")
    parser.add_argument("--measures", nargs="+", default=["rankme"], help="see `workbench measures`; default rankme")
    parser.add_argument(
        "--interval", type=float, metavar="COVERAGE", help="add an interval, such as 0.95, from random halves of the rows"
    )
    parser.add_argument("--csv", action="store_true", help="print a tidy table as CSV")


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate a run by every protocol: neighbours, linear, MLP and, with --tune, fine-tuning; all labels and few.

    workbench evaluate runs/demo
    workbench evaluate runs/demo --layer backbone.stage3 --shots 1 10 0.1 all
    workbench evaluate runs/demo --tune runs/demo-tuned --epochs 20
    """
    from workbench.evaluating import protocols
    from workbench.run import Run

    run = Run(args.run, allow=args.allow)
    test = run.held_out()
    if test is None:
        raise UsageError(f"nothing is held out of {run.path}'s images; in Python, wb.protocols(run, train, test) takes yours")
    asked = {"layer": args.layer, "factor": args.factor, "shots": args.shots, "draws": args.draws, "seed": args.seed}
    table = protocols(run, run.images(), test, out=args.tune, epochs=args.epochs, progress=not args.no_progress, **asked)
    if args.csv:
        print(table.to_csv(index=False), end="")
        return
    found = table.groupby(["protocol", "n_train"], sort=False)["value"].agg(["mean", "std"]).reset_index()
    spread = [f" ± {100 * s:.1f}" if s == s else "" for s in found["std"]]
    found["shown"] = [f"{100 * m:.1f}{s}" for m, s in zip(found["mean"], spread, strict=True)]
    wide = found.pivot(index="protocol", columns="n_train", values="shown").reindex(found["protocol"].unique())
    _print(wide.reset_index().rename_axis(columns=None))
    print(
        f"\naccuracy of {args.factor!r} on {len(test):,} held-out images in %, by the number of labels; ± one deviation of draws"
    )
    tuned = "" if args.tune else "; fine-tuning: --tune FOLDER"
    print(f"from {args.layer}; chance {100 * table['chance'].max():.1f}{tuned}")


def evaluate_options(parser: argparse.ArgumentParser) -> None:
    """Adds how many labels, and where fine-tuned runs go."""
    run_option(parser)
    parser.add_argument("--layer", default="backbone", help="what the probes read; default backbone")
    parser.add_argument("--factor", default="label", help="whose classes are named; default label")
    parser.add_argument(
        "--shots",
        nargs="+",
        type=lambda text: float("inf") if text == "all" else float(text),
        default=[1, 5, 10, 0.01, 0.1, float("inf")],
        help="labels: rows of each class, or a share of each below 1, or all; default 1 5 10 0.01 0.1 all",
    )
    parser.add_argument("--draws", type=int, default=5, help="how often few labels are drawn; default 5")
    parser.add_argument("--tune", metavar="FOLDER", help="fine-tune too, into this folder")
    parser.add_argument("--epochs", type=int, default=100, help="of fine-tuning on all images; default 100")
    parser.add_argument("--seed", type=int, default=0, help="of the draws and of fine-tuning; default 0")
    parser.add_argument("--csv", action="store_true", help="print a tidy table as CSV")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def _print_measures(table: "pd.DataFrame") -> None:
    """Prints a row a layer and a column a measure, then of how many rows and columns the numbers are, and how they were taken."""
    table = table.assign(shown=[f"{v:.4g}" for v in table["value"]])
    if "low" in table:
        table["shown"] += [f" [{low:.4g}, {high:.4g}]" for low, high in zip(table["low"], table["high"], strict=True)]
    wide = table.pivot(index="layer", columns="measure", values="shown")
    _print(wide.reindex(index=table["layer"].unique(), columns=table["measure"].unique()).reset_index())
    rows = ", ".join(f"{n:,}" for n in table["n"].unique())
    widths = table.groupby("layer", sort=False)["d"].first()
    print(f"\nN = {rows} rows; D = {', '.join(f'{d:,} ({layer})' for layer, d in widths.items())}")
    for name, part in table[table["convention"] != ""].groupby("measure", sort=False):
        for how, same in part.groupby("convention", sort=False):
            where = "" if len(same) == len(part) else f" ({', '.join(same['layer'])})"
            print(f"{name}{where}: {how}")


def _print(table: "pd.DataFrame") -> None:
    print(table.to_string(index=False, na_rep="", float_format=lambda x: f"{x:.4g}"))


def menu(things: Callable[[], Mapping[str, Any]], about: str) -> Callable[[argparse.Namespace], None]:
    """Returns the verb that lists some things of the library, a line each."""

    def verb(_: argparse.Namespace) -> None:
        found = things()
        width = max(map(len, found), default=0)
        for name, thing in found.items():
            print(f"{name:<{width}}  {(inspect.getdoc(thing) or '').partition(chr(10))[0]}".rstrip())

    verb.__doc__ = about
    return verb


def list_backbones(args: argparse.Namespace) -> None:
    """List the backbones; with a pattern those of timm too.

    workbench backbones '*vit_small*'
    """
    from workbench.models.building import backbones

    print("\n".join(backbones(args.pattern)))


def backbones_options(parser: argparse.ArgumentParser) -> None:
    """Adds the pattern."""
    parser.add_argument("pattern", nargs="?", help="such as '*resnet*'")


def no_options(_: argparse.ArgumentParser) -> None:
    """Adds nothing."""
