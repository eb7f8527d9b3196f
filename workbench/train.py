"""Training: an iterator of steps, which :meth:`Trainer.fit` runs to its end and writes to disk.

Every random number of step ``k`` comes from a generator seeded by (seed, k), and the order of epoch ``e`` from (seed, e), so
a run that was stopped anywhere goes on to the very weights it would have had.
"""

import json
import math
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor
from tqdm.auto import tqdm

from workbench import __version__
from workbench.core import Views, mixed_seed
from workbench.data.images import Images
from workbench.distributed import from_first, mean_over_processes, rank, world
from workbench.features import digest
from workbench.lars import LARS
from workbench.models.encoder import main_layers
from workbench.objectives.base import Objective, sample_embedding
from workbench.run import Run, weights
from workbench.spec import describe

__all__ = ["NotFinite", "Step", "Trainer", "Training"]

ViewMaker = Callable[[Tensor, Tensor], Views]


class NotFinite(FloatingPointError):
    """The loss became infinite or not a number. ``step``, ``terms`` and ``lr`` say where, ``kept`` what is left."""

    def __init__(self, step: int, terms: dict[str, float], lr: float, kept: str = "") -> None:
        self.step, self.terms, self.lr = step, terms, lr
        listed = ", ".join(f"{k} {v:.4g}" for k, v in terms.items())
        advice = "lower lr, lengthen warmup or use fp32"
        super().__init__(f"the loss is not finite at step {step} ({listed}; lr {lr:.3g}); {advice}{kept and '; '}{kept}")


class Step(NamedTuple):
    """One step that was taken.

    ``number`` counts from 1; ``epoch`` from 0; ``terms`` are the objective's, without gradient; ``rate`` is in images a second
    and ``waiting`` the share of the step's time, from 0 to 1, in which pixels were fetched and views made (on the host's clock).
    """

    number: int
    epoch: int
    lr: float
    terms: dict[str, Tensor]
    rate: float
    waiting: float


