"""Sweeps from a shell."""

import argparse
import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli import training
from workbench.cli.typed import PARTS, UsageError, value

if TYPE_CHECKING:
    from workbench.run import Run


def run_sweep(args: argparse.Namespace) -> None:
    """Run a task with every combination of some settings, a folder each; the same command goes on where it was stopped.

    workbench sweep train --data garments --grid objective.temperature=0.05,0.1,0.2 lr=1e-3,2e-3 seed=0,1 --out sweeps/mine
    workbench sweep mine.py:measure --grid width=8,16,32 --set n=1000 --out sweeps/widths --scheduler tcp://head:8786

    A task of your own is a function that takes `out`, its folder, and the settings, and returns a run, numbers by name or a
    DataFrame. All rows are in OUT/sweep.parquet and OUT/sweep.csv; a row that failed keeps its traceback in failed.json.
    """
    from workbench.sweeping import Book, grid, sweep

    task, fixed, table = train_one if args.task == "train" else args.task, _fixed(args), grid(**_grid(args))
    rows = {"fixed": fixed, "out": Path(args.out)}
    book = Book(task, table, **rows)
    if args.task == "train":
        for settings in book.rows.values():
            training.parts(_as_typed("OUT", settings))
    if not args.dry_run:
        how = {"scheduler": args.scheduler, "workers": args.workers, "retry_failed": args.retry_failed}
        found = sweep(task, table, **rows, **how, progress=not args.no_progress)
    else:
        found = book.table()
    _report(found, args)


def sweep_options(parser: argparse.ArgumentParser) -> None:
    """Adds what to run, what to vary, where it runs, and the settings of `workbench train`."""
    add = parser.add_argument
    add("task", help="`train`, FILE.py:function or package.module:function")
    add("--grid", nargs="+", action="extend", required=True, metavar="KEY=VALUE,VALUE", help="settings to vary: all combinations")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="settings that all rows share")
    add("--out", required=True, help="folder of the sweep")
    add("--workers", type=int, help="rows at a time; by default as many as there are cores; 0: in this process")
    add("--scheduler", help="address or scheduler file of a Dask cluster that sees the same files; by default processes here")
    add("--retry-failed", action="store_true", help="run again what failed")
    add("--dry-run", action="store_true", help="only print the rows and what has become of them")
    add("--no-progress", action="store_true", help="show no bar")
    parser.set_defaults(settings_of_train=training.setting_options(parser))


def train_one(out: Path, **settings: Any) -> "Run":
    """Trains one row of a sweep: what `workbench train` does with these options, to the end."""
    return training.trained(_as_typed(str(out), settings))


def _as_typed(out: str, settings: dict[str, Any]) -> argparse.Namespace:
    """Returns what `workbench train` would have read."""
    argv = ["--out", out, "--resume", "--no-progress"]
    for key, given in settings.items():
        flag = key.replace("_", "-")
        if "." in key:
            argv += ["--set", f"{key}={given!r}"]
        elif isinstance(given, bool):
            argv.append(f"--{flag}" if given else f"--no-{flag}")
        else:
            argv.append(f"--{flag}={given}")
    parser = argparse.ArgumentParser(prog="workbench sweep train", usage="workbench sweep train --help")
    training.train_options(parser)
    return parser.parse_args(argv)


def _fixed(args: argparse.Namespace) -> dict[str, Any]:
    typed = {key: vars(args)[key] for key in args.settings_of_train if key in vars(args)}
    if typed and args.task != "train":
        raise UsageError(f"--{next(iter(typed))} is a setting of train; for {args.task} write --set KEY=VALUE")
    if "data" in typed and Path(typed["data"]).expanduser().is_dir():
        typed["data"] = str(Path(typed["data"]).expanduser().resolve())  # a worker may stand elsewhere
    return typed | {_key(key, args): value(text) for key, text in map(_pair, args.set)}


def _grid(args: argparse.Namespace) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for key, text in map(_pair, args.grid):
        if _key(key, args) in found:
            raise UsageError(f"--grid names {key} twice; write all its values after one =")
        found[_key(key, args)] = _values(text)
    return found


def _pair(text: str) -> tuple[str, str]:
    key, _, given = text.partition("=")
    if not key or not given:
        raise UsageError(f"a setting is written KEY=VALUE, and several values KEY=VALUE,VALUE, but got {text!r}")
    return key, given


def _key(key: str, args: argparse.Namespace) -> str:
    if args.task != "train" or (key.partition(".")[0] in PARTS and "." in key):
        return key
    if key.replace("-", "_") not in args.settings_of_train:
        known = ", ".join(args.settings_of_train)
        raise UsageError(f"train has no setting {key!r}; it has {known}, and PART.KEY with one of {', '.join(PARTS)}")
    return key.replace("-", "_")


def _values(text: str) -> list[Any]:
    """Returns what stands between commas.

    Example:
        >>> _values("1e-3,2e-3"), _values("simclr,vicreg"), _values("[8,4],[8]"), _values("256-128,none")
        ([0.001, 0.002], ['simclr', 'vicreg'], [[8, 4], [8]], ['256-128', None])
    """
    try:
        return ast.literal_eval(f"[{text}]")
    except (ValueError, SyntaxError):
        return [value(part) for part in text.split(",") if part]


def _report(found: Any, args: argparse.Namespace) -> None:
    settings = {_key(key, args) for key, _ in map(_pair, args.grid)} | set(_fixed(args))
    shown = found.drop(columns=[c for c in found if c in settings]).dropna(axis="columns", how="all")
    if "error" in shown:
        shown["error"] = shown["error"].str.partition("\n")[0].str[:100]
    print(shown.to_string(index=False, na_rep="", max_rows=60, float_format=lambda x: f"{x:.4g}"))
    states = found.drop_duplicates("run")["state"].value_counts()
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    print(f"{states.sum()} rows: {counts}" + f"; {args.out}/sweep.csv" * (not args.dry_run))
    if "failed" in states and not args.dry_run:
        failed = f"{states['failed']} of {states.sum()} rows failed"
        raise RuntimeError(f"{failed}; why is in {args.out}/*/failed.json; --retry-failed runs them again")
