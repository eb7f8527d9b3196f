"""Training: stopped anywhere and resumed it gives the same weights, and what goes wrong says what to do."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn as nn
from safetensors.torch import load_file

import workbench as wb
from workbench.core import Views, mixed_seed

# What a child process and the test train alike, so that their weights can be compared.
SETUP = textwrap.dedent(
    """
    import torch, pandas as pd
    import workbench as wb
    torch.set_num_threads(1)
    def setup(epochs=12):
        g = torch.Generator().manual_seed(1)
        pixels = torch.randint(0, 256, (256, 3, 16, 16), generator=g, dtype=torch.uint8)
        images = wb.Images(pixels, pd.DataFrame({"label": range(256)}), "noise")
        torch.manual_seed(0)
        backbone = wb.ConvNet(8)
        model = wb.Encoder(backbone, wb.Projector([backbone.out, 32, 16]))
        trainer = wb.Trainer(epochs=epochs, batch_size=32, device="cpu", precision="fp32")
        return trainer, (model, wb.BYOL(), images, wb.Augment())
    """
)
exec(SETUP)
setup = globals()["setup"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.set_num_threads(1)
    trainer, parts = setup()
    return trainer.fit(*parts, out=tmp_path_factory.mktemp("runs") / "whole", progress=False)


def last_weights(run):
    return load_file(run.path / "weights" / f"{run.steps[-1]:08d}.safetensors")


def assert_same(a, b):
    a, b = last_weights(a), last_weights(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def child(tmp_path, out):
    script = tmp_path / "child.py"
    script.write_text(
        SETUP + f"trainer, parts = setup()\ntrainer.fit(*parts, out={str(out)!r}, checkpoint_seconds=0.05, progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list((out / "last").glob("0*.safetensors"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_stopped_run_goes_on_to_the_weights_of_an_uninterrupted_one(whole, tmp_path, how):
    out = tmp_path / "stopped"
    process = child(tmp_path, out)
    process.send_signal(getattr(signal, how))
    said = process.communicate()[1]
    step = wb.Run(out).checkpoint()[0]
    assert 0 < step < 96, "the process must be stopped in the middle for this test to mean anything"
    if how == "SIGINT":
        assert f"stopped at step {step} of 96" in said and "resume=True" in said
    trainer, parts = setup()
    resumed = trainer.fit(*parts, out=out, resume=True, progress=False)
    assert_same(resumed, whole)
    assert resumed.metrics["step"].tolist() == whole.metrics["step"].tolist()
    np.testing.assert_array_equal(resumed.metrics["loss"], whole.metrics["loss"])


def test_resuming_a_finished_run_changes_nothing(whole):
    before = last_weights(whole)
    trainer, parts = setup()
    again = trainer.fit(*parts, out=whole.path, resume=True, progress=False)
    assert again.finished and all(torch.equal(before[k], v) for k, v in last_weights(again).items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_every_optimizer_comes_back_from_a_checkpoint(tmp_path, optimizer):
    def start():
        trainer, parts = setup(epochs=2)
        trainer = wb.Trainer(**{**vars(trainer), "optimizer": optimizer})
        return trainer.steps(*parts)

    straight, stopped, resumed = start(), start(), start()
    list(itertools.islice(stopped, 7))
    run = wb.Run.create(tmp_path / "run", {})
    run.save_checkpoint(stopped.number, *stopped.state())
    resumed.load(run)
    assert [s.number for s in resumed] == list(range(8, 17)) and len(list(straight)) == 16
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_same_seed_same_weights_other_seed_other_weights(whole, tmp_path):
    trainer, parts = setup()
    assert_same(trainer.fit(*parts, out=tmp_path / "again", progress=False), whole)
    trainer, parts = setup(epochs=1)
    a = trainer.fit(*parts, out=tmp_path / "a", progress=False)
    trainer, parts = setup(epochs=1)
    b = wb.Trainer(**{**vars(trainer), "seed": 5}).fit(*parts, out=tmp_path / "b", progress=False)
    assert any(not torch.equal(v, last_weights(b)[k]) for k, v in last_weights(a).items())


def test_pixels_in_a_file_train_like_pixels_in_memory(whole, tmp_path):
    trainer, (model, objective, images, views) = setup()
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=tuple(images.pixels.shape))
    mapped[:] = images.pixels.numpy()
    on_disk = wb.Images(mapped, images.factors, images.name)
    assert_same(trainer.fit(model, objective, on_disk, views, out=tmp_path / "run", progress=False), whole)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine_and_can_be_changed_live():
    trainer = wb.Trainer(lr=2.0, warmup=0.25)
    rates = [trainer.rate(k, 100) for k in range(101)]
    for k in range(25):
        assert math.isclose(rates[k], 2 * k / 25)
    for k in range(25, 101):
        assert math.isclose(rates[k], 1 + math.cos(math.pi * (k - 25) / 75), abs_tol=1e-12)
    trainer, parts = setup()
    training = trainer.steps(*parts)
    first = next(training)
    training.lr_factor = 0.5
    second = next(training)
    assert math.isclose(first.lr, trainer.rate(1, 96)) and math.isclose(second.lr, trainer.rate(2, 96) / 2)
    assert second.number == 2 and 0 <= second.waiting <= 1 and second.rate > 0


def test_the_rate_of_what_an_objective_names_undecayed_stays_high():
    trainer, (model, _, images, views) = setup()
    training = trainer.steps(model, wb.SimSiam(hidden=8), images, views)
    rates = []
    for step in training:
        owners = {id(p): g["lr"] for g in training.optimizer.param_groups for p in g["params"]}
        rates.append((owners[id(next(model.parameters()))], owners[id(next(training.objective.predictor.parameters()))]))
        assert rates[-1][0] == step.lr
    assert [high for _, high in rates] == [trainer.lr * min(1, k / (0.1 * 96)) for k in range(1, 97)]
    assert rates[-1][0] == 0 and rates[5][0] == rates[5][1]


def test_a_run_from_before_an_argument_came_goes_on_where_its_default_is_meant(tmp_path):
    trainer, parts = setup(epochs=2)
    run = trainer.fit(*parts, out=tmp_path / "run", minutes=0, progress=False)
    older = json.loads((run.path / "run.json").read_text())
    del older["model"]["backbone"]["residual_last"]
    (run.path / "run.json").write_text(json.dumps(older))
    assert trainer.fit(*setup(epochs=2)[1], out=run.path, resume=True, progress=False).finished
    older["model"]["backbone"]["width"] = 4
    (run.path / "run.json").write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"made with other settings: model.backbone was .*'width': 4"):
        trainer.fit(*setup(epochs=2)[1], out=run.path, resume=True, progress=False)


def test_two_trainings_do_not_write_into_one_run(tmp_path):
    trainer, parts = setup(epochs=1)
    refused = []

    def watch(_):
        with pytest.raises(RuntimeError, match="being trained by another process; wait for it, or give another folder"):
            trainer.fit(*setup(epochs=1)[1], out=tmp_path / "run", resume=True, progress=False)
        refused.append(True)
        return {}

    trainer.fit(*parts, out=tmp_path / "run", watch=watch, log_every=8, progress=False)
    assert refused
    trainer.fit(*setup(epochs=1)[1], out=tmp_path / "run", resume=True, progress=False)


def test_a_learning_rate_of_zero_leaves_the_weights():
    trainer, parts = setup()
    training = trainer.steps(*parts)
    training.lr_factor = 0.0
    before = {k: v.clone() for k, v in parts[0].named_parameters()}
    next(training)
    assert all(torch.equal(v, before[k]) for k, v in parts[0].named_parameters())
    training.lr_factor = 1.0
    next(training)
    assert not all(torch.equal(v, before[k]) for k, v in parts[0].named_parameters())


def test_snapshots_are_log_spaced_and_hold_first_and_last(whole):
    steps = whole.steps
    assert steps[0] == 0 and steps[1] == 1 and steps[-1] == 96 and whole.finished
    assert len(steps) <= 25
    gaps = np.diff(steps)
    assert gaps[0] == 1 and gaps[-1] > 10  # dense at first, sparse at last


def test_the_loss_that_is_not_finite_stops_with_step_terms_and_checkpoint(tmp_path):
    class Bursts(wb.Objective):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, model, views):
            self.calls += 1
            loss = model(views.images[0]).z.square().mean()
            return {"loss": loss * (math.nan if self.calls == 5 else 1), "size": loss}

    trainer, (model, _, images, views) = setup()
    with pytest.raises(
        wb.NotFinite, match=r"at step 5 \(loss nan, size .*\); lower lr.*last good checkpoint is .*00000004"
    ) as caught:
        trainer.fit(model, Bursts(), images, views, out=tmp_path / "run", checkpoint_seconds=0, progress=False)
    assert caught.value.step == 5 and set(caught.value.terms) == {"loss", "size"}
    _, tensors, about = wb.Run(tmp_path / "run").checkpoint()
    assert about["step"] == 4 and all(torch.isfinite(v).all() for v in tensors.values())


def test_messages_say_what_to_do(whole, tmp_path):
    trainer, parts = setup()
    with pytest.raises(FileExistsError, match="go on with it by resume=True"):
        trainer.fit(*parts, out=whole.path)
    other = wb.Trainer(**{**vars(trainer), "lr": 0.5})
    with pytest.raises(ValueError, match=r"trainer\.lr was 0\.001, is 0\.5"):
        other.fit(*setup()[1], out=whole.path, resume=True)
    with pytest.raises(ValueError, match="batch_size is 512, but noise has 256 images"):
        wb.Trainer(batch_size=512, device="cpu").steps(*parts)
    with pytest.raises(ValueError, match="optimizer must be one of adamw, sgd, lars, but is 'adam'"):
        wb.Trainer(optimizer="adam")
    with pytest.raises(ValueError, match="batch_size must lie between 2"):
        wb.Trainer(batch_size=1)
    with pytest.raises(ValueError, match="warmup must lie between 0 and 1, but is 5"):
        wb.Trainer(warmup=5)
    with pytest.raises(ValueError, match="epochs must be a whole number, but is 1.5"):
        wb.Trainer(epochs=1.5)
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda, but is 'cuda:1'"):
        wb.Trainer(device="cuda:1")  # which would train on another
    with pytest.raises(ValueError, match="log_every is a number of steps, at least 1, but is 0"):
        trainer.fit(*parts, out=tmp_path / "run", log_every=0)
    assert not (tmp_path / "run").exists()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no GPU"):
            wb.Trainer(device="cuda")


def test_an_objective_without_loss_is_named(tmp_path):
    class Lossless(wb.Objective):
        def forward(self, model, views):
            return {"invariance": model(views.images[0]).z.mean()}

    trainer, (model, _, images, views) = setup()
    with pytest.raises(ValueError, match="Lossless gives no term named 'loss'.*'invariance'"):
        next(trainer.steps(model, Lossless(), images, views))


def test_watch_joins_the_rows_in_evaluation_mode(tmp_path):
    modes = []

    def watch(model):
        modes.append(model.training)
        return {"norm": float(sum(p.square().sum() for p in model.parameters()))}

    trainer, parts = setup(epochs=2)
    run = trainer.fit(*parts, out=tmp_path / "run", watch=watch, log_every=4, progress=False)
    assert run.metrics["norm"].notna().all() and not any(modes) and parts[0].training
    assert run.metrics["step"].tolist() == [4, 8, 12, 16]


def test_the_bar_shows_rate_time_and_waiting(tmp_path, capfd):
    trainer, parts = setup(epochs=2)
    trainer.fit(*parts, out=tmp_path / "run")
    shown = capfd.readouterr().err
    assert "img/s" in shown and "waiting" in shown and "loss" in shown and "512/512" in shown


def test_seeds_of_neighbouring_steps_are_unrelated():
    seeds = [mixed_seed(s, k, 2) for s in range(20) for k in range(-1, 100)]
    assert len(set(seeds)) == len(seeds) and all(0 <= s < 2**63 for s in seeds)


def test_weights_are_decayed_and_biases_are_not():
    trainer = wb.Trainer(weight_decay=0.3, device="cpu")
    from workbench.train import _optimizer

    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    decayed, plain = _optimizer(trainer, model).param_groups
    assert decayed["weight_decay"] == 0.3 and [p.ndim for p in decayed["params"]] == [2]
    assert plain["weight_decay"] == 0 and len(plain["params"]) == 3


def test_lars_is_the_equation():
    torch.manual_seed(0)
    w, b = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))
    ours = wb.LARS([{"params": [w], "weight_decay": 0.1}, {"params": [b]}], lr=0.7, momentum=0.9, eta=0.02)
    want = {"w": w.detach().double().clone(), "b": b.detach().double().clone()}
    speed = {"w": 0.0, "b": 0.0}
    for _ in range(4):
        w.grad, b.grad = torch.randn(4, 3), torch.randn(4)
        g = w.grad.double() + 0.1 * want["w"]
        g = g * 0.02 * want["w"].norm() / g.norm()
        speed = {"w": 0.9 * speed["w"] + g, "b": 0.9 * speed["b"] + b.grad.double()}
        want = {k: want[k] - 0.7 * speed[k] for k in want}
        ours.step()
    torch.testing.assert_close(w.detach().double(), want["w"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(b.detach().double(), want["b"], rtol=1e-5, atol=1e-6)


def test_lars_leaves_zero_weights_to_the_plain_gradient():
    w = nn.Parameter(torch.zeros(2, 2))
    w.grad = torch.ones(2, 2)
    wb.LARS([w], lr=1.0, momentum=0.0).step()
    torch.testing.assert_close(w.detach(), -torch.ones(2, 2))


TWO = SETUP + textwrap.dedent(
    """
    import sys
    import torch.nn as nn
    class Twice:
        def __call__(self, pixels, index):
            x = pixels.float() / 255
            return wb.Views([x, x.flip(-1)], index)
    def model():
        torch.manual_seed(0)
        # no BatchNorm: its statistics are a process's own
        parts = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return wb.Encoder(nn.Sequential(*parts), nn.Linear(8, 6))
    def main(out):
        trainer, (_, _, images, _) = setup(epochs=2)
        m = model()
        run = trainer.fit(m, wb.SimCLR(), images, Twice(), out=out, progress=False)
        wb.extract(m, images, ["backbone", "projector"], out=out + "/features/all", batch_size=50, progress=False)
    if __name__ == "__main__":
        main(sys.argv[1])
    """
)


@pytest.mark.slow
def test_two_processes_train_and_extract_like_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    # `accelerate launch` starts several processes on GPUs only; on a CPU it leaves that to torch's own launcher, as here.
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        str(tmp_path / "two"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    subprocess.run([sys.executable, str(script), str(tmp_path / "one")], check=True, env=environment, timeout=300)
    one, two = wb.Run(tmp_path / "one"), wb.Run(tmp_path / "two")
    assert two.spec["made"]["processes"] == 2 and one.spec["made"]["processes"] == 1
    for name, value in last_weights(one).items():
        torch.testing.assert_close(last_weights(two)[name], value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.metrics["loss"], two.metrics["loss"], rtol=1e-4)
    a, b = (wb.Features.load(r.path / "features" / "all") for r in (one, two))
    pd.testing.assert_frame_equal(a.factors, b.factors)
    for layer in a:
        torch.testing.assert_close(a[layer], b[layer], rtol=1e-3, atol=1e-4)


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
    import workbench.train

    monkeypatch.setattr(workbench.train, "world", lambda: 3)
    trainer, parts = setup()
    with pytest.raises(ValueError, match="batch_size 32 cannot be shared evenly by 3 processes"):
        trainer.steps(*parts)


def test_views_without_randomness_and_plain_views_type():
    class Same:
        def __call__(self, pixels, index):
            return Views([pixels.float() / 255] * 2, index)

    trainer, (model, _, images, _) = setup()
    step = next(trainer.steps(model, wb.SimSiam(), images, Same()))
    assert torch.isfinite(step.terms["loss"])


def test_a_view_maker_that_cannot_be_described_does_not_hinder_resuming(tmp_path):
    class Scaled:
        def __init__(self, factor):
            self._factor = factor

        def __call__(self, pixels, index):
            return Views([pixels.float() / 255 * self._factor] * 2, index)

    for resume in (False, True):
        trainer, (model, _, images, _) = setup(epochs=1)
        trainer.fit(model, wb.SimCLR(), images, Scaled(0.5), out=tmp_path / "run", resume=resume, progress=False)


def test_a_machine_without_git_trains(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    trainer, parts = setup(epochs=1)
    run = trainer.fit(*parts, out=tmp_path / "run", progress=False)
    assert run.finished and run.spec["made"]["commit"] is None


def test_processes_look_for_the_run_before_the_first_of_them_makes_it(tmp_path, monkeypatch):
    from accelerate import Accelerator

    seen = []
    monkeypatch.setattr(Accelerator, "wait_for_everyone", lambda _: seen.append((tmp_path / "run/run.json").exists()))
    trainer, parts = setup(epochs=1)
    trainer.fit(*parts, out=tmp_path / "run", resume=True, progress=False)
    assert seen == [False, True]


def test_several_processes_stop_after_the_same_step(monkeypatch):
    import workbench.train

    def stops(number, asked):
        recorder = SimpleNamespace(log_every=5, training=SimpleNamespace(device="cpu"))
        return workbench.train._Recorder.stops(recorder, SimpleNamespace(number=number), asked)

    assert stops(3, True) and not stops(3, False)
    monkeypatch.setattr(workbench.train, "world", lambda: 2)
    monkeypatch.setattr(workbench.train, "from_first", lambda _: torch.tensor(1.0))  # the first process was asked to
    assert [stops(k, asked) for k in range(4, 7) for asked in (False, True)] == [False, False, True, True, False, False]
