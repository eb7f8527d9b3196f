"""A row of a sweep is a folder, named by its settings, in which a task runs once.

It holds ``settings.json``, what the task writes, ``running.json`` meanwhile, and in the end ``result.parquet`` or
``failed.json``. Each appears whole or not at all, and nothing but these files says what has become of a row.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.run import Run, write

__all__: list[str] = []

Settings = dict[str, Any]
Task = Callable[..., Run | Mapping[str, float] | pd.DataFrame]

SETTINGS, RESULT, FAILED, RUNNING, LOCK = "settings.json", "result.parquet", "failed.json", "running.json", ".sweeping"
ABOUT = ("run", "state", "seconds", "error")
NOT_TERMS = ("epoch", "lr", "waiting")


def read_rows(table: pd.DataFrame | Iterable[Mapping[str, Any]], fixed: Mapping[str, Any]) -> dict[str, Settings]:
    """Returns the settings of every row of a table, by the name of its folder."""
    rows: dict[str, Settings] = {}
    shared = {k: _plain(k, v) for k, v in fixed.items()}
    for number, record in enumerate(_records(table)):
        own = {str(k): _plain(k, v) for k, v in record.items()}
        if not own:
            raise ValueError(f"row {number} of the table has no settings, so its folder has no name; name at least one")
        if taken := sorted(set(own) & {*shared, "out", *ABOUT} | set(shared) & {"out", *ABOUT}):
            raise ValueError(f"the table cannot set {', '.join(taken)}: that is fixed already, or a word of the sweep itself")
        name, settings = row_name(own), own | shared
        if not _equal(rows.setdefault(name, settings), settings):
            raise ValueError(
                f"two rows would share the folder {name}: {rows[name]} and {settings}; write their values differently"
            )
    return rows


def _records(table: pd.DataFrame | Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if not isinstance(table, pd.DataFrame):
        return list(table)
    return [{k: v for k, v in r.items() if not (pd.api.types.is_scalar(v) and pd.isna(v))} for r in table.to_dict("records")]


def _plain(key: Any, value: Any) -> Any:
    """Returns a setting as JSON gives it back, so that the task sees the same however often the sweep is started."""
    value = value.item() if hasattr(value, "item") else str(value) if isinstance(value, Path) else value
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise TypeError(
            f"the setting {key} is a {type(value).__name__}, which JSON cannot hold; set what it is made of, and make it there"
        ) from error


def row_name(settings: Settings) -> str:
    """Returns the folder's name.

    Example:
        >>> row_name({"lr": 1e-3, "objective.temperature": 0.2, "seed": 0})
        'lr=0.001,objective.temperature=0.2,seed=0'
    """
    name = ",".join(f"{_short(k)}={_short(v)}" for k, v in settings.items())
    return name if len(name) <= 160 else f"{name[:150]}-{_digest(settings)}"


def _short(value: Any) -> str:
    """Returns a value as a folder's name can bear it; where that loses something, a digest makes up for it."""
    text = value if isinstance(value, str) else json.dumps(value)
    safe = re.sub(r"[^\w.+-]+", "-", text)[:40]
    return safe if safe == text else f"{safe.strip('-')}-{_digest(value)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:6]


def _equal(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)  # unlike ==, tells 1 from True and from 1.0


def check_row(folder: Path, record: Settings) -> None:
    """Raises ValueError where the folder was made with other settings, or by another task."""
    path = folder / SETTINGS
    if not path.exists():
        return
    then, now = ({"task": r["task"], **r["settings"]} for r in (json.loads(path.read_text(encoding="utf-8")), record))
    differ = [k for k in {**then, **now} if (k in then) != (k in now) or not _equal(then[k], now[k])]
    if differ:
        shown = [{k: repr(v) for k, v in record.items()} for record in (then, now)]
        said = "; ".join(f"{k} was {shown[0].get(k, 'not set')}, is {shown[1].get(k, 'not set')}" for k in differ)
        raise ValueError(f"{folder} was made with other settings: {said[:800]}. Use those, or give another folder.")


def state(folder: Path) -> str:
    """Returns what has become of a row: ``"done"``, ``"failed"`` or ``"waiting"``, which may be half done."""
    return "done" if (folder / RESULT).exists() else "failed" if (folder / FAILED).exists() else "waiting"


def lines(folder: Path, settings: Settings) -> list[Settings]:
    """Returns a row's lines of the sweep's table: one, or as many as the DataFrame that the task returned has."""
    head = {"run": folder.name, **settings, "state": state(folder)}
    if head["state"] == "done":
        return [head | values for values in pd.read_parquet(folder / RESULT).to_dict("records")]
    if head["state"] == "failed":
        failure = json.loads((folder / FAILED).read_text(encoding="utf-8"))
        return [head | {"seconds": failure["seconds"], "error": failure["error"]}]
    return [head]


