"""What was typed, read: values, settings, and the things of the library by their names."""

import argparse
import ast
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.data.images import Images
    from workbench.objectives.base import Objective
    from workbench.run import Run

PARTS = ("data", "views", "backbone", "objective")
READ = ("size", "fit", "channels", "background", "level")  # how a folder's images are read


class UsageError(Exception):
    """What was typed cannot be meant; the message lists what can."""


def value(text: str) -> Any:
    """Returns what was typed as a Python value where it is one (``0.2``, ``1e-3``, ``[0, 1]``, ``true``), else as text.

    Example:
        >>> value("1e-3"), value("true"), value("[64, 'a']"), value("runs/demo")
        (0.001, True, [64, 'a'], 'runs/demo')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None, "null": None}.get(text.lower(), text)


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns the one of ``known`` that ``name`` means, whatever its case and hyphens.

    Raises:
        UsageError: If there is none; the message lists them.
    """

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    for own in known:
        if plain(own) == plain(name):
            return own
    near = difflib.get_close_matches(plain(name), {plain(own): own for own in known}, n=1)
    meant = [f" (did you mean {own}?)" for own in known if [plain(own)] == near]
    raise UsageError(f"there is no {kind} {name!r}; there are {', '.join(known)}{''.join(meant)}")


def read_settings(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the arguments that ``PART.KEY=VALUE`` set, by part and name.

    Raises:
        UsageError: If a pair is not written so.
    """
    found: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        part, dot, name = key.partition(".")
        if not (equals and dot and name and part in PARTS):
            raise UsageError(f"--set wants PART.KEY=VALUE with one of {', '.join(PARTS)} as the part, but got {pair!r}")
        found[part][name] = value(text)
    return found


def call(kind: Callable, part: str, settings: Mapping[str, Any], *, given: Mapping[str, Any] | None = None) -> Any:
    """Calls ``kind`` with what was set, and with what it takes of ``given``."""
    accept(kind, part, settings)
    takes = inspect.signature(kind).parameters
    return kind(**{k: v for k, v in (given or {}).items() if k in takes}, **settings)


def accept(kind: Callable, part: str, settings: Mapping[str, Any]) -> None:
    """Raises UsageError where ``kind`` takes no argument of a name that was set."""
    takes = inspect.signature(kind).parameters
    for key in settings:
        if key not in takes:
            listed = ", ".join(f"{part}.{p}" for p in takes) or "nothing"
            raise UsageError(f"{kind.__name__} takes no {part}.{key}; it takes {listed}")


def datasets() -> dict[str, Callable]:
    """Returns the functions of ``workbench.data`` that give images without being given anything."""
    import workbench.data
    from workbench.data.images import Images
    from workbench.spec import available

    def alone(function: Callable) -> bool:
        parameters = inspect.signature(function).parameters.values()
        return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)

    return {n: f for n, f in available(workbench.data, Images).items() if inspect.isfunction(f) and alone(f)}


def read_images(name: str, settings: Mapping[str, Any], like: "Run | None" = None) -> "Images":
    """Returns the images of a data set by its name, or those of a folder, read as those that a run was trained on."""
    make = find_data(name)
    if isinstance(make, Path):
        import workbench.data

        before = {} if like is None else _read_before(like)
        return call(workbench.data.folder, "data", before | settings, given={"path": make})
    return call(make, "data", settings)


def find_data(name: str) -> Callable | Path:
    """Returns what makes a data set, by its name, or the path of a folder or table.

    Raises:
        UsageError: If there is neither.
    """
    known, path = datasets(), Path(name).expanduser()
    if "/" in name or (path.exists() and name not in known):
        if not path.exists():
            raise UsageError(f"there is no {path}; give a data set by its name, or a folder or table of images")
        return path
    try:
        return known[choose("data set", name, known)]
    except UsageError as error:
        raise UsageError(f"{error}, or the path of a folder of images") from None


def _read_before(run: "Run") -> dict[str, Any]:
    """How a run's folder of images was read; of one trained on others, the size and channels of these."""
    images = run.spec.get("images") or {}
    recipe = images.get("recipe") or {}
    while isinstance(recipe.get("images"), dict):  # of a part
        recipe = recipe["images"]
    if "path" in recipe:
        return {key: recipe[key] for key in READ if key in recipe}
    channels, height, width = images.get("shape") or (0, 0, 1)
    return {"size": height, "channels": channels} if height == width else {}


def images_for(name: str | None, given: Sequence[str]) -> "Callable[[], Images] | None":
    """Returns what reads the images that an app was given, a folder as for the first run among those given; None without any."""
    if name is None:
        return None

    def read() -> "Images":
        from workbench.run import Run

        found = (file.parent for path in given for file in sorted(Path(path).glob("**/run.json")))
        first = next(found, None)
        return read_images(name, {}, None if first is None else Run(first))

    return functools.cache(read)


def objectives() -> dict[str, type]:
    """Returns the objectives by name."""
    import workbench.objectives
    from workbench.objectives.base import Objective
    from workbench.spec import available

    return available(workbench.objectives, Objective)


def read_objective(name: str, settings: Mapping[str, Any]) -> "Objective":
    """Returns an objective by its name; what is called ``NAME+hfs`` is HFS of NAME, and takes the settings of both."""
    known = objectives()
    name, plus, term = name.partition("+")
    kind = known[choose("objective", name, known)]
    if not plus:
        return call(kind, "objective", settings)
    added = known[choose("term", term, ["HFS"])]
    takes = inspect.signature(added).parameters
    own, its = ({k: v for k, v in settings.items() if (k in takes) == mine} for mine in (True, False))
    return added(call(kind, "objective", its), **own)


def view_makers() -> dict[str, type]:
    """Returns the classes that make views, by name."""
    import workbench.views
    from workbench.spec import names

    found = {name: getattr(workbench.views, name) for name in names("workbench.views")}
    return {name: thing for name, thing in found.items() if inspect.isclass(thing) and "__call__" in vars(thing)}


def measures() -> dict[str, Callable]:
    """Returns the measures that give one number, by name: they declare what they are invariant to."""
    import workbench.measures
    from workbench.spec import available

    return {name: f for name, f in available(workbench.measures, float).items() if hasattr(f, "invariances")}


def run_option(parser: argparse.ArgumentParser) -> None:
    """Adds the run, and whose classes it may name."""
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--allow", nargs="+", default=[], metavar="PACKAGE", help="packages whose classes the run may name")


def data_option(parser: argparse.ArgumentParser, about: str) -> None:
    """Adds images to use in place of a run's own."""
    parser.add_argument("--data", help=f"{about} (a data set or a folder)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="data.KEY=VALUE", help="arguments of the data set"
    )


def given_images(args: argparse.Namespace, run: "Run") -> "Images | None":
    """Returns the images that :func:`data_option` named, the run's own with the arguments that were set, or None."""
    changes = read_settings(args.set)["data"]
    if args.data:
        return read_images(args.data, changes, run)
    return run.images(**changes) if changes else None
