"""A sweep is a table of settings: each row is one call of a task, in a folder of its own, in this process or on Dask.

Finished rows are kept and failed ones say why, so that a sweep that was stopped, however it was, goes on as the same call.
"""

import asyncio
import functools
import itertools
import json
import math
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.rows import (
    LOCK,
    RUNNING,
    SETTINGS,
    Settings,
    Task,
    check_row,
    check_task,
    doing,
    fail,
    lines,
    load_task,
    read_rows,
    run_row,
    state,
    task_name,
)
from workbench.run import write

if TYPE_CHECKING:
    from distributed import Client, Future, Nanny

__all__ = ["grid", "sweep"]

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SHOWN = 8


def grid(**values: Any) -> list[Settings]:
    """Returns all combinations of the values, the last name varying fastest; what is no list stands for itself.

    Grids are lists, so that ``+`` joins them.

    Example:
        >>> grid(lr=[0.1, 0.2], seed=range(2), epochs=3)[1]
        {'lr': 0.1, 'seed': 1, 'epochs': 3}
        >>> len(grid(lr=[0.1, 0.2]) + grid(lr=0.1, temperature=[0.05, 0.1, 0.2]))
        5
    """
    single = (str, bytes, Mapping)
    choices = [list(v) if isinstance(v, Iterable) and not isinstance(v, single) else [v] for v in values.values()]
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*choices)]


