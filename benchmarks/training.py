"""How many images a second a SimCLR step takes, from uint8 images in memory to the optimiser's step, beside other libraries.

Every contender gets the same network, images, batch size and distribution of views (crop .08-1, flip, jitter .8/.8/.8/.2 at
p .8, grey .2; blur at 224 px), and runs in a process of its own, one after the other, several rounds of all; medians are shown.

- ``workbench``: ``Trainer.steps`` as it comes; ``workbench fp32``: the same without autocast; ``workbench no views``: the images
  as they are in place of views, so that the difference is what views cost; ``workbench deterministic``: with convolutions that
  give the same bits each time, which a GPU's need not.
- ``torchvision``: the step of ``workbench`` written by hand (on a GPU with autocast; channels last, fused AdamW, the same loss),
  of views by torchvision's transforms v2 on uint8 tensors in the workers of a DataLoader, into pinned memory.
- ``lightly``: its published SimCLR example: a torchvision data set of PIL images, ``SimCLRTransform`` in the workers of a
  DataLoader, two forward passes, ``NTXentLoss``, fp32. ``lightly equal``: with the workbench's autocast and memory layout.
- ``stable-pretraining``: its CIFAR-10 SimCLR script without loggers and probes: ``MultiViewTransform`` in workers, Lightning;
  mixed precision on a GPU, as there, and fp32 on a processor. ``... equal``: with bf16 and the channels last.
  ``... batched``: its Kornia views on the device, ``StackedMultiView``.

    python benchmarks/training.py
    python benchmarks/training.py --device cuda --model resnet18 --batch 512 --steps 100
    python benchmarks/training.py --device cuda --model timm:vit_small_patch16_224 --size 224 --batch 256 --steps 50
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn as nn


@dataclasses.dataclass(frozen=True)
class Task:
    """What all contenders do; ``steps`` are timed, after ``warm`` that are not."""

    model: str = "convnet"
    size: int = 32
    batch: int = 256
    steps: int = 30
    warm: int = 5
    device: str = "cpu"
    workers: int = 2
    threads: int = 0
    compile: bool = False

    @property
    def blur(self) -> float:
        return 0.5 if self.size > 64 else 0.0

    def images(self) -> np.ndarray:
        n = max(4 * self.batch, 20_000 * 32**2 // self.size**2)
        return np.random.default_rng(0).integers(0, 256, (n, self.size, self.size, 3), dtype=np.uint8)

    def network(self, *, normalise: bool) -> nn.Module:
        """The encoder; where the views are normalised already, a plain chain of backbone and projector."""
        from workbench.models.building import build_encoder

        torch.manual_seed(0)
        encoder = build_encoder(self.model, [128, 128], image_size=self.size, mean=MEAN, std=STD)
        return encoder if normalise else nn.Sequential(encoder.backbone, encoder.projector)


MARK = "measured "
ROOT = Path(__file__).parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Clock:
    """Counts steps; knows the time of those after the warm-up, and how much of it went into waiting for data."""

    def __init__(self, task: Task):
        self.task, self.count, self.waited = task, 0, 0.0

    def step(self, waited: float) -> bool:
        """Called after every step with the seconds that it waited for data; True when enough was measured."""
        self.count += 1
        if self.count <= self.task.warm:
            if self.count == self.task.warm:
                self.start, self.work = self.now(), self.cpu()
            return False
        self.waited += waited
        if self.count < self.task.warm + self.task.steps:
            return False
        self.took, self.worked = self.now() - self.start, self.cpu() - self.work
        return True

    def now(self) -> float:
        if self.task.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def cpu(self) -> float:
        """Processor seconds of this process and its workers: of use on a machine that does other work too."""
        import psutil

        me = psutil.Process()
        times = [p.cpu_times() for p in (me, *me.children(recursive=True))]
        return sum(t.user + t.system for t in times)

    def result(self) -> dict[str, float]:
        images = self.task.steps * self.task.batch
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.task.device == "cuda" else float("nan")
        return {
            "images/s": images / self.took,
            "images/core s": images / self.worked,
            "waiting": self.waited / self.took,
            "GiB": peak,
        }


class Pictures(torch.utils.data.Dataset):
    """PIL images (or uint8 tensors) and a label, as torchvision's data sets give them; as many as the benchmark asks for."""

    def __init__(self, pixels: np.ndarray, length: int, transform: Callable | None = None, *, tensors: bool = False):
        self.pixels, self.length, self.transform, self.tensors = pixels, length, transform, tensors

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple:
        from PIL import Image

        pixels = self.pixels[i % len(self.pixels)]
        image = torch.from_numpy(pixels).permute(2, 0, 1) if self.tensors else Image.fromarray(pixels)
        return (self.transform(image) if self.transform else image), 0