def doing(folder: Path) -> tuple[int, int]:
    """Returns the last logged step of the training that a row is at, and how many there will be; zeros before the first."""
    logs = [*folder.glob("metrics.jsonl"), *folder.glob("*/metrics.jsonl")]
    try:
        newest = max(logs, key=lambda path: path.stat().st_mtime)
        total = json.loads((newest.parent / "run.json").read_text(encoding="utf-8"))["total"]
        with newest.open("rb") as f:
            f.seek(max(0, newest.stat().st_size - 8192))
            whole = f.read().rpartition(b"\n")[0]  # what follows the last line end is being written
        return json.loads(whole.rpartition(b"\n")[2])["step"], total
    except (OSError, ValueError, KeyError):
        return 0, 0


def run_row(task: Task | str, folder: str, record: Settings) -> None:
    """Runs one row in its folder; where another process is at it, waits and sees. What the task raises is kept, not raised."""
    from filelock import FileLock

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / LOCK):
        if (path / RESULT).exists():
            return
        began = time.monotonic()
        write(path / SETTINGS, _json(record))
        write(path / RUNNING, _json({"host": socket.gethostname(), "process": os.getpid()}))
        (path / FAILED).unlink(missing_ok=True)
        try:
            frame = _frame(load_task(task)(out=path, **record["settings"]), record["settings"])
            frame["seconds"] = round(time.monotonic() - began, 3)
            write(path / RESULT, frame.to_parquet(index=False))
        except (Exception, SystemExit) as error:
            fail(path, f"{type(error).__name__}: {error}", traceback.format_exc(), seconds=time.monotonic() - began)
        finally:
            (path / RUNNING).unlink(missing_ok=True)


def fail(folder: Path, said: str, trace: str = "", *, seconds: float = float("nan")) -> None:
    """Keeps why a row failed."""
    write(folder / FAILED, _json({"error": said, "seconds": round(seconds, 3), "traceback": trace.splitlines()}))


def _json(record: Settings) -> bytes:
    return json.dumps(record, indent=1, ensure_ascii=False).encode()


def _frame(result: Any, settings: Settings) -> pd.DataFrame:
    """Returns what a task returned, as a table without the settings."""
    if isinstance(result, Run):
        last = result.metrics.iloc[-1].to_dict() if len(result.metrics) else {}
        result = {k: v for k, v in last.items() if k not in NOT_TERMS}
    if isinstance(result, Mapping):
        values = {str(k): v.item() if hasattr(v, "item") else v for k, v in result.items()}
        if wrong := [k for k, v in values.items() if not isinstance(v, bool | int | float | str | None)]:
            raise TypeError(f"a task returns numbers by name, but {wrong[0]} is a {type(values[wrong[0]]).__name__}")
        result = pd.DataFrame([values], index=[0])
    if not isinstance(result, pd.DataFrame):
        raise TypeError(f"a task returns a Run, numbers by name or a DataFrame, but this one returned a {type(result).__name__}")
    if result.empty and len(result.columns):
        raise ValueError("the task returned a table without a row")
    for column in (c for c in result if c in ABOUT or (c in settings and not (result[c] == settings[c]).all())):
        raise ValueError(f"the task returned a column {column!r}, but the table of the sweep has another of that name; rename it")
    return result.drop(columns=[c for c in result if c in settings])


def task_name(task: Task | str) -> str:
    """Returns the name by which a row remembers its task."""
    if isinstance(task, str):
        where, _, function = task.rpartition(":")
        return f"{Path(where).name if where.endswith('.py') else where}:{function}"
    if not hasattr(task, "__qualname__"):
        raise TypeError(f"a task is a function, but got a {type(task).__name__}; settings of all rows go into `fixed`")
    return f"{task.__module__}:{task.__qualname__}"


def load_task(task: Task | str) -> Task:
    """Returns the function that a task's name means."""
    if not isinstance(task, str):
        return task
    where, _, function = task.rpartition(":")
    if not where or not function:
        raise ValueError(f"a task is named by FILE.py:function or package.module:function, but got {task!r}")
    module = _from_file(Path(where).resolve()) if where.endswith(".py") else importlib.import_module(where)
    if not callable(found := getattr(module, function, None)):
        raise ValueError(f"there is no function {function} in {where}")
    return found


@functools.cache
def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # what stands beside it can be imported
    spec.loader.exec_module(module)
    return module


def check_task(task: Task, settings: Settings) -> None:
    """Raises TypeError where a task does not take the settings."""
    try:
        inspect.signature(task).bind(out=Path(), **settings)
    except TypeError as error:
        given = ", ".join(f"{k}={v!r}" for k, v in settings.items())
        raise TypeError(f"the task {task.__name__} cannot be called as {task.__name__}(out=..., {given}): {error}") from None
