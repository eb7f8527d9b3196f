"""Two processes with half the batch each give the loss, the gradient and the weights of one process with all of it.

One pair of processes (gloo) is started for all objectives: this file run as a script is what each of them does.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.nn as nn

import workbench.objectives
from workbench.core import Views
from workbench.data.images import Images
from workbench.distributed import from_first, gather, mean_over_processes, rank, world
from workbench.features import Features, extract
from workbench.models.autoencoder import Autoencoder
from workbench.models.encoder import Encoder
from workbench.models.tokens import TokenViT
from workbench.objectives.base import Objective
from workbench.objectives.betatcvae import BetaTCVAE
from workbench.objectives.factorvae import FactorVAE
from workbench.objectives.hfs import HFS
from workbench.objectives.masking import Masked
from workbench.objectives.simclr import SimCLR
from workbench.spec import available


class OneNegative(SimCLR):
    """With negatives drawn by chance, which processes must draw alike."""

    def __init__(self):
        super().__init__(drawn=1)


class FewRows(HFS):
    """Of a batch's first codes, which processes must choose alike."""

    def __init__(self):
        super().__init__(rows=6, pairs=3)


class SmallFactorVAE(FactorVAE):
    """With a discriminator of few numbers."""

    def __init__(self):
        super().__init__(width=16, depth=2)


class Stratified(BetaTCVAE):
    """With the other way to estimate total correlation."""

    def __init__(self):
        super().__init__(sampling="stratified")


OBJECTIVES = available(workbench.objectives, Objective) | {"OneNegative": OneNegative, "FewRows": FewRows}
OBJECTIVES |= {"FactorVAE": SmallFactorVAE, "Stratified": Stratified}
B, SHAPE, STEPS = 12, (3, 4, 4), 3


class System(nn.Module):
    """Model and objective under one roof, as they are trained."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 16))
        if issubclass(kind, Masked):
            backbone = TokenViT(4, 1, 16, 2, 2)
        backbone.out = 16
        if kind.code:
            drawing = nn.Sequential(nn.Linear(5, 48), nn.Unflatten(1, SHAPE))
            self.model = Autoencoder(backbone, drawing, 5, code=kind.code).double()
        else:
            self.model = Encoder(backbone, nn.Linear(16, 10)).double()
        self.objective = kind()
        self.objective.read(pd.DataFrame({"label": [i % 3 for i in range(B)]}))
        self.objective.begin(self.model, self.model(torch.zeros(2, *SHAPE).double()))

    def forward(self, views):
        return self.objective(self.model, views)


def views_of(k, n, rows=slice(None)):
    g = torch.Generator().manual_seed(k)
    images = [torch.rand(B, *SHAPE, generator=g, dtype=torch.float64) for _ in range(n)]
    return Views([x[rows] for x in images], torch.arange(B)[rows])


def gradients(system):
    return {n: p.grad.clone() for n, p in system.named_parameters() if p.grad is not None}


def trained(system, wrapped, rows=slice(None)):
    """Trains some steps, teachers included; returns the first step's terms and gradients, and the last state."""
    optimiser = torch.optim.SGD([p for p in system.parameters() if p.requires_grad], lr=1e-3)
    for k in range(STEPS):
        torch.manual_seed(k + 1000 * rank())  # processes draw different numbers, as they do for views
        terms = wrapped(views_of(k, system.objective.takes, rows))
        optimiser.zero_grad()
        terms["loss"].backward()
        if k == 0:
            first = {n: mean_over_processes(t) for n, t in terms.items()}, gradients(system)
        optimiser.step()
        system.objective.after_step(system.model, (k + 1) / STEPS)
    return {"terms": first[0], "gradients": first[1], "state": system.state_dict()}


def by_hand(kind, rows):
    """Gradients of the shares, averaged here and not by DistributedDataParallel."""
    system = System(kind)
    torch.manual_seed(1000 * rank())
    terms = system(views_of(0, system.objective.takes, rows))
    terms["loss"].backward()
    return {
        "terms": {n: mean_over_processes(t) for n, t in terms.items()},
        "gradients": {n: mean_over_processes(g) for n, g in gradients(system).items()},
    }