def sweep(
    task: Task | str,
    table: pd.DataFrame | Iterable[Mapping[str, Any]],
    *,
    out: str | Path,
    fixed: Mapping[str, Any] | None = None,
    scheduler: Any = None,
    workers: int | None = None,
    retry_failed: bool = False,
    strict: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Calls ``task(out=folder, **settings)`` for every row that is not finished, and returns one tidy table of all rows.

    ``out/sweep.parquet`` and ``out/sweep.csv`` grow as rows finish; they also hold what other calls made in ``out``.

    Arguments:
        task: A function, or the name of one: ``"package.module:function"`` or ``"FILE.py:function"``. It returns a ``Run`` (its
            last metrics are kept), numbers by name, or a DataFrame. One that trains calls ``fit(..., resume=True)``, and so goes
            on where it was killed.
        table: A row a call; see :func:`grid`. Settings are numbers, text, and lists and dicts of them; an empty cell is not
            passed. A row that stands there twice runs once.
        out: Folder of the sweep. A row's folder is named by its settings, such as ``lr=0.001,seed=0``.
        fixed: Settings of all rows, which are not part of their names.
        scheduler: Any Dask cluster that sees the same files: ``"tcp://host:8786"``, a scheduler file, a cluster or a client. By
            default processes are started here, with one thread each, which end when this process does.
        workers: How many rows run at a time: by default as many as there are cores (name fewer where they share a GPU), or on a
            cluster as many as it takes. 0 runs one after the other in this process, without Dask.
        retry_failed: Whether rows that failed are run again.
        strict: Whether rows that failed are an error, once the others have ended.
        progress: Whether to show a bar, and the step of each row that runs.

    Returns:
        The rows of ``table`` in their order: run (the folder's name), the settings, state ("done" or "failed"; in the files also
        "waiting"), seconds, error, and what the task returned.

    Raises:
        ValueError: If a row's folder was made with other settings or by another task, or two rows would share a folder.
        TypeError: If the task does not take the settings, or JSON cannot hold them.
        RuntimeError: If another process sweeps in ``out``, or the cluster is lost; if a row failed and ``strict`` is true.
        ConnectionError: If no scheduler answers.
        KeyboardInterrupt: After Ctrl-C; the message says how to go on.
    """
    if workers is not None and (workers < 0 or (workers == 0 and scheduler is not None)):
        raise ValueError(f"workers is a number of processes, or 0 for this one without a scheduler, but is {workers}")
    with _alone(out := Path(out)):
        book = Book(task, table, out=out, fixed=fixed, retry_failed=retry_failed)
        try:
            with _Watch(book, show=progress) as watch:
                if workers == 0:
                    _here(book, watch)
                elif book.left:
                    with _cluster(scheduler, workers, len(book.left)) as client:
                        _there(client, book, watch, at_once=workers or len(book.left))
        except KeyboardInterrupt:
            done = [state(out / name) for name in book.rows].count("done")
            said = f"stopped with {done} of {len(book.rows)} rows done, all of it kept in {out}; the same again goes on"
            raise KeyboardInterrupt(said) from None
        finally:
            book.write()
    found = book.table()
    failed = found[found["state"] == "failed"]
    if strict and len(failed):
        first = failed.iloc[0]
        raise RuntimeError(f"{len(failed)} rows of the sweep in {out} failed, the first, {first['run']}, with {first['error']}")
    return found


class Book:
    """The rows of a sweep and what has become of each; raises as :func:`sweep` where they cannot be run."""

    def __init__(
        self,
        task: Task | str,
        table: pd.DataFrame | Iterable[Mapping[str, Any]],
        *,
        out: Path,
        fixed: Mapping[str, Any] | None = None,
        retry_failed: bool = False,
    ) -> None:
        self.task, self.out, self.rows = task, out.resolve(), read_rows(table, fixed or {})
        self.states = {name: state(out / name) for name in self.rows}
        if retry_failed:
            self.states = {name: "waiting" if found == "failed" else found for name, found in self.states.items()}
        self._lines: dict[str, list[Settings]] = {}
        self._written = -math.inf
        function = load_task(task)
        for name, settings in self.rows.items():
            check_task(function, settings)
            check_row(out / name, self.record(name))

    def record(self, name: str) -> Settings:
        """Returns what a row is."""
        return {"task": task_name(self.task), "settings": self.rows[name]}

    @property
    def left(self) -> list[str]:
        """The rows that are still to be run."""
        return [name for name, found in self.states.items() if found == "waiting"]

    def ended(self, name: str) -> None:
        """Takes down that a row came to an end."""
        self.states[name] = state(self.out / name)
        self.write(every=2.0)

    def table(self, rows: Mapping[str, Settings] | None = None) -> pd.DataFrame:
        """Returns the tidy table of the rows, or of those given."""
        rows = self.rows if rows is None else rows
        found = pd.DataFrame([line for name, settings in rows.items() for line in self._line(name, settings)])
        first = ["run", *dict.fromkeys(k for settings in rows.values() for k in settings), "state", "seconds", "error"]
        found = found.reindex(columns=[*first, *(c for c in found if c not in first)])
        for column in found.select_dtypes(object):  # a file holds one type a column
            if len(kinds := {type(v) for v in found[column].dropna()}) > 1 or kinds & {list, dict}:
                found[column] = [v if isinstance(v, str) or v is None or v != v else json.dumps(v) for v in found[column]]
        return found

    def write(self, *, every: float = 0.0) -> None:
        """Writes the table of all rows that stand in the folder, unless it was written in the last ``every`` seconds."""
        if time.monotonic() - self._written < every:
            return
        others = sorted(path for path in self.out.glob(f"*/{SETTINGS}") if path.parent.name not in self.rows)
        found = self.table(self.rows | {p.parent.name: json.loads(p.read_text(encoding="utf-8"))["settings"] for p in others})
        write(self.out / "sweep.parquet", found.to_parquet(index=False))
        write(self.out / "sweep.csv", found.to_csv(index=False).encode())
        self._written = time.monotonic()

    def _line(self, name: str, settings: Settings) -> list[Settings]:
        if name in self._lines:
            return self._lines[name]
        found = lines(self.out / name, settings)
        if found[0]["state"] == "done":
            self._lines[name] = found
        return found


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"another process sweeps in {out}; wait for it, or give another folder") from None
    try:
        yield
    finally:
        lock.release()


def _here(book: Book, watch: "_Watch") -> None:
    for name in book.left:
        watch.show([name], now=watch.live)
        run_row(book.task, str(book.out / name), book.record(name))
        book.ended(name)


def _there(client: "Client", book: Book, watch: "_Watch", *, at_once: int) -> None:
    task = str(Path(book.task).resolve()) if isinstance(book.task, str) and ".py:" in book.task else book.task
    flying: dict[str, Future] = {}
    left = book.left[::-1]
    for name in left:
        (book.out / name / RUNNING).unlink(missing_ok=True)  # left by a process that was killed
    while left or flying:
        while left and len(flying) < at_once:
            name = left.pop()
            arguments = (task, str(book.out / name), book.record(name))
            flying[name] = client.submit(run_row, *arguments, key=f"{name}-{uuid.uuid4().hex}", pure=False)
        for name in [name for name, future in flying.items() if future.done()]:
            if _ended(flying.pop(name), book.out / name):
                book.ended(name)
            else:
                left.append(name)
        watch.show([name for name in flying if (book.out / name / RUNNING).exists()])
        time.sleep(0.05)


def _ended(future: "Future", folder: Path) -> bool:
    """Whether a row came to an end. It did not where the process died before its turn; then it is to be handed in again."""
    from distributed.scheduler import KilledWorker

    error = future.exception() if future.status in ("finished", "error") else ConnectionError("the scheduler is gone")
    if error is None:
        return True
    if not isinstance(error, KilledWorker):
        raise RuntimeError(f"the sweep cannot go on: {type(error).__name__}: {error}. What is done is kept.") from error
    if not (folder / RUNNING).exists():
        return False
    (folder / RUNNING).unlink()
    fail(folder, "its process died, often for want of memory; fewer workers need less")
    return True


@contextmanager
def _cluster(scheduler: Any, workers: int | None, rows: int) -> Iterator["Client"]:
    """Gives a client of the cluster asked for, or of processes here, which die with this one."""
    from dask.system import CPU_COUNT
    from distributed import Client

    if isinstance(scheduler, Client):
        yield scheduler
    elif scheduler is not None:
        file = isinstance(scheduler, str | Path) and Path(scheduler).is_file()
        try:
            client = Client(**{"scheduler_file" if file else "address": scheduler}, set_as_default=False, timeout="10s")
        except (OSError, ValueError) as error:
            raise ConnectionError(f"no Dask scheduler answers at {scheduler} ({error}); `dask scheduler` starts one") from error
        with client:
            yield client
    else:
        with _processes(min(workers or CPU_COUNT, rows)) as client:
            yield client


@contextmanager
def _processes(n: int) -> Iterator["Client"]:
    import dask
    from distributed import Client, LocalCluster

    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-ttl": None}
    settings["distributed.nanny.pre-spawn-environ"] = ONE_THREAD  # Dask's own gives memory back at each step: half the speed
    several = {"n_workers": n, "threads_per_worker": 1, "memory_limit": 0, "preload": [__name__]}
    quiet = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}, "silence_logs": "CRITICAL"}
    with (
        dask.config.set(settings),
        _unguarded(),
        LocalCluster(**several, **quiet) as here,
        Client(here, set_as_default=False) as client,
    ):
        try:
            yield client
        except BaseException:  # rows that run now are not waited for
            here.sync(_end, list(here.workers.values()))
            raise


async def _end(nannies: list["Nanny"]) -> None:
    await asyncio.gather(*(nanny.close(timeout=0.5) for nanny in nannies), return_exceptions=True)


def dask_setup(_: Any) -> None:
    """Dask calls this in each process that a sweep starts here: Ctrl-C is for the process that started them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _unguarded() -> Iterator[None]:
    """While entered, new processes do not run the calling script, which so needs no ``if __name__ == "__main__"``."""
    main = sys.modules["__main__"]
    kept = {key: vars(main).pop(key) for key in ("__file__", "__spec__") if key in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(kept)


class _Watch:
    """One bar for all rows, and a line for each that runs: its last step, read from its folder."""

    def __init__(self, book: Book, *, show: bool) -> None:
        from tqdm.auto import tqdm

        self.book, self.live, self.shown = book, sys.stderr.isatty() or "ipykernel" in sys.modules, -math.inf
        self.bar_of = functools.partial(tqdm, disable=not show, dynamic_ncols=True)
        form = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}, {rate_fmt}]"
        over = len(book.rows) - len(book.left)
        self.bar = self.bar_of(total=len(book.rows), initial=over, unit="row", bar_format=form, desc=self._counts())
        self.lines: list[Any] = []

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        for line in self.lines:
            line.close()
        self.show([], now=True)
        self.bar.close()

    def show(self, running: list[str], *, now: bool = False) -> None:
        """Draws what is known, a few times a second at most; into a file, every ten seconds."""
        if self.bar.disable or (not now and time.monotonic() - self.shown < (0.5 if self.live else 10)):
            return
        steps = {name: doing(self.book.out / name) for name in running}
        said = [f"{name}: step {step} of {total}" if total else f"{name}: begun" for name, (step, total) in steps.items()]
        self.bar.n = len(self.book.rows) - len(self.book.left) + sum(step / max(total, 1) for step, total in steps.values())
        self.bar.set_description_str(" | ".join([self._counts(), *([] if self.live else said[:SHOWN])]), refresh=False)
        self.bar.refresh()
        while self.live and len(self.lines) < min(len(said), SHOWN):
            self.lines.append(self.bar_of(bar_format="{desc}", position=1 + len(self.lines), leave=False))
        for line, text in itertools.zip_longest(self.lines, said[: len(self.lines)], fillvalue=""):
            line.set_description_str(f"  {text}")
        self.shown = time.monotonic()

    def _counts(self) -> str:
        states = [*self.book.states.values()]
        failed = f", {states.count('failed')} failed" if "failed" in states else ""
        return f"{self.book.out.name}: {states.count('done')} of {len(states)} rows done{failed}"
