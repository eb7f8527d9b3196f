"""How an object says what it is, how it is built again from that, and how a file becomes known by standing in its folder.

Two conventions stand in for a registry. An object keeps each ``__init__`` argument as the attribute of that name, so
``describe`` can write it as JSON. A module lists its public names in ``__all__``, so ``names`` and ``find`` can read them
without importing it.
"""

import ast
import contextlib
import contextvars
import difflib
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from types import ModuleType, SimpleNamespace
from typing import Any

__all__ = ["available", "build", "describe", "without_weights"]


def describe(thing: Any) -> Any:
    """Returns what JSON can hold and :func:`build` can build again.

    Arguments:
        thing: A plain value, a list, tuple or mapping of such, an object with a ``recipe`` (``Images``), or an object whose
            every ``__init__`` argument is readable as the attribute of the same name; the last becomes
            ``{"is": "module:Class", **arguments}``.

    Raises:
        TypeError: If an argument is not kept; the message says which line to add.

    Example:
        >>> from workbench.train import Trainer
        >>> describe(Trainer(epochs=2))["epochs"]
        2
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, PurePath):
        return str(thing)
    if isinstance(thing, list | tuple):
        return [describe(x) for x in thing]
    if isinstance(thing, Mapping):
        return {str(k): describe(v) for k, v in thing.items()}
    if hasattr(thing, "recipe"):
        return thing.recipe
    if hasattr(thing, "item") and getattr(thing, "ndim", None) == 0:
        return thing.item()
    if inspect.isfunction(thing) or inspect.isbuiltin(thing):
        return {"function": f"{thing.__module__}:{thing.__qualname__}"}
    kind = type(thing)
    parameters = inspect.signature(kind).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TypeError(
            f"{kind.__name__} cannot be described: it takes any number of arguments in a row, which no attribute names. "
            f"Wrap it in a class whose __init__ names what it takes."
        )
    wanted = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    missing = [n for n in wanted if not hasattr(thing, n)]
    if missing:
        raise TypeError(
            f"{kind.__name__} cannot be described: it takes {missing} but keeps no attribute of that name. "
            f"Write `self.{missing[0]} = {missing[0]}` in its __init__."
        )
    return {"is": f"{kind.__module__}:{kind.__qualname__}"} | {n: describe(getattr(thing, n)) for n in wanted}


def build(spec: Any, *, allow: Sequence[str] = ()) -> Any:
    """Returns the object that :func:`describe` described, freshly made.

    Arguments:
        spec: What ``describe`` returned, possibly read from a file that somebody else wrote.
        allow: Packages, beside the workbench itself, whose classes may be built.

    Raises:
        ValueError: If the description names a class of another package, or anything but a public class of the workbench
            or a data set of ``workbench.data`` that is given no path.
    """
    if isinstance(spec, list):
        return [build(x, allow=allow) for x in spec]
    if not isinstance(spec, dict):
        return spec
    if "is" not in spec:
        return {k: build(v, allow=allow) for k, v in spec.items()}
    kind = _named(spec["is"], allow, path=spec.get("path"))
    try:
        return kind(**{k: build(v, allow=allow) for k, v in spec.items() if k != "is"})
    except TypeError as error:
        raise ValueError(
            f"{spec['is']} could not be built from its description ({error}). It was probably written by another version "
            f"of the code; the arguments were {sorted(set(spec) - {'is'})}."
        ) from error


def _named(name: Any, allow: Sequence[str], *, path: Any) -> Callable:
    module, _, attribute = str(name).partition(":")
    root = module.partition(".")[0]
    if module == "__main__":
        raise ValueError(f"{attribute} was defined in a notebook or script: pass the object itself, or move it into a file.")
    if root != "workbench" and root not in allow:
        raise ValueError(
            f"the description asks for {name!r}, which is not of the workbench, so it is not imported. "
            f"If you trust the package, say allow=[{root!r}]."
        )
    if root != "workbench":
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the description asks for {name!r}, which is not there: {error}") from error
    try:
        public = attribute in _public(module)
    except (ImportError, AttributeError, ValueError):
        public = False
    found = getattr(importlib.import_module(module), attribute) if public else None
    drawn = module.startswith("workbench.data.") and inspect.isfunction(found) and path is None
    buildable = inspect.isclass(found) and module.startswith(
        ("workbench.models.", "workbench.objectives.", "workbench.views.", "workbench.train", "workbench.generate.learning")
    )
    if not (drawn or buildable):
        raise ValueError(
            f"the description asks for {name!r}; only models, objectives, views, trainers and data sets that are given no path "
            f"are built."
        )
    return found


def available(package: ModuleType, kind: type) -> dict[str, Any]:
    """Returns, by name, every public class of ``kind`` and every public function that returns one, in a package's files.

    Nothing has to be registered: a file counts from the moment it stands in the folder.

    Example:
        >>> import workbench.objectives
        >>> from workbench.objectives.base import Objective
        >>> "SimCLR" in available(workbench.objectives, Objective)
        True
    """
    found = {}
    for name, module in sorted(names(package.__name__).items()):
        value = getattr(importlib.import_module(module), name)
        if inspect.isclass(value):
            if issubclass(value, kind) and value is not kind and not inspect.isabstract(value):
                found[name] = value
        elif inspect.isfunction(value):
            only_return = SimpleNamespace(__annotations__={"return": value.__annotations__.get("return")})
            returned = typing.get_type_hints(only_return, vars(importlib.import_module(module))).get("return")
            if inspect.isclass(returned) and issubclass(returned, kind):
                found[name] = value
    return found


def entry(known: Mapping[str, Any], name: str) -> Any:
    """Returns ``known[name]``, or says what there is.

    Raises:
        KeyError: If there is nothing of that name.
    """
    if name not in known:
        raise KeyError(f"there is no {name!r}; there are {', '.join(known)}")
    return known[name]


def names(package: str) -> dict[str, str]:
    """Returns the module of every public name in a package, read from the files' ``__all__`` without importing them.

    Raises:
        ValueError: If two modules make the same name public.
    """
    return dict(_names(package))


@functools.cache
def _names(package: str) -> dict[str, str]:
    home: dict[str, str] = {}
    spec = importlib.util.find_spec(package)
    for info in pkgutil.walk_packages(spec.submodule_search_locations, package + "."):
        if info.name.startswith(("workbench.papers.", "workbench.cli")):
            continue  # papers are named in full: workbench.papers.<name>
        for name in _public(info.name):
            if name in home:
                raise ValueError(f"{name!r} is public in both {home[name]} and {info.name}; rename one.")
            home[name] = info.name
    return home


def _public(module: str) -> list[str]:
    spec = importlib.util.find_spec(module)
    for line in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "__all__":
            return ast.literal_eval(line.value)
    return []


def find(package: str, name: str) -> Any:
    """Returns the public object ``name`` from whichever module of ``package`` defines it."""
    if name.startswith("__"):
        raise AttributeError(name)
    if importlib.util.find_spec(f"{package}.{name}") is not None:
        return importlib.import_module(f"{package}.{name}")
    home = _names(package)
    if name not in home:
        near = difflib.get_close_matches(name, home, n=3)
        known = f"near it are {', '.join(near)}" if near else f"it has {', '.join(sorted(home))}"
        raise AttributeError(f"{package} has no name {name!r}; {known}")
    try:
        return getattr(importlib.import_module(home[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        raise ModuleNotFoundError(
            f"{package}.{name} is built of diffusers, which is not installed: pip install 'workbench[diffusion]'", name=error.name
        ) from error


_WEIGHTS_COME_FROM_ELSEWHERE = contextvars.ContextVar("weights_come_from_elsewhere", default=False)


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """While entered, what is built fetches no weights of its own: a run's model gets them from the run."""
    token = _WEIGHTS_COME_FROM_ELSEWHERE.set(True)
    try:
        yield
    finally:
        _WEIGHTS_COME_FROM_ELSEWHERE.reset(token)


def fetches_weights() -> bool:
    """Whether a model that is being built may read a checkpoint or download one."""
    return not _WEIGHTS_COME_FROM_ELSEWHERE.get()
