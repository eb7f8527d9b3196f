"""The verbs of the workbench for a shell: each does what the Python call of that name does.

Menus and options are read from the library itself: a data set, an objective or a setting of the trainer that is added there
can be named here at once. Nothing heavy is imported before the verb that needs it runs.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from workbench.cli import factoring, looking, sampling, serving, sweeping, training
from workbench.cli.typed import UsageError, datasets, measures, objectives, view_makers

__all__ = ["main"]

Verb = Callable[[argparse.Namespace], None]
Options = Callable[[argparse.ArgumentParser], None]

VERBS: dict[str, tuple[Verb, Options]] = {
    "train": (training.train, training.train_options),
    "resume": (training.resume, training.resume_options),
    "sweep": (sweeping.run_sweep, sweeping.sweep_options),
    "runs": (looking.list_runs, looking.runs_options),
    "show": (looking.show, looking.show_options),
    "replay": (looking.replay_run, looking.replay_options),
    "features": (looking.features, looking.features_options),
    "measure": (looking.measure, looking.measure_options),
    "evaluate": (looking.evaluate, looking.evaluate_options),
    "factors": (factoring.factors, factoring.factors_options),
    "denoise": (sampling.denoise, sampling.denoise_options),
    "data": (looking.menu(datasets, "List the data sets that need nothing but their name."), looking.no_options),
    "objectives": (looking.menu(objectives, "List the objectives."), looking.no_options),
    "views": (looking.menu(view_makers, "List what makes views of images."), looking.no_options),
    "backbones": (looking.list_backbones, looking.backbones_options),
    "measures": (looking.menu(measures, "List the measures that give one number."), looking.no_options),
    "reproduce": (serving.reproduce, serving.reproduce_options),
    "apps": (serving.apps, serving.apps_options),
    "know": (serving.know, serving.know_options),
    "lab": (serving.lab, serving.lab_options),
    "device": (serving.device, looking.no_options),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns 0, 1 after a failure, 2 where the command line is wrong, 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        args = _parser(argv).parse_args([a for a in argv if a != "--debug"])
        args.run_verb(args)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse ends with 2 after a mistake, with 0 after --help
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt as stop:
        print(f"\nworkbench: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `workbench runs | head`
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            raise
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"workbench: {str(said) or type(error).__name__}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser; only the verb that was typed gets its options, since they may have to be looked up."""
    from workbench import __version__

    lines = argparse.RawDescriptionHelpFormatter
    about = "See what a self-supervised representation learned: train, replay, measure, look, reproduce."
    parser = argparse.ArgumentParser(prog="workbench", description=about)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", action="store_true", help="with any verb: show the traceback of an error")
    verbs = parser.add_subparsers(metavar="VERB", required=True, title="verbs")
    typed = next((a for a in argv if not a.startswith("-")), None)
    for name, (verb, options) in VERBS.items():
        about = (verb.__doc__ or "").strip()
        sub = verbs.add_parser(name, help=about.splitlines()[0].rstrip("."), description=about, formatter_class=lines)
        sub.set_defaults(run_verb=verb)
        if name == typed:
            options(sub)
    return parser
