"""Images a second that a denoiser draws and is trained with, beside loops written by hand of the same parts of diffusers.

One UNet of 32 pixels, one scheduler, the same steps, noise and representations. Everything runs in this one process, rounds
alternate between the contenders, and medians are shown with the ratio of the hand-written loop, taken round by round.

- ``sample``: ``RCDMPipeline``; ``plain``: the loop of diffusers' own examples around the UNet and the scheduler, which is given
  the condition ready made. ``guided``: the same two with guidance 2, two passes a step.
- ``train``: a step of ``diffusion_loss`` on ``RCDMPipeline.predict`` and AdamW; ``plain``: that step written out.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --conditioning cbn
    python benchmarks/sampling.py --device cuda --widths 128 256 256 256 --layers 2 --compile --bf16

Seconds are of the wall's clock, and on a processor of its own clock too, which other work on the machine disturbs less.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from workbench.generate.rcdm import RCDMPipeline, build_denoiser
from workbench.objectives.denoising import diffusion_loss

D, TOKENS = 64, 16


def loop(pipe: RCDMPipeline, h: torch.Tensor, start: torch.Tensor, steps: int, guidance: float) -> torch.Tensor:
    """Draws by hand, in [0, 1]."""
    with torch.no_grad():
        told = pipe.projector(h)
        null = pipe.projector.nothing(len(h))
        name = "encoder_hidden_states" if told.ndim == 3 else "class_labels"
        pipe.scheduler.set_timesteps(steps, device=start.device)
        x = start
        for t in pipe.scheduler.timesteps:
            if guidance == 1:
                said = pipe.unet(x, t, **{name: told}).sample
            else:
                without, given = pipe.unet(torch.cat([x, x]), t, **{name: torch.cat([null, told])}).sample.chunk(2)
                said = without + guidance * (given - without)
            x = pipe.scheduler.step(said, t, x).prev_sample
        return (x.float() / 2 + 0.5).clamp(0, 1)


def step_by_hand(pipe: RCDMPipeline, x: torch.Tensor, h: torch.Tensor, optimiser: torch.optim.Optimizer) -> None:
    """Takes a step of flow matching, a tenth of the representations withheld."""
    noise, s = torch.randn_like(x), torch.randn(len(x), device=x.device).sigmoid()
    told = pipe.projector(h)
    away = torch.rand(len(x), device=x.device) < 0.1
    told = torch.where(away.view(-1, *[1] * (told.ndim - 1)), pipe.projector.null, told)
    name = "encoder_hidden_states" if told.ndim == 3 else "class_labels"
    image, share = 2 * x - 1, s[:, None, None, None]
    said = pipe.unet((1 - share) * image + share * noise, 1000 * s, **{name: told}).sample
    torch.nn.functional.mse_loss(said.float(), noise - image).backward()
    optimiser.step()
    optimiser.zero_grad()


def step(pipe: RCDMPipeline, x: torch.Tensor, h: torch.Tensor, optimiser: torch.optim.Optimizer) -> None:
    """Takes the same step as the docstring of ``diffusion_loss`` has it."""
    diffusion_loss(pipe.predict, x, h).backward()
    optimiser.step()
    optimiser.zero_grad()


def contenders(pipe: RCDMPipeline, a: argparse.Namespace) -> dict[str, Callable]:
    """Returns pairs of what is timed, ours and by hand, by name."""
    torch.manual_seed(0)
    device, dtype = a.device, torch.bfloat16 if a.bf16 else torch.float32
    h = torch.randn((a.batch, *pipe.projector.shape), device=device)
    start = torch.randn(a.batch, 3, a.size, a.size, device=device, dtype=dtype)
    drawing = pipe.to(device, dtype)
    drawing.unet.eval()
    if a.compile:
        drawing.unet.compile()
    ours = lambda w: drawing(h, latents=start, num_inference_steps=a.steps, guidance_scale=w).images  # noqa: E731
    plain = lambda w: loop(drawing, h, start, a.steps, w)  # noqa: E731
    for w in (1.0, 2.0):
        off = float((ours(w) - plain(w)).abs().max())
        print(f"guidance {w:g}: images differ by {off:.1g}")
    return {
        "sample": lambda: ours(1.0),
        "sample plain": lambda: plain(1.0),
        "guided": lambda: ours(2.0),
        "guided plain": lambda: plain(2.0),
    }


def trainers(pipe: RCDMPipeline, a: argparse.Namespace) -> dict[str, Callable]:
    """Returns a step of training, ours and by hand, in float32 weights and, where asked, autocast."""
    x = torch.rand(a.batch, 3, a.size, a.size, device=a.device)
    h = torch.randn((a.batch, *pipe.projector.shape), device=a.device)
    pipe.to(a.device)
    pipe.unet.train()
    if a.compile:
        pipe.unet.compile()
    learned = [*pipe.unet.parameters(), *pipe.projector.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=1e-5, fused=a.device == "cuda")

    def within(call: Callable) -> None:
        with torch.autocast(torch.device(a.device).type, torch.bfloat16, enabled=a.bf16):
            call(pipe, x, h, optimiser)

    return {"train": lambda: within(step), "train plain": lambda: within(step_by_hand)}


def took(call: Callable, device: str) -> tuple[float, float]:
    """Returns seconds of the wall's clock and of the processor's."""
    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--conditioning", default="adagn", choices=["adagn", "cbn", "xattn"])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 64])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    tokens = TOKENS if a.conditioning == "xattn" else None
    settings = {"layers": a.layers, "conditioning": a.conditioning, "tokens": tokens}
    pipes = [build_denoiser(D, a.size, a.widths, **settings) for _ in range(2)]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    timed = contenders(pipes[0], a) | trainers(pipes[1], a)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for k in range(a.rounds + 1):
        names = list(timed) if k % 2 else list(reversed(timed))
        for name in names:
            seen[name].append(took(timed[name], a.device))
    where = torch.cuda.get_device_name() if a.device == "cuda" else f"{a.threads} thread(s)"
    size = sum(p.numel() for p in pipes[0].unet.parameters())
    print(f"{a.conditioning}, {size / 1e6:.2f} M parameters, {a.batch} images of {a.size} pixels, {a.steps} steps, {where}")
    print(f"{'':<14}{'s':>9}{'processor s':>13}{'images/s':>10}{'  plain/ours, wall and processor':>34}")
    for name, times in seen.items():
        wall, cpu = (statistics.median(t[i] for t in times[1:]) for i in (0, 1))
        ratio = ""
        if f"{name} plain" in seen:
            pairs = list(zip(seen[f"{name} plain"][1:], times[1:], strict=True))
            ratio = "".join(
                f"{statistics.median(theirs[i] / max(mine[i], 1e-9) for theirs, mine in pairs):>12.3f}" for i in (0, 1)
            )
        print(f"{name:<14}{wall:>9.3f}{cpu:>13.3f}{a.batch / wall:>10.1f}{ratio}")


if __name__ == "__main__":
    main()
