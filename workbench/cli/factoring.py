"""The factors of the world from a shell: what each code of a run holds of them."""

import argparse
from typing import TYPE_CHECKING

from workbench.cli.looking import _print
from workbench.cli.typed import UsageError, data_option, read_images, read_settings

if TYPE_CHECKING:
    import pandas as pd


def factors(args: argparse.Namespace) -> None:
    """Judge how the codes of runs hold the factors of their images; the tables stay with the runs, for the app of factors.

    workbench factors runs/vae
    workbench factors sweeps/correlated --training
    workbench factors runs/simclr --layers backbone.stage2 backbone --data scenes
    """
    from workbench.factoring import code_layer, factor_run
    from workbench.panels.replayed import find_runs

    found, complaints = find_runs(args.runs)
    if complaints:
        raise UsageError(complaints[0])
    changes = read_settings(args.set)["data"]
    if changes and not args.data:
        raise UsageError("--set data.KEY=VALUE is about a data set, but --data names none")
    images = read_images(args.data, changes) if args.data else None
    where = "training" if args.training else "uniform"
    for run in found.values():
        for layer in args.layers or [code_layer(run.spec)]:
            tables = factor_run(run, images, layer=layer, where=where, n=args.n, progress=not args.no_progress)
            about = tables["about"].iloc[0]
            print(f"\n{run.path}, {layer}: N = {about['n']:,} {about['images']}, D = {about['d']:,}\n")
            _print_matrix(tables)
            print("\n" + "  ".join(f"{m} {v:.3f}" for m, v in tables["suite"][["measure", "value"]].to_numpy()))
            for words in dict.fromkeys(w for w in tables["suite"]["warnings"] if w):
                print(f"  {words}")
    print(f"\nto look: panel serve apps/factors.py --args {' '.join(args.runs)}")


def _print_matrix(tables: "dict[str, pd.DataFrame]") -> None:
    """Prints the share of each factor's entropy that each code says."""
    table, dead = tables["matrices"], set(tables["dims"].query("dead")["code"])
    wide = table[table["matrix"] == "information"].pivot(index="code", columns="factor", values="value")
    wide = wide[list(dict.fromkeys(table["factor"]))].reset_index().rename_axis(columns=None)
    wide["code"] = [f"{code} (dead)" if code in dead else str(code) for code in wide["code"]]
    print("share of each factor's entropy that each code says")
    _print(wide)


def factors_options(parser: argparse.ArgumentParser) -> None:
    """Adds the runs and what to judge of them."""
    parser.add_argument("runs", nargs="+", help="runs, or folders of runs")
    data_option(parser, "images with factors; by default the uniform grid of each run's own")
    parser.add_argument("--layers", nargs="+", help="module paths; by default the code of an autoencoder, else backbone")
    parser.add_argument("--training", action="store_true", help="judge on the images of the training, correlated or not")
    parser.add_argument("--n", type=int, default=2048, help="images; default 2048")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")
