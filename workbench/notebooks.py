"""Runs a notebook by papermill, strictly: unknown parameters are refused, a failure is kept and pointed at, results are files.

A notebook declares what can be set in one code cell tagged ``parameters``, a line ``name = default`` each. Where ``out`` is
among them it is given the folder of the results, so that tables land beside the executed notebook.
"""

import ast
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["ReproductionError", "notebook_paths", "reproduce"]

ADDED = {"injected-parameters", "papermill-error-cell-tag"}
RESULTS = {".csv", ".json", ".parquet", ".png", ".svg"}


class ReproductionError(RuntimeError):
    """A notebook stopped before its end; the message names the cell, what it said, and where the outputs are kept."""


def notebook_paths() -> dict[str, Path]:
    """Returns the notebooks that can be named, from ``notebooks/`` here and ``notebooks/`` beside the package."""
    found = {}
    for home in (Path.cwd(), Path(__file__).parents[1]):
        for pattern in ("notebooks/*.ipynb", "notebooks/papers/*.ipynb"):
            for path in sorted(home.glob(pattern)):
                found.setdefault(path.stem, path.resolve())
    return found


def reproduce(
    name: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    timeout: float = 3600,
    progress: bool = True,
) -> Path:
    """Runs a notebook from top to bottom and returns the path of the executed copy.

    The kernel is the interpreter that calls this. The notebook runs in its own folder, as in JupyterLab, so a parameter that
    is the path of something that exists (it must contain a ``/``) is passed on as an absolute path.

    Arguments:
        name: ``"dimensional_collapse"`` for ``notebooks/papers/dimensional_collapse.ipynb``, or a path.
        parameters: Values in place of those in the notebook's cell tagged ``parameters``. Where ``seeds`` is a list there, a
            number n stands for the seeds 0 to n - 1.
        out: Folder for the executed notebook and its results; ``out/<name>`` where none is given.
        timeout: Seconds that one cell may take.
        progress: Whether a terminal shows the cell that runs.

    Raises:
        FileNotFoundError: If there is no such notebook.
        KeyError: If the notebook has no such parameter.
        TypeError: If a value is of another type than the notebook's default.
        ReproductionError: If a cell fails, takes too long or its kernel dies. The outputs until then are kept, the cell marked.
    """
    path = _find(name)
    known = parameters_of(path)
    given = _checked(path, known, dict(parameters or {}))
    folder = Path(out or given.get("out") or Path("out") / path.stem).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    if target == path:
        raise ValueError(f"{path} would be overwritten by its own outputs; give another folder as out")
    if "out" in known:
        given["out"] = str(folder)
    _execute(path, target, given, timeout, progress=progress)
    return target


def house(folder: str) -> Path:
    """Returns the folder of that name here, or else beside the package.

    Raises:
        FileNotFoundError: If neither stands.
    """
    for home in (Path.cwd(), Path(__file__).parents[1]):
        if (home / folder).is_dir():
            return home / folder
    raise FileNotFoundError(f"there is no folder {folder}/ here; go to a copy of the repository, which has it")


