"""Denoisers of a run's layers from a shell."""

import argparse

from workbench.cli.typed import data_option, given_images, run_option


def denoise(args: argparse.Namespace) -> None:
    """Train what draws images of a run's representations, a layer at a time; it stays with the run. The same command goes on.

    workbench denoise runs/mine --layers backbone projector
    workbench denoise runs/mine --layers backbone --widths 192 384 576 768 --attention 2 --epochs 100 --batch-size 512
    """
    from workbench.run import Run
    from workbench.sampling import train_denoiser, usual_trainer

    run = Run(args.run, allow=args.allow)
    images = given_images(args, run) or run.images()
    asked = {k: getattr(args, k) for k in ("epochs", "batch_size", "lr", "seed", "compile") if getattr(args, k) is not None}
    trainer = usual_trainer(images, **asked)
    settings = {k: getattr(args, k) for k in ("widths", "prediction", "conditioning", "minutes") if getattr(args, k) is not None}
    for layer in args.layers:
        sizes = {"attention": args.attention, "layers": args.blocks}
        made = train_denoiser(run, layer, images, trainer=trainer, progress=not args.no_progress, **settings, **sizes)
        loss = made.metrics["loss"].iloc[-1] if len(made.metrics) else float("nan")
        print(f"{layer}: {made!r}, loss {loss:.4g}")
    given = f" --data {args.data}" if args.data else ""
    print(f"next: workbench know {run.path}{given}")


def denoise_options(parser: argparse.ArgumentParser) -> None:
    """Adds the run, the layers, and the settings of the denoiser and its training."""
    add = parser.add_argument
    run_option(parser)
    data_option(parser, "images to draw; by default those of the run")
    add("--layers", nargs="+", default=["backbone", "projector"], help="module paths; default backbone projector")
    add("--widths", nargs="+", type=int, help="filters of each level; default 32 64, or 16 32 64 above 16 pixels")
    add("--blocks", type=int, default=1, help="residual blocks a level; default 1")
    add("--attention", type=int, default=0, help="how many of the last levels attend over space; default 0")
    add("--prediction", help="flow, epsilon, v or edm; default flow")
    add("--conditioning", help="adagn, cbn or xattn; default adagn")
    add("--epochs", type=int, help="by default so many that there are about 675 steps")
    add("--batch-size", type=int, help="default 64")
    add("--lr", type=float, help="default 2e-3")
    add("--seed", type=int, help="default 0")
    add("--compile", action="store_true", help="compile the step; pays on a GPU after a minute")
    add("--minutes", type=float, help="stop each training after so much, to be gone on with")
    add("--no-progress", action="store_true", help="show no bar")