class System(nn.Module):
    """Model and objective as one module, so that what wraps a module (several GPUs, compilation) wraps both."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, views: Views) -> dict[str, Tensor]:
        return self.objective(self.model, views)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Settings of a training run. It holds no state: the same trainer may train many.

    Arguments:
        epochs: Passes over the images; a last incomplete batch is dropped.
        batch_size: Images a step, over all processes together.
        lr: Highest learning rate, reached after the warm-up; it is not scaled by the batch size.
        weight_decay: On matrices and filters; never on biases and norms.
        optimizer: ``"adamw"``, ``"sgd"`` (Nesterov momentum 0.9) or ``"lars"``.
        layer_decay: What the rate is multiplied by for each stage (of :func:`workbench.models.main_layers`) that a parameter
            of the backbone lies below the last layer, from above 0 to 1: with L stages, stage l of them has the rate
            ``lr * layer_decay ** (L + 1 - l)``, and what comes before the first (l = 0) the lowest. 1 gives all the same;
            fine-tuned vision transformers want .65 to .85.
        warmup: Share of the steps, from 0 to 1, in which the rate rises linearly; then it falls to 0 as a cosine (but not that
            of what an objective names ``undecayed``: SimSiam's predictor).
        precision: ``"fp32"``, ``"bf16"`` (autocast) or ``"auto"``: bf16 where the device computes in it.
        device: ``"auto"`` (a GPU where there is one), ``"cpu"`` or ``"cuda"``.
        seed: Of the order of the images, of the views and of what the objective draws.
        compile: Whether to compile the step; pays on a GPU after a minute.

    Raises:
        ValueError: If a setting lies outside its range.
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    warmup: float = 0.1
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    compile: bool = field(default=False)
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        _one_of("optimizer", self.optimizer, ("adamw", "sgd", "lars"))
        _one_of("precision", self.precision, ("auto", "bf16", "fp32"))
        _one_of("device", self.device, ("auto", "cpu", "cuda"))
        for name, low, high in [
            ("epochs", 1, 1e9),
            ("batch_size", 2, 1e9),
            ("lr", 0, 1e6),
            ("weight_decay", 0, 1e6),
            ("warmup", 0, 1),
            ("layer_decay", 0, 1),
        ]:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name} must be a number between {low:g} and {high:g}, but is {value!r}")
            if not low <= value <= high:
                raise ValueError(f"{name} must lie between {low:g} and {high:g}, but is {value}")
            if name in ("epochs", "batch_size") and value != int(value):
                raise ValueError(f"{name} must be a whole number, but is {value}")
        if self.layer_decay == 0:
            raise ValueError(
                "layer_decay must be above 0, or the layers below learn nothing; freeze them by Encoder(frozen=True)"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError('device is "cuda", but torch sees no GPU here; use device="auto" or "cpu"')

    def total(self, images: Images) -> int:
        """Returns the number of steps on these images."""
        if len(images) < self.batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, but {images.name} has {len(images)} images: lower batch_size to at most that"
            )
        return self.epochs * (len(images) // self.batch_size)

    def rate(self, step: int, total: int) -> float:
        """Returns the learning rate of step ``step`` (from 1) of ``total``: linear warm-up, then a cosine to 0."""
        warm = self.warmup * total
        fallen = max(step - warm, 0) / max(total - warm, 1)
        return self.height(step, total) * (0.5 + 0.5 * math.cos(math.pi * fallen))

    def height(self, step: int, total: int) -> float:
        """Returns the rate that does not decay: linear warm-up, then ``lr``."""
        warm = self.warmup * total
        return self.lr * (step / warm if step < warm else 1)

    def steps(self, model: nn.Module, objective: Objective, images: Images, views: ViewMaker) -> "Training":
        """Returns an iterator that trains ``model`` in place, one step at a time. Stop iterating to stop training.

        Every step seeds torch's global generators, so that it can be taken again. Under several processes BatchNorm sees the
        batch of all of them on GPUs; on CPUs each its own share. Interrupting the iterator itself may fall inside a step; ``fit``
        always ends on a whole one.

        Example:
            >>> from itertools import islice
            >>> import workbench as wb
            >>> images = wb.garments(64)
            >>> model = wb.Encoder(wb.ConvNet(4), wb.Projector([wb.ConvNet(4).out, 8]))
            >>> training = Trainer(epochs=1, batch_size=16).steps(model, wb.SimCLR(), images, wb.Augment())
            >>> [step.number for step in islice(training, 3)]
            [1, 2, 3]
        """
        return Training(self, model, objective, images, views)

    def fit(
        self,
        model: nn.Module,
        objective: Objective,
        images: Images,
        views: ViewMaker,
        *,
        out: str | Path,
        resume: bool = False,
        log_every: int = 10,
        snapshots: int = 24,
        checkpoint_seconds: float = 30.0,
        minutes: float | None = None,
        watch: Callable[[nn.Module], dict[str, float]] | None = None,
        progress: bool = True,
    ) -> Run:
        """Trains to the end, writes a run to the folder ``out`` and returns it.

        Arguments:
            resume: Whether to go on with the run that stands in ``out`` (with the same settings); without one, start.
            log_every: Steps between rows of the metrics.
            snapshots: About how many weights to keep, log-spaced from step 0 to the last, so that early training can be replayed.
            checkpoint_seconds: At most so much work is lost when the process is killed.
            minutes: Stop after so much training, keep all, and return the run unfinished; ``resume=True`` goes on with it.
            watch: ``watch(model)`` gives values that join each logged row; called in evaluation mode.
            progress: Whether to show a bar: images a second, time left, loss, share of time waiting for data.

        Raises:
            FileExistsError: If ``out`` holds a run and ``resume`` is false.
            ValueError: If the run to resume has other settings; the message lists them.
            NotFinite: If the loss is not finite; what was good is kept.
            RuntimeError: If another process trains into ``out``.
            KeyboardInterrupt: After Ctrl-C, with the checkpoint written; the message says how to go on.
        """
        out = Path(out)
        if log_every < 1:
            raise ValueError(f"log_every is a number of steps, at least 1, but is {log_every}")
        training = self.steps(model, objective, images, views)
        spec = json.loads(json.dumps(self._record(training)))
        goes_on = resume and (out / "run.json").exists()
        training.accelerator.wait_for_everyone()  # all have looked before the first process makes the folder
        if goes_on:
            run = Run(out)
            _same(run, spec)
            training.load(run)
        else:
            run = Run.create(out, spec) if rank() == 0 else None
            training.accelerator.wait_for_everyone()
            run = run or Run(out)
        recorder = _Recorder(training, run, log_every, snapshots, checkpoint_seconds, watch)
        with run.writing() if rank() == 0 else nullcontext():
            return recorder.record(minutes=minutes, progress=progress)

    def _record(self, training: "Training") -> dict[str, Any]:
        images = training.images
        return {
            "trainer": describe(self),
            "model": _described(training.model),
            "objective": _described(training.objective),
            "views": _described(training.views),
            "images": {
                "name": images.name,
                "n": len(images),
                "shape": list(training.shape),
                "digest": digest(images),
                "recipe": images.recipe,
            },
            "total": training.total,
            "made": {
                "with": {"workbench": __version__, "torch": torch.__version__, "python": platform.python_version()},
                "on": torch.cuda.get_device_name() if training.device.type == "cuda" else f"{platform.machine()} CPU",
                "precision": training.precision,
                "processes": world(),
                "commit": _commit(),
                "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        }


class Training(Iterator[Step]):
    """Training in progress: iterate to train, stop to stop.

    ``lr_factor`` multiplies the learning rate from the next step on; ``model`` and ``objective`` may be looked at between steps.
    """

    def __init__(self, trainer: Trainer, model: nn.Module, objective: Objective, images: Images, views: ViewMaker) -> None:
        self.total = trainer.total(images)
        self.trainer, self.model, self.objective, self.views = trainer, model, objective, views
        self.number, self.lr_factor = 0, 1.0
        self.accelerator = _accelerator(trainer)
        self.device, self.precision = self.accelerator.device, self.accelerator.mixed_precision
        if trainer.batch_size % world():
            raise ValueError(
                f"batch_size {trainer.batch_size} cannot be shared evenly by {world()} processes; make it a multiple"
            )
        self.images = _resident(images, self.device)
        self._seed(-1)
        model.to(self.device)
        self.shape = tuple(views(self.images.at([0, 1]), torch.arange(2)).images[0].shape[1:])  # (C, H, W) of a view
        objective.to(self.device)
        objective.read(images.factors)
        objective.begin(model, sample_embedding(model, *self.shape))
        system = System(model, objective).to(self.device, memory_format=torch.channels_last).train()
        if world() > 1 and self.device.type == "cuda":
            system = nn.SyncBatchNorm.convert_sync_batchnorm(system)
        if trainer.compile:
            system.compile()
        undecayed = tuple(f"objective.{part}." for part in objective.undecayed)
        factors = _factors(model, trainer.layer_decay)
        self.system, self.optimizer = self.accelerator.prepare(system, _optimizer(trainer, system, undecayed, factors))
        self._pool = ThreadPoolExecutor(1) if not isinstance(self.images.pixels, Tensor) else None
        self._order: tuple[int, Tensor] | None = None
        self._next: tuple[int, Future] | None = None
        self._unchecked: list[tuple[int, float, dict[str, Tensor]]] = []

    def __len__(self) -> int:
        return self.total

    def __next__(self) -> Step:
        if self.number >= self.total:
            self.check()
            raise StopIteration
        began = time.perf_counter()
        index, pixels = self._batch(self.number)
        self._seed(self.number)
        views = self.views(pixels, index)
        views = views._replace(images=[x.contiguous(memory_format=torch.channels_last) for x in views.images])
        waited = time.perf_counter() - began
        lr = self.trainer.rate(self.number + 1, self.total) * self.lr_factor
        height = self.trainer.height(self.number + 1, self.total) * self.lr_factor
        for group in self.optimizer.param_groups:
            group["lr"] = (lr if group["decays"] else height) * group["factor"]
        with self.accelerator.autocast():
            terms = self.system(views)
        if "loss" not in terms:
            raise ValueError(
                f"{type(self.objective).__name__} gives no term named 'loss', which is descended; it gives {sorted(terms)}"
            )
        self.accelerator.backward(terms["loss"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.number += 1
        self.objective.after_step(self.model, self.number / self.total)
        terms = {k: v.detach() for k, v in terms.items()}
        self._unchecked.append((self.number, lr, terms))
        if self.device.type == "cpu" or len(self._unchecked) >= 50:
            self.check()
        took = time.perf_counter() - began
        epoch = (self.number - 1) // (self.total // self.trainer.epochs)
        return Step(self.number, epoch, lr, terms, self.trainer.batch_size / took, waited / took)

    def check(self) -> None:
        """Raises :class:`NotFinite` if a loss since the last check was not finite (on a GPU this waits for it)."""
        unchecked, self._unchecked = self._unchecked, []
        if unchecked and not torch.isfinite(torch.stack([terms["loss"] for *_, terms in unchecked])).all():
            number, lr, terms = next(u for u in unchecked if not torch.isfinite(u[2]["loss"]))
            raise NotFinite(number, {k: float(v) for k, v in terms.items()}, lr)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns all that is needed to go on: tensors by name, and what JSON can hold."""
        tensors = {f"model.{k}": v for k, v in weights(self.model).items()}
        tensors |= {f"objective.{k}": v for k, v in weights(self.objective).items()}
        for i, kept in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v.detach().cpu().contiguous() for k, v in kept.items() if isinstance(v, Tensor)}
        return tensors, {"step": self.number, "lr_factor": self.lr_factor}

    def load(self, run: Run) -> None:
        """Goes to the state of a run's newest checkpoint; stays at the start where there is none yet."""
        try:
            _, tensors, about = run.checkpoint()
        except FileNotFoundError:
            return
        for prefix, module in [("model.", self.model), ("objective.", self.objective)]:
            run._load(module, {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, "checkpoint")
        groups = self.optimizer.state_dict()["param_groups"]
        state: dict[int, dict[str, Tensor]] = {}
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".", 2)
                like = params[int(i)]
                laid_out = (
                    torch.empty_like(like).copy_(value) if value.shape == like.shape else value
                )  # fused kernels need p's strides
                state.setdefault(int(i), {})[key] = laid_out
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.number, self.lr_factor = about["step"], about["lr_factor"]

    def close(self) -> None:
        """Frees the loading thread, where there is one."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _batch(self, k: int) -> tuple[Tensor, Tensor]:
        if self._pool is None:
            return self._load(k)
        ready = self._next[1] if self._next and self._next[0] == k else self._pool.submit(self._load, k)
        if k + 1 < self.total:
            self._next = (k + 1, self._pool.submit(self._load, k + 1))
        return ready.result()

    def _load(self, k: int) -> tuple[Tensor, Tensor]:
        size = self.trainer.batch_size
        epoch, b = divmod(k, self.total // self.trainer.epochs)
        if self._order is None or self._order[0] != epoch:
            g = torch.Generator().manual_seed(mixed_seed(self.trainer.seed, epoch, 1))
            order = torch.randperm(len(self.images), generator=g)
            self._order = epoch, order.to(getattr(self.images.pixels, "device", "cpu"))  # rows beside pixels: no step waits
        index = self._order[1][b * size : (b + 1) * size][rank() :: world()]
        pixels = self.images.at(index)
        if pixels.device.type != self.device.type:
            pixels = (pixels.pin_memory() if self.device.type == "cuda" else pixels).to(self.device, non_blocking=True)
        return index, pixels

    def _seed(self, k: int) -> None:
        seed = mixed_seed(self.trainer.seed, k, 2 + rank())
        if self.device.type == "cpu":  # torch.manual_seed writes the stack down for every device that is not there: 0.7 ms
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)


class _Recorder:
    """Runs a training to its end and writes down what happens."""

    def __init__(
        self, training: Training, run: Run, log_every: int, snapshots: int, seconds: float, watch: Callable | None
    ) -> None:
        self.training, self.run, self.log_every, self.seconds, self.watch = training, run, log_every, seconds, watch
        self.snapshots, self.saved = _log_spaced(training.total, snapshots), time.monotonic()
        self.writes = rank() == 0

    def record(self, *, minutes: float | None, progress: bool) -> Run:
        t, start = self.training, self.training.number
        over = time.monotonic() + 60 * minutes if minutes is not None else math.inf
        if self.writes:
            self.run.forget_after(start)
            if start == 0:
                self.run.save(t.model, 0)
        shown = {
            "total": t.total * t.trainer.batch_size,
            "initial": start * t.trainer.batch_size,
            "unit": "img",
            "unit_scale": True,
        }
        quiet = 0.2 if sys.stderr.isatty() or "ipykernel" in sys.modules else 10
        bar = tqdm(**shown, desc=self.run.name, disable=not progress or not self.writes, mininterval=quiet, dynamic_ncols=True)
        with bar, _interruptible() as interrupted:
            try:
                for step in t:
                    bar.update(t.trainer.batch_size)
                    if step.number % self.log_every == 0 or step.number == t.total:
                        self.log(step, bar)
                    if step.number in self.snapshots and self.writes:
                        t.check()
                        self.run.save(t.model, step.number)
                    if time.monotonic() - self.saved > self.seconds or step.number == t.total:
                        self.checkpoint()
                    if self.stops(step, interrupted.is_set() or time.monotonic() > over):
                        break
            except NotFinite as error:
                good = sorted((self.run.path / "last").glob("*.safetensors"))
                kept = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written before"
                raise NotFinite(error.step, error.terms, error.lr, kept) from None
            finally:
                t.close()
        if interrupted.is_set() and t.number < t.total:
            self.checkpoint()
            raise KeyboardInterrupt(
                f"stopped at step {t.number} of {t.total}; all of it is kept in {self.run.path}. To go on: "
                f"`workbench resume {self.run.path}`, or in Python the same fit(..., out={str(self.run.path)!r}, resume=True)"
            )
        if t.number < t.total:
            self.checkpoint()
            if self.writes:
                self.run.save(t.model, t.number)
        return self.run

    def stops(self, step: Step, asked: bool) -> bool:  # noqa: FBT001
        """Whether to stop after ``step``; of several processes, which must take the same steps, the first decides as it logs."""
        if world() == 1:
            return asked
        return step.number % self.log_every == 0 and bool(from_first(torch.tensor(float(asked), device=self.training.device)))

    def log(self, step: Step, bar: tqdm) -> None:
        t = self.training
        values = {k: float(mean_over_processes(v)) for k, v in step.terms.items()}
        if self.watch is not None:
            t.model.eval()
            try:
                with torch.no_grad():
                    values |= {k: float(v) for k, v in self.watch(t.model).items()}
            finally:
                t.model.train()
        bar.set_postfix_str(f"loss {values['loss']:.3g}, waiting {step.waiting:.0%}", refresh=False)
        if self.writes:
            self.run.log(
                step=step.number, epoch=step.epoch, lr=step.lr, rate=round(step.rate, 1), waiting=round(step.waiting, 4), **values
            )

    def checkpoint(self) -> None:
        self.training.check()
        if self.writes:
            self.run.save_checkpoint(self.training.number, *self.training.state())
        self.saved = time.monotonic()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into a request to stop after the step, so that no half step is kept; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _accelerator(trainer: Trainer) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    if world() == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # a process may train on several devices, one after the other
    cpu = trainer.device == "cpu" or not torch.cuda.is_available()
    precision = trainer.precision
    if precision == "auto":
        precision = "bf16" if (_cpu_has_bf16() if cpu else torch.cuda.is_bf16_supported(including_emulation=False)) else "fp32"
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # DirectCLR, for one, leaves the projector out
    return Accelerator(cpu=cpu, mixed_precision="no" if precision == "fp32" else "bf16", kwargs_handlers=[unused])


def _cpu_has_bf16() -> bool:
    return any(getattr(torch.cpu, f"_is_{name}_supported", lambda: False)() for name in ("avx512_bf16", "amx_tile"))


def _resident(images: Images, device: torch.device) -> Images:
    """Returns the images on the GPU, once, where they fit in half of its free memory: then nothing has to be loaded."""
    if device.type == "cuda" and math.prod(images.pixels.shape) < torch.cuda.mem_get_info(device)[0] / 2:
        return images.to(device)
    return images


def _optimizer(
    trainer: Trainer, system: nn.Module, undecayed: tuple[str, ...] = (), factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    groups: dict[tuple, dict[str, Any]] = {}
    for name, p in system.named_parameters():
        if p.requires_grad:
            decays, factor = not name.startswith(undecayed), (factors or {}).get(name, 1.0)
            settings = {"weight_decay": trainer.weight_decay if p.ndim > 1 else 0.0, "decays": decays, "factor": factor}
            key = (not decays, p.ndim <= 1, -factor)
            groups.setdefault(key, {"params": [], **settings})["params"].append(p)
    groups = [groups[key] for key in sorted(groups)]
    if trainer.optimizer == "lars":
        return LARS(groups, trainer.lr)
    if trainer.optimizer == "sgd":
        return torch.optim.SGD(groups, trainer.lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, trainer.lr, fused=True)


def _factors(model: nn.Module, decay: float) -> dict[str, float]:
    """Returns what the rate of each parameter of the backbone is multiplied by, by its name in the system."""
    if decay == 1:
        return {}
    stages = [f"{name}." for name in main_layers(model) if name.startswith("backbone.")]
    names = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    stages = [stage for stage in stages if any(name.startswith(stage) for name in names)]
    if not stages:
        raise ValueError(
            f"layer_decay={decay:g} lowers the rate from stage to stage of an Encoder's backbone, but this "
            f"{type(getattr(model, 'backbone', model)).__name__} names none; use layer_decay=1"
        )
    within = [next((i for i, stage in enumerate(stages, 1) if name.startswith(stage)), 0) for name in names]
    end = max(i for i, stage in enumerate(within) if stage)
    depths = list(accumulate(within, lambda before, here: here or before))  # what stands between two stages goes with the first
    depths[end + 1 :] = [len(stages) + 1] * len(depths[end + 1 :])
    return {f"model.{name}": decay ** (len(stages) + 1 - depth) for name, depth in zip(names, depths, strict=True)}


def _log_spaced(total: int, n: int) -> set[int]:
    return {round(total ** (i / max(n - 1, 1))) for i in range(n)} | {total}


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, but is {value!r}")


def _described(thing: object) -> Any:
    try:
        return describe(thing)
    except TypeError as error:
        said = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))  # where it lies in memory is another place when resumed
        return {"repr": said[:2000], "why": str(error)}


def _same(run: Run, spec: dict[str, Any]) -> None:
    """Raises ValueError where a run was made with other settings than those asked for now."""
    parts = ("trainer", "model", "objective", "views", "images")
    differences = []
    for part in parts:
        then, now = run.spec.get(part) or {}, spec[part] or {}
        if then != now and part != "images":
            then = _in_words_of_today(run, part, then)
        for key in sorted(set(then) | set(now)):
            if then.get(key) != now.get(key):
                differences.append(f"{part}.{key} was {then.get(key)!r}, is {now.get(key)!r}")
    if differences:
        raise ValueError(
            f"{run.path} was made with other settings: {'; '.join(differences)[:800]}. Use those, or give another folder."
        )


def _in_words_of_today(run: Run, part: str, then: dict[str, Any]) -> dict[str, Any]:
    """A description as this code would write it: an argument that has come since, at its default, changes nothing."""
    try:
        return json.loads(json.dumps(describe(run.built(part))))
    except (ValueError, TypeError):
        return then


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=here, check=False)
    except OSError:  # no git on this machine
        return None
    return asked.stdout.strip() or None