def render(path: Path) -> Path:
    """Renders an executed notebook as a page beside it and returns the page's path."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_filename(str(path))
    target = path.with_suffix(".html")
    target.write_text(page, encoding="utf-8")
    return target


def results(folder: Path, *, since: float = 0.0) -> list[Path]:
    """Returns the tables and pictures in a folder that were written after a time, in seconds since the epoch."""
    return sorted(p for p in folder.glob("*") if p.suffix in RESULTS and p.stat().st_mtime >= since)


def parameters_of(path: Path) -> dict[str, Any]:
    """Returns the names and defaults in a notebook's ``parameters`` cell; a default that is no literal stands as None.

    Raises:
        ValueError: If the file is no notebook, or more than one cell is tagged.
    """
    import nbformat

    try:
        book = nbformat.read(path, as_version=4)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a notebook: {str(error).splitlines()[0]}") from error
    cells = [c.source for c in book.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    if len(cells) > 1:
        raise ValueError(f"{path} has {len(cells)} cells tagged 'parameters'; it may have one")
    found = {}
    for line in ast.parse("".join(cells)).body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and getattr(line, "value", None) is not None:
                try:
                    found[target.id] = ast.literal_eval(line.value)
                except ValueError:
                    found[target.id] = None
    return found


def _find(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix == ".ipynb":
        if path.is_file():
            return path.resolve()
        raise FileNotFoundError(f"there is no notebook {name}")
    known = notebook_paths()
    if str(name) not in known:
        raise FileNotFoundError(
            f"there is no notebook {str(name)!r}; there are {', '.join(known) or 'none'} (in ./notebooks or beside the package), "
            "or give the path of an .ipynb"
        )
    return known[str(name)]


def _checked(path: Path, known: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    for key, value in given.items():
        if key not in known:
            raise KeyError(f"{path.stem} has no parameter {key!r}; it has {', '.join(known) or 'none'}")
        if key == "seeds" and isinstance(known[key], list) and type(value) is int and value > 0:
            given[key] = value = list(range(value))
        if not _agrees(value, known[key]):
            raise TypeError(f"{path.stem}: {key} must be {type(known[key]).__name__}, such as {known[key]!r}, but got {value!r}")
        if isinstance(value, str | Path) and os.sep in str(value) and Path(value).exists():
            given[key] = str(Path(value).resolve())
        elif isinstance(value, tuple):
            given[key] = list(value)
    return given


def _agrees(value: Any, default: Any) -> bool:
    if default is None or value is None:
        return True
    kinds = ((bool,), (int,), (int, float), (str, Path), (list, tuple), (dict,))
    wanted = next((k for k in kinds if isinstance(default, k)), (object,))
    return isinstance(value, wanted) and (not isinstance(value, bool) or bool in wanted or object in wanted)


def _execute(path: Path, target: Path, parameters: dict[str, Any], timeout: float, *, progress: bool) -> None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from tqdm import tqdm

    log = target.with_suffix(".log")
    bar = tqdm(total=_cells(path, parameters), desc=path.stem, unit="cell", disable=None if progress else True, leave=False)
    now, died = 0, False

    def start(cell: Any, cell_index: int) -> None:
        nonlocal now
        now = cell_index
        bar.set_postfix_str(_headline(cell.source)[:60])

    try:
        with _quiet("papermill"):  # it warns of parameters that it cannot read, all of which were checked
            papermill.execute_notebook(
                str(path),
                str(target),
                parameters,
                kernel_name="python3",
                language="python",
                kernel_manager_class=_kernel(log),
                execution_timeout=max(1, round(timeout)),
                progress_bar=False,
                cwd=str(path.parent),
                on_cell_start=start,
                on_cell_executed=lambda **_: bar.update(),
            )
    except PapermillExecutionError as error:
        raise ReproductionError(_stopped(target, error.cell_index, f"{error.ename}: {error.evalue}")) from error
    except CellTimeoutError as error:
        _mark(target, now, "CellTimeoutError", said := f"it took longer than the {timeout:g} s that a cell may take")
        raise ReproductionError(_stopped(target, now, said)) from error
    except DeadKernelError as error:
        died = True
        _mark(target, now, "DeadKernelError", said := f"its process died, often for want of memory (its last words: {log})")
        raise ReproductionError(_stopped(target, now, said)) from error
    except KeyboardInterrupt as error:
        _mark(target, now, "KeyboardInterrupt", said := "it was interrupted")
        raise KeyboardInterrupt(_stopped(target, now, said)) from error
    finally:
        bar.close()
        if not died:
            log.unlink(missing_ok=True)


def _cells(path: Path, parameters: dict[str, Any]) -> int:
    import nbformat

    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
    return len(code) + bool(parameters)  # papermill adds a cell that sets them


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _kernel(log: Path) -> type:
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class ThisInterpreter(AsyncKernelManager):
        """Starts the interpreter that runs now, whatever kernels are registered under the name python3."""

        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

        async def start_kernel(self, **kwargs: Any) -> None:
            with log.open("w") as file:
                await super().start_kernel(stderr=file, **kwargs)

    return ThisInterpreter


def _headline(source: str) -> str:
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(("#", "%"))), lines[0] if lines else "")


def _stopped(target: Path, index: int, said: str) -> str:
    """Says where an executed notebook stopped, counting cells as the notebook itself does, without those papermill added."""
    import nbformat

    cells = nbformat.read(target, as_version=4).cells
    own = [c for c in cells if not ADDED & set(c.metadata.get("tags", []))]
    added = [c for c in cells[: index + 1] if "injected-parameters" in c.metadata.get("tags", [])]
    number = index - len(added)
    return (
        f"{target.name} stopped at cell {number + 1}, `{_headline(own[number].source)}`: {said.strip()}. What ran is in {target}"
    )


def _mark(target: Path, index: int, kind: str, said: str) -> None:
    """Marks a cell that papermill left unmarked as it marks one that raised, and all later ones as pending."""
    import nbformat
    from papermill.execute import raise_for_execution_errors

    book = nbformat.read(target, as_version=4)
    for number, cell in enumerate(book.cells):
        if number >= index:
            cell.metadata["papermill"] = {**cell.metadata.get("papermill", {}), "status": "pending"}
    cell = book.cells[index]
    cell.metadata.papermill.update(status="failed", exception=True)
    cell.outputs.append(nbformat.v4.new_output("error", ename=kind, evalue=said, traceback=[f"{kind}: {said}"]))
    try:
        raise_for_execution_errors(book, str(target))
    except Exception as error:
        if type(error).__name__ != "PapermillExecutionError":
            raise
