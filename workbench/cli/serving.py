"""Notebooks, apps and the machine from a shell."""

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from workbench.cli.typed import UsageError, find_data, value


def reproduce(args: argparse.Namespace) -> None:
    """Run notebooks by papermill, strictly; the outputs and their tables land in out/NAME.

    workbench reproduce dimensional_collapse -p scale cpu -p seeds 3
    workbench reproduce list
    """
    from workbench import notebooks

    if args.name == ["list"]:
        for name, path in notebooks.notebook_paths().items():
            print(f"{name}  ({', '.join(f'{k}={v!r}' for k, v in notebooks.parameters_of(path).items())})")
        return
    if args.out and len(args.name) > 1:
        raise UsageError(f"--out names the folder of one notebook, but got {len(args.name)}")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # after Ctrl-C it would tell of the kernel's end
    for name in args.name:
        began = time.time()
        done = notebooks.reproduce(name, {k: value(v) for k, v in args.parameter}, out=args.out, timeout=args.timeout)
        if args.html:
            notebooks.render(done)
        tables = [path.name for path in notebooks.results(done.parent, since=began)]
        print(f"{done.stem}: {time.time() - began:.0f} s, {done}" + (f"; beside it {', '.join(tables)}" if tables else ""))


def reproduce_options(parser: argparse.ArgumentParser) -> None:
    """Adds which notebook and what to set in it."""
    parser.add_argument("name", nargs="+", help="a notebook's name or path; `list` names them with what can be set")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="set one")
    parser.add_argument("--out", help="folder for the executed notebook and its tables; default out/NAME")
    parser.add_argument("--timeout", type=float, default=3600, metavar="SECONDS", help="that one cell may take; default 3600")
    parser.add_argument("--html", action="store_true", help="render the executed notebook too")


def apps(args: argparse.Namespace) -> None:
    """Serve the apps and print their address; they open on the runs given, or on all in runs/.

    workbench apps runs/demo --port 5006 --show
    """
    from workbench import notebooks

    found = sorted(notebooks.house("apps").glob("[!_]*.py"))
    runs = args.runs or sorted(str(path.parent) for path in Path("runs").rglob("run.json") if "denoisers" not in path.parts)
    _serve_apps(found, runs, args)


def apps_options(parser: argparse.ArgumentParser) -> None:
    """Adds the runs and where to serve."""
    parser.add_argument("runs", nargs="*", help="by default all in runs/")
    _address_options(parser)


def know(args: argparse.Namespace) -> None:
    """Serve the app that draws what runs still know of an image, and print its address; without a run, on one that came along.

    workbench know
    workbench know runs/mine --data garments --show
    """
    from workbench import notebooks

    for path in args.runs:
        if not Path(path).exists():
            raise UsageError(f"{path} is no run: it does not exist; `workbench train` makes one, `workbench know` needs none")
    if args.data:
        find_data(args.data)
    app = notebooks.house("apps") / "rcdm.py"
    _serve_apps([app], [*args.runs, *(["--data", args.data] if args.data else [])], args)


def know_options(parser: argparse.ArgumentParser) -> None:
    """Adds the runs, the images and where to serve."""
    parser.add_argument("runs", nargs="*", help="with denoisers (`workbench denoise RUN`), or folders of runs")
    parser.add_argument("--data", help="images to choose from; by default held-out ones of each run's kind")
    _address_options(parser)


def _serve_apps(found: Sequence[Path], given: Sequence[str], args: argparse.Namespace) -> None:
    port = args.port or _free_port(5006)
    shown = [f"http://{args.address}:{port}/{app.stem}" for app in found]
    print("\n".join(["the apps are at" if len(found) > 1 else "the app is at", *shown, "Ctrl-C ends them"]), flush=True)
    command = [sys.executable, "-m", "panel", "serve", *map(str, found), "--port", str(port), "--address", args.address]
    command += ["--show"] * args.show + ["--args", *given] * bool(given)
    _serve(command)


def _address_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, help="by default 5006, or the next that is free")
    parser.add_argument("--address", default="localhost", help="to listen at; default localhost")
    parser.add_argument("--show", action="store_true", help="open a browser")


def lab(args: argparse.Namespace) -> None:
    """Open JupyterLab on the notebooks, with the figures' scripts inline, so that no internet is needed."""
    from workbench import notebooks

    os.environ.setdefault("PANEL_INLINE", "True")
    _serve([sys.executable, "-m", "jupyter", "lab", str(notebooks.house("notebooks")), *args.jupyter])


def lab_options(parser: argparse.ArgumentParser) -> None:
    """Adds what is passed on."""
    parser.add_argument("jupyter", nargs=argparse.REMAINDER, help="options of `jupyter lab`")


def _serve(command: Sequence[str]) -> None:
    """Runs a server until it ends, or Ctrl-C or the end of this process ends it."""
    with subprocess.Popen(command) as server, _passed_on(server):
        try:
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            return
    if code and code != -signal.SIGTERM:
        raise RuntimeError(f"{' '.join(command[2:4])} ended with exit code {code}; its own words stand above")


@contextmanager
def _passed_on(server: subprocess.Popen) -> Iterator[None]:
    """While entered, what would end this process ends the server, and with it this process."""
    kinds = [kind for kind in ("SIGTERM", "SIGHUP") if hasattr(signal, kind)]
    if threading.current_thread() is not threading.main_thread():
        kinds = []  # only there can signals be caught
    before = {kind: signal.signal(getattr(signal, kind), lambda *_: server.terminate()) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(getattr(signal, kind), handler)


def _free_port(first: int) -> int:
    import socket

    for port in range(first, first + 100):
        with socket.socket() as s:
            if s.connect_ex(("localhost", port)):
                return port
    raise RuntimeError(f"no port from {first} to {first + 99} is free; name one with --port")


def device(_: argparse.Namespace) -> None:
    """Say what this machine would train on."""
    import platform

    import torch

    from workbench import __version__

    print(f"workbench {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"CPU: {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch")
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        half = "with" if torch.cuda.is_bf16_supported(including_emulation=False) else "without"
        print(f"GPU {i}: {about.name}, {about.total_memory / 2**30:.0f} GiB, {half} bf16")
    if not torch.cuda.is_available():
        print("GPU: none that torch can use; training runs on the CPU")