def primitives():
    """A sum of squares of two gathered tensors, whose backward meets one and the same incoming gradient twice."""
    a = torch.arange(4.0).view(2, 2).add(10 * rank()).requires_grad_()
    b = torch.ones(2, 2, requires_grad=True)
    g = gather(a)
    ((g + gather(b)) ** 2).sum().backward()
    return {"gathered": g.detach(), "a": a.grad, "b": b.grad, "first": from_first(torch.tensor([float(rank() + 5)]))}


class Random:
    """Views that are nothing but random numbers."""

    def __call__(self, pixels, index):
        return Views([torch.rand(pixels.shape) for _ in range(2)], index)


def extracted(n, **settings):
    """Features of views that are the views themselves, of so many images."""
    pixels = torch.zeros(n, 1, 3, 3, dtype=torch.uint8)
    images = Images(pixels, pd.DataFrame({"row": range(n)}), "black")
    return extract(nn.Sequential(nn.Flatten()), images, "0", views=Random(), progress=False, **settings)


def work(folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(os.environ["RANK"]), world_size=2)
    rows = slice(rank() * B // 2, (rank() + 1) * B // 2)
    results = {"primitives": primitives()}
    for name, kind in OBJECTIVES.items():
        system = System(kind)
        parallel = nn.parallel.DistributedDataParallel(system)
        results[name] = {"by hand": by_hand(kind, rows), "DDP": trained(system, parallel, rows)}
    for n in (200, 5):  # the second has nothing for one of the processes
        extracted(n, out=f"{folder}/features-{n}", batch_size=[30, 100][rank()])
    torch.save(results, f"{folder}/{rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", __file__, str(folder)]
    started = [subprocess.Popen(command, env={**env, "RANK": str(r)}, stderr=subprocess.PIPE, text=True) for r in (0, 1)]
    try:
        said = [p.communicate(timeout=240)[1] for p in started]
    finally:
        for p in started:
            p.kill()
    assert [p.returncode for p in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{r}.pt") | {"folder": folder} for r in (0, 1)]


@pytest.fixture(scope="module")
def one():
    """What one process finds on the whole batch, by objective."""
    results = {}

    def of(name):
        if name not in results:
            system = System(OBJECTIVES[name])
            results[name] = trained(system, system)
        return results[name]

    return of


def close(ours, whole):
    torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-11)


pytestmark = pytest.mark.filterwarnings("ignore:.* trains the representation and uses no projector")
every = pytest.mark.parametrize("name", OBJECTIVES)


@every
def test_the_mean_of_the_shares_is_the_loss(name, two, one):
    for process in two:
        close(process[name]["by hand"]["terms"], one(name)["terms"])


@every
def test_the_mean_of_the_gradients_is_the_gradient(name, two, one):
    assert one(name)["gradients"].keys()
    for process in two:
        close(process[name]["by hand"]["gradients"], one(name)["gradients"])


@every
def test_distributed_data_parallel_trains_to_the_same_state(name, two, one):
    """Weights, predictors with their BatchNorm statistics, and teachers after some steps."""
    for process in two:
        close(process[name]["DDP"], one(name))


def test_gather_adds_up_what_every_process_asks(two):
    whole = torch.cat([torch.arange(4.0).view(2, 2), torch.arange(4.0).view(2, 2) + 10])
    for r, process in enumerate(two):
        found = process["primitives"]
        torch.testing.assert_close(found["gathered"], whole)
        expected = 2 * 2 * (whole[2 * r : 2 * r + 2] + 1)  # d/da (a + 1)^2, once for each process
        torch.testing.assert_close(found["a"], expected)
        torch.testing.assert_close(found["b"], expected)
        assert found["first"].item() == 5


@pytest.mark.parametrize("n", [200, 5])
def test_features_of_views_are_those_of_one_process(two, n):
    shared, alone = Features.load(two[0]["folder"] / f"features-{n}"), extracted(n)
    assert torch.equal(shared["0"], alone["0"])
    pd.testing.assert_frame_equal(shared.factors, alone.factors)
    assert shared.factors["source"].tolist() == np.repeat(range(n), 2).tolist()
    assert len(alone["0"].unique(dim=0)) == 2 * n


def test_one_process_needs_no_group():
    z = torch.ones(2, 2, requires_grad=True)
    assert (world(), rank()) == (1, 0)
    assert gather(z) is z
    assert from_first(z) is z
    assert not mean_over_processes(z).requires_grad


if __name__ == "__main__":
    work(sys.argv[1])
