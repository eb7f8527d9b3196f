"""How many views a second: random crop, flip, jitter, grey (and blur above 64 px) of uint8 images in memory, beside peers.

Every contender draws from the same distributions: crop of area .2-1 and ratio 3/4-4/3, flip .5, jitter .4/.4/.2/.1 at p .8,
grey .2; above 64 px a Gaussian blur at p .5. Rounds alternate between the contenders, medians are shown. On a CPU everything
runs on one thread and is timed by the processor's own clock, so that other work on the machine counts less.

- ``workbench``: ``Augment``.
- ``kornia``: its modules on the float batch; ``kornia resample`` has the crop's other implementation.
- ``lightly``: ``SimCLRTransform`` on PIL images, one by one, as its data loaders call it.
- ``torchvision``: transforms v2 on uint8 tensors, one by one; ``torchvision batch`` on the whole float batch, which then gets
  the same crop, flip and jitter for every image: no substitute, but the price of the bare operations.

    python benchmarks/views.py
    python benchmarks/views.py --size 224 --batch 16
    python benchmarks/views.py --device cuda --size 224 --batch 256
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

SCALE, RATIO, JITTER, JITTER_P, GREY, SIGMA = (0.2, 1.0), (3 / 4, 4 / 3), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, (0.1, 2.0)

Maker = Callable[[Tensor], None]  # makes two views of every image of a uint8 batch


def workbench(size: int, blur: float) -> Maker:
    from workbench.views.augment import Augment

    views = Augment(2, size=size, scale=SCALE, ratio=RATIO, jitter=JITTER, jitter_p=JITTER_P, grey=GREY, blur=blur)
    return lambda pixels: views(pixels, torch.arange(len(pixels)))


def kornia(size: int, blur: float, cropping: str = "slice") -> Maker:
    import kornia.augmentation as K

    chain = torch.nn.Sequential(
        K.RandomResizedCrop((size, size), scale=SCALE, ratio=RATIO, cropping_mode=cropping),
        K.RandomHorizontalFlip(0.5),
        K.ColorJitter(*JITTER, p=JITTER_P),
        K.RandomGrayscale(p=GREY),
        *([K.RandomGaussianBlur((window(size),) * 2, SIGMA, p=blur)] if blur else []),
    )
    return lambda pixels: [chain(pixels.float() / 255) for _ in range(2)]


def lightly(size: int, blur: float) -> Maker:
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    views = SimCLRTransform(
        input_size=size,
        cj_prob=JITTER_P,
        cj_strength=1.0,
        cj_bright=JITTER[0],
        cj_contrast=JITTER[1],
        cj_sat=JITTER[2],
        cj_hue=JITTER[3],
        min_scale=SCALE[0],
        random_gray_scale=GREY,
        gaussian_blur=blur,
        sigmas=SIGMA,
        normalize=None,
    )
    decoded: dict[int, list[Image.Image]] = {}

    def make(pixels: Tensor) -> None:
        key = pixels.data_ptr()
        if key not in decoded:
            decoded[key] = [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        made = [views(image) for image in decoded[key]]
        for view in zip(*made, strict=True):
            torch.stack(view).to(pixels.device)

    return make


def torchvision(size: int, blur: float, *, batched: bool = False) -> Maker:
    from torchvision.transforms import v2

    chain = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=SCALE, ratio=RATIO),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(*JITTER)], p=JITTER_P),
            v2.RandomGrayscale(GREY),
            v2.RandomApply([v2.GaussianBlur(window(size), SIGMA)], p=blur),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    if batched:
        return lambda pixels: [chain(pixels.float() / 255) for _ in range(2)]
    return lambda pixels: [torch.stack([chain(p) for p in pixels]) for _ in range(2)]


MAKERS: dict[str, Callable[[int, float], Maker]] = {
    "workbench": workbench,
    "kornia": kornia,
    "kornia resample": lambda size, blur: kornia(size, blur, "resample"),
    "lightly": lightly,
    "torchvision": torchvision,
    "torchvision batch": lambda size, blur: torchvision(size, blur, batched=True),
}


def window(size: int) -> int:
    """The side of the blur's window: about a tenth of the view, odd."""
    return max(3, size // 20 * 2 + 1)


def measure(size: int, batch: int, rounds: int, device: str, only: list[str] | None = None) -> pd.DataFrame:
    """Returns one row a contender and round: views a second."""
    blur = 0.5 if size > 64 else 0.0
    makers = {name: MAKERS[name](size, blur) for name in only or MAKERS}
    pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    rows = []
    for number in range(-1, rounds):  # the first round warms up
        for name, make in makers.items():
            calls, began = 0, clock(device)
            while (taken := clock(device) - began) < 0.3 or not calls:
                make(pixels)
                calls += 1
            if number >= 0:
                rows.append({"maker": name, "size": size, "device": device, "round": number, "value": 2 * batch * calls / taken})
    return pd.DataFrame(rows)


def clock(device: str) -> float:
    """Seconds: of the processor on a CPU, of the wall elsewhere, after what the device was asked has been done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="side of images and views, in pixels")
    parser.add_argument("--batch", type=int, default=256, help="images a batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=list(MAKERS), help="beside the workbench; by default all")
    parser.add_argument("--out", type=Path, help="a CSV file for every round's numbers")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    only = list(dict.fromkeys(["workbench", *options.only])) if options.only else None
    table = measure(options.size, options.batch, options.rounds, options.device, only)
    speed = table.groupby("maker", sort=False)["value"].median()
    where = "one thread" if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"{options.size} px, batch {options.batch}, {where}, torch {torch.__version__}, {platform.machine()}")
    print(f"{'':20}{'views/s':>10}{'workbench is':>16}")
    for name, value in speed.items():
        print(f"{name:20}{value:10,.0f}{speed['workbench'] / value:15.1f}x")
    if options.out:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