def workbench(task: Task, *, precision: str = "auto", plain: bool = False, deterministic: bool = False) -> Clock:
    from workbench.data.images import Images
    from workbench.objectives.simclr import SimCLR
    from workbench.train import Trainer
    from workbench.views.augment import Augment
    from workbench.views.plain import Plain

    torch.backends.cudnn.deterministic = deterministic

    pixels = torch.from_numpy(task.images()).permute(0, 3, 1, 2).contiguous()
    images = Images(pixels, pd.DataFrame(index=range(len(pixels))), "noise")
    views = Augment(2, scale=(0.08, 1), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, grey=0.2, blur=task.blur)
    epochs = -(-(task.warm + task.steps) // (len(images) // task.batch))
    trainer = Trainer(
        epochs=epochs, batch_size=task.batch, device=task.device, precision=precision, compile=task.compile, warmup=0
    )
    clock = Clock(task)
    training = trainer.steps(task.network(normalise=True), SimCLR(temperature=0.5), images, Plain(2) if plain else views)
    for step in training:
        if clock.step(step.waiting * task.batch / step.rate):
            return clock
    raise RuntimeError("too few steps")


def torchvision(task: Task) -> Clock:
    from torchvision.transforms import v2

    from workbench.objectives.simclr import nt_xent

    view = v2.Compose(
        [
            v2.RandomResizedCrop(task.size, scale=(0.08, 1)),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            *([v2.RandomApply([v2.GaussianBlur(task.size // 20 * 2 + 1, (0.1, 2.0))], p=task.blur)] if task.blur else []),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    model = task.network(normalise=True).to(task.device, memory_format=torch.channels_last).train()
    data = Pictures(task.images(), (task.warm + task.steps) * task.batch, lambda image: (view(image), view(image)), tensors=True)
    loader = torch.utils.data.DataLoader(
        data, task.batch, shuffle=True, drop_last=True, num_workers=task.workers, pin_memory=task.device == "cuda"
    )
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    clock, asked = Clock(task), time.perf_counter()
    for pair, _ in loader:
        got = time.perf_counter()
        x = torch.cat([x.to(task.device, non_blocking=True) for x in pair]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(task.device, torch.bfloat16, enabled=task.device == "cuda"):
            z1, z2 = model(x).z.chunk(2)
        nt_xent(z1, z2, temperature=0.5).backward()
        optimiser.step()
        optimiser.zero_grad()
        if clock.step(got - asked):
            return clock
        asked = time.perf_counter()
    raise RuntimeError("too few steps")


def lightly(task: Task, *, equal: bool = False) -> Clock:
    from lightly.loss import NTXentLoss
    from lightly.transforms.simclr_transform import SimCLRTransform

    model = task.network(normalise=False).to(task.device)
    if equal:
        model = model.to(memory_format=torch.channels_last)
    data = Pictures(task.images(), (task.warm + task.steps) * task.batch, SimCLRTransform(task.size, gaussian_blur=task.blur))
    loader = torch.utils.data.DataLoader(data, task.batch, shuffle=True, drop_last=True, num_workers=task.workers)
    criterion, optimiser = NTXentLoss(), torch.optim.SGD(model.parameters(), lr=0.06)
    clock, asked = Clock(task), time.perf_counter()
    for (x0, x1), _ in loader:
        got = time.perf_counter()
        x0, x1 = x0.to(task.device), x1.to(task.device)
        if equal:
            x0, x1 = (x.contiguous(memory_format=torch.channels_last) for x in (x0, x1))
        with torch.autocast(task.device, torch.bfloat16, enabled=equal):
            z0, z1 = model(x0), model(x1)
        loss = criterion(z0.float(), z1.float())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if clock.step(got - asked):
            return clock
        asked = time.perf_counter()
    raise RuntimeError("too few steps")


def stable_pretraining(task: Task, *, equal: bool = False, batched: bool = False) -> Clock:
    import lightning
    import stable_pretraining as spt
    from stable_pretraining.forward import simclr

    clock = Clock(task)
    data = Pictures(task.images(), (task.warm + task.steps) * task.batch)
    made = (_batched if batched else _in_workers)(task)
    pin = {"pin_memory": True} if batched and task.device == "cuda" else {}
    loader = torch.utils.data.DataLoader(
        spt.data.FromTorchDataset(data, names=["image", "label"], **made),
        task.batch, shuffle=True, drop_last=True, num_workers=task.workers, **pin,
    )  # fmt: skip
    network = task.network(normalise=False)
    if equal:
        network = network.to(memory_format=torch.channels_last)
    module = spt.Module(
        backbone=network[0],
        projector=network[1],
        forward=simclr,
        simclr_loss=spt.losses.NTXEntLoss(temperature=0.5),
        optim={"optimizer": {"type": "AdamW", "lr": 1e-3}},
    )

    class Timer(lightning.Callback):
        asked = time.perf_counter()

        def on_train_batch_start(self, *_: object) -> None:
            self.waited = time.perf_counter() - self.asked

        def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
            if clock.step(self.waited):
                trainer.should_stop = True
            self.asked = time.perf_counter()

    usual = "16-mixed" if task.device == "cuda" else "32-true"
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="gpu" if task.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if equal else usual,
        callbacks=[Timer()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    spt.Manager(trainer=trainer, module=module, data=spt.data.DataModule(train=loader))()
    return clock


def _in_workers(task: Task) -> dict[str, object]:
    from stable_pretraining.data import transforms as t

    def view() -> t.Compose:
        blurs = [t.PILGaussianBlur(sigma=(0.1, 2.0), p=task.blur)] if task.blur else []
        return t.Compose(
            t.RGB(),
            t.RandomResizedCrop((task.size, task.size), scale=(0.08, 1.0)),
            t.RandomHorizontalFlip(p=0.5),
            t.ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, p=0.8),
            t.RandomGrayscale(p=0.2),
            *blurs,
            t.ToImage(mean=MEAN, std=STD),
        )

    return {"transform": t.MultiViewTransform([view(), view()])}


def _batched(task: Task) -> dict[str, object]:
    from stable_pretraining.data import gpu_transforms as g
    from stable_pretraining.data import transforms as t

    chain = [
        g.GPURandomResizedCrop(task.size),
        g.GPURandomHorizontalFlip(),
        g.GPUColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        g.GPURandomGrayscale(p=0.2),
        *([g.GPUGaussianBlur(p=task.blur)] if task.blur else []),
        g.GPUNormalize(mean=MEAN, std=STD),
    ]
    return {
        "transform": t.Compose(t.RGB(), t.ToImage()),
        "gpu_transform": g.StackedMultiView(g.GPUCompose(chain, compile=task.compile)),
    }


CONTENDERS: dict[str, Callable[[Task], Clock]] = {
    "workbench": workbench,
    "workbench fp32": lambda task: workbench(task, precision="fp32"),
    "workbench no views": lambda task: workbench(task, plain=True),
    "workbench deterministic": lambda task: workbench(task, deterministic=True),
    "torchvision": torchvision,
    "lightly": lightly,
    "lightly equal": lambda task: lightly(task, equal=True),
    "stable-pretraining": stable_pretraining,
    "stable-pretraining equal": lambda task: stable_pretraining(task, equal=True),
    "stable-pretraining batched": lambda task: stable_pretraining(task, equal=True, batched=True),
}


def installed(contender: str) -> bool:
    return contender.startswith("workbench") or importlib.util.find_spec(contender.split()[0].replace("-", "_")) is not None


def alone(contender: str, task: Task) -> dict[str, float]:
    """Runs one contender once in a fresh process."""
    asked = [sys.executable, __file__, "--alone", contender, json.dumps(dataclasses.asdict(task))]
    threads = {"OMP_NUM_THREADS": str(task.threads)} if task.threads else {}
    places = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"WANDB_MODE": "disabled", "PYTHONPATH": places} | threads
    done = subprocess.run(asked, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{contender} failed:\n{done.stderr[-2000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith(MARK)).removeprefix(MARK))


def table(rows: list[dict]) -> pd.DataFrame:
    """Medians over the rounds, the spread of images/s, and how many times faster the workbench is."""
    rows = pd.DataFrame(rows)
    medians = rows.groupby("contender", sort=False).median(numeric_only=True)
    medians.insert(1, "from", rows.groupby("contender", sort=False)["images/s"].min())
    medians.insert(2, "to", rows.groupby("contender", sort=False)["images/s"].max())
    medians.insert(3, "views/s", 2 * medians["images/s"])
    ours = medians.loc["workbench"] if "workbench" in medians.index else medians.iloc[0]
    medians["times slower"] = ours["images/s"] / medians["images/s"]
    medians["per core s"] = ours["images/core s"] / medians["images/core s"]
    return medians.dropna(axis=1, how="all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for setting in dataclasses.fields(Task):
        if setting.name == "compile":
            parser.add_argument("--compile", action="store_true")
        else:
            parser.add_argument(f"--{setting.name}", type=type(setting.default), default=setting.default)
    parser.set_defaults(workers=min(8, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--out", type=Path, help="where to write the table as CSV")
    chosen = vars(parser.parse_args())
    rounds, only, out = chosen.pop("rounds"), chosen.pop("only"), chosen.pop("out")
    task = Task(**chosen)
    rows = []
    for k in range(rounds):
        for contender in filter(installed, only):
            rows.append({"contender": contender, "round": k} | alone(contender, task))
            print(f"{k} {contender:28} {rows[-1]['images/s']:10,.0f} images/s", file=sys.stderr, flush=True)
    shown = table(rows).drop(columns="round")
    print(task, f"{torch.get_num_threads()} threads, torch {torch.__version__}", sep="\n")
    print(shown.to_string(float_format=lambda v: f"{v:,.2f}" if v < 100 else f"{v:,.0f}"))
    if out:
        shown.to_csv(out)


if __name__ == "__main__":
    if "--alone" in sys.argv:
        _, _, name, settings = sys.argv
        measured = CONTENDERS[name](Task(**json.loads(settings))).result()
        print(MARK + json.dumps(measured), flush=True)
    else:
        main()
