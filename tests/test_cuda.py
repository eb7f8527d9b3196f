"""What a GPU changes, and what it must not: these tests run where there is one, and are left out elsewhere.

``WORKBENCH_TEST_DEVICE=cpu pytest tests/test_cuda.py`` runs them without one, to see that they are right themselves.
"""

import copy
import inspect
import itertools
import os
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ks_2samp

import workbench as wb
import workbench.measures
import workbench.objectives
from workbench.measures.measured import Measured
from workbench.measures.resampling import bootstrap
from workbench.measures.scores import Scores
from workbench.objectives.base import Objective, sample_embedding
from workbench.objectives.masking import Masked
from workbench.spec import available

DEVICE = os.environ.get("WORKBENCH_TEST_DEVICE", "cuda")
OBJECTIVES = available(workbench.objectives, Objective)
MEASURES = {k: f for k, f in available(workbench.measures, Measured).items() if f is not bootstrap}
SCORES = {k: f for k, f in available(workbench.measures, Scores).items() if f is not bootstrap}
PAIRED = {"cka", "mutual_knn", "procrustes", "svcca", "frechet_distance", "kernel_distance", "invariance_ratio"}
GROUPED = {"lidar", "alignment"}
QUICK = {
    "dci": {"trees": 5},
    "factorvae_score": {"votes": 300, "judged": 300, "batch": 32},
    "betavae_score": {"points": 300, "judged": 300, "batch": 16},
    "dci_es": {"features": (16, 32)},
}

pytestmark = [
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.* trains the representation and uses no projector"),
]


@pytest.fixture(scope="module")
def garments():
    return wb.garments(256)


@pytest.fixture(scope="module")
def sprites():
    return wb.sprites(None, size=16, shapes=["heart", "arrow"], scales=2, positions=8, orientations=2, hues=1, background_hues=1)


def model_of(objective):
    torch.manual_seed(0)
    if objective.code:
        return wb.build_autoencoder("locatello-small", 6, code=objective.code, image_size=16)
    if isinstance(objective, Masked):
        return wb.build_encoder("vit-tiny", None, image_size=32)
    return wb.build_encoder("convnet", (32, 32), width=8)


def parts(objective, garments, sprites):
    """A model, images and views that fit an objective."""
    images = sprites if objective.code else garments
    if type(objective).__name__ == "AdaVAE":
        views = wb.FactorPairs(images)
    else:
        views = wb.Plain() if objective.takes == 1 else wb.Augment(objective.takes)
    return model_of(objective), objective, images, views


def made(kind):
    return kind(width=32, depth=2) if kind.__name__ == "FactorVAE" else kind()


def trainer(**settings):
    return wb.Trainer(**{"epochs": 1, "batch_size": 64, "device": DEVICE} | settings)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_objective_trains(kind, precision, garments, sprites):
    model, objective, images, views = parts(made(kind), garments, sprites)
    before = copy.deepcopy(model).state_dict()
    training = trainer(precision=precision).steps(model, objective, images, views)
    for step in itertools.islice(training, 3):
        assert all(torch.isfinite(v) for v in step.terms.values())
        assert {v.device.type for v in step.terms.values()} == {DEVICE}
    assert {p.device.type for module in (model, objective) for p in module.parameters()} == {DEVICE}
    assert any(not torch.equal(v.cpu(), before[k]) for k, v in model.state_dict().items() if k.startswith("backbone"))


@contextmanager
def no_waiting():
    """While entered, whatever has the host wait for the GPU raises RuntimeError."""
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")


ALONE = [k for k in OBJECTIVES if k != "AdaVAE"]  # pairs of images that share factors are looked up by the host


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
@pytest.mark.parametrize("name", ALONE)
def test_a_step_never_waits_for_the_device(name, optimizer, garments, sprites):
    training = trainer(optimizer=optimizer).steps(*parts(made(OBJECTIVES[name]), garments, sprites))
    next(training), next(training)
    with no_waiting():
        next(training)


def test_drawing_views_again_never_waits_for_the_device(garments, sprites):
    for images in (garments, sprites):
        views, pixels, index = wb.Rerender(images), images.to(DEVICE).pixels[:8], torch.arange(8, device=DEVICE)
        views(pixels, index)
        with no_waiting():
            views(pixels, index)


@pytest.mark.parametrize("vary", [None, ["rotation", "scale"]], ids=["all", "pose"])
def test_views_drawn_again_train(vary, garments):
    model = model_of(wb.SimCLR())
    training = trainer().steps(model, wb.SimCLR(), garments, wb.Rerender(garments, vary=vary))
    assert all(torch.isfinite(step.terms["loss"]) for step in itertools.islice(training, 3))


def denoising(garments, prediction="flow"):
    """A denoiser, what it is asked, images, and the representations beside them."""
    h = torch.randn(len(garments), 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return wb.Denoiser(8, 32, (8, 16), prediction=prediction).standardise(h), wb.Denoising(), garments, wb.Conditioned(h)


@pytest.mark.parametrize("prediction", ["flow", "epsilon", "v", "edm"])
def test_a_denoiser_trains_and_a_step_never_waits_for_the_device(prediction, garments):
    training = trainer().steps(*denoising(garments, prediction))
    next(training), next(training)
    with no_waiting():
        step = next(training)
    assert step.terms["loss"].device.type == DEVICE
    assert torch.isfinite(step.terms["loss"])


def test_a_denoiser_draws_the_same_images_as_on_a_processor(garments):
    model, *_ = denoising(garments)
    h, latents = torch.randn(2, 8), torch.randn(2, 3, 32, 32)
    pipe = model.pipeline()
    pipe.set_progress_bar_config(disable=True)
    here = pipe(h, latents=latents, num_inference_steps=4, guidance_scale=2.0).images
    there = pipe.to(DEVICE)(h.to(DEVICE), latents=latents.to(DEVICE), num_inference_steps=4, guidance_scale=2.0).images
    assert there.device.type == DEVICE
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=2e-2)  # convolutions in TF32


@pytest.mark.parametrize("where", ["cpu", DEVICE])
def test_attacks_and_inversions_of_a_model_on_the_device_are_those_on_a_processor(where):
    """Wherever the pixels are; results are where the pixels were."""
    torch.manual_seed(0)
    model, x = wb.build_encoder("convnet", "8", width=8), torch.rand(6, 3, 16, 16)
    h = wb.represent_pixels(model, x, "backbone")
    probe, labels = wb.LinearProbe().fit(h.values, [0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 2, 0, 1, 2])
    here = [wb.attacked(model, probe, x, labels, "backbone", 0.05, steps=steps) for steps in (None, 3)]
    model.to(DEVICE)
    for wanted, steps in zip(here, (None, 3), strict=True):
        found = wb.attacked(model, probe, x.to(where), labels, "backbone", 0.05, steps=steps)
        assert found.device.type == where
        assert ((found.cpu() - wanted).abs() < 1e-3).double().mean() > 0.95  # where the slope is nought its sign is rounding's
    assert wb.represent_pixels(model, x.to(where), "backbone").values.device.type == where
    found = wb.invert(model, h.values.to(where), "backbone", image_size=16, steps=40, progress=False)
    assert found.distance.median() < 0.5


STEADY = ["SimCLR", "VICReg", "BarlowTwins", "BYOL", "MoCoV3", "SimSiam", "DirectCLR", "SupCon", "Supervised", "QLAE"]


@pytest.mark.parametrize("name", STEADY)
def test_loss_and_gradient_are_those_of_a_processor(name):
    """In float64, of objectives that draw nothing."""
    g = torch.Generator().manual_seed(0)
    images = [torch.rand(24, 3, 16, 16, generator=g, dtype=torch.float64) for _ in range(2)]
    found = []
    for device in ("cpu", DEVICE):
        objective = made(OBJECTIVES[name])
        model = model_of(objective).double()
        torch.manual_seed(1)
        objective.read(pd.DataFrame({"label": [i % 3 for i in range(24)]}))
        with torch.no_grad():
            objective.begin(model, model.eval()(images[0][:2]))
        model.train().to(device)
        objective.to(device)
        views = wb.Views([x.to(device) for x in images[: objective.takes]], torch.arange(24))
        terms = objective(model, views)
        terms["loss"].backward()
        gradients = {k: p.grad.cpu() for k, p in model.named_parameters() if p.grad is not None}
        found.append(({k: v.item() for k, v in terms.items()}, gradients))
    (terms, gradients), (others, other) = found
    assert others == pytest.approx(terms, rel=1e-8)
    assert all(torch.allclose(other[k], g, rtol=1e-6, atol=1e-9) for k, g in gradients.items())


def test_hausdorff_loss_and_gradient_are_those_of_a_processor():
    z = torch.randn(64, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for device in ("cpu", DEVICE):
        there = z.to(device).requires_grad_()
        value = wb.hausdorff_loss(there)
        found.append((value.item(), torch.autograd.grad(value, there)[0].cpu()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


RESUMED = {
    "SimCLR": lambda: wb.SimCLR(),
    "BYOL": lambda: wb.BYOL(hidden=32),
    "MAE": lambda: wb.MAE(),
    "HFS": lambda: wb.HFS(wb.BetaTCVAE(), pairs=5),
    "FactorVAE": lambda: wb.FactorVAE(width=16, depth=2),
    "QLAE": lambda: wb.QLAE(),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RESUMED)
def test_the_same_run_twice_and_a_resumed_one_have_the_same_weights(name, precision, garments, sprites, tmp_path):
    def fit(out, **settings):
        return trainer(precision=precision, epochs=2).fit(
            *parts(RESUMED[name](), garments, sprites), out=tmp_path / out, progress=False, **settings
        )

    once, again = fit("once"), fit("again")
    stopped = fit("stopped", minutes=0)
    assert not stopped.finished
    resumed = fit("stopped", resume=True)
    far = {which: apart(once, run) for which, run in (("again", again), ("resumed", resumed))}
    assert far == {"again": 0, "resumed": 0}


def apart(one, other):
    ours, theirs = one.model().state_dict(), other.model().state_dict()
    return max(float((v.double() - theirs[k].double()).abs().max()) for k, v in ours.items())


ENCODERS = {
    "convnet": lambda: wb.build_encoder("convnet", (64, 32)),
    "resnet18": lambda: wb.build_encoder("resnet18", (64, 32), image_size=32),
    "vit-tiny": lambda: wb.build_encoder("vit-tiny", (64, 32), image_size=32),
    "timm": lambda: wb.build_encoder("timm:resnet10t", (64, 32), image_size=32),
    "locatello": lambda: wb.build_autoencoder("locatello", 10, image_size=32),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_those_of_a_processor(name, garments, tmp_path):
    torch.manual_seed(0)
    model = ENCODERS[name]().eval()
    layers = ["backbone", "projector"]
    expected = wb.extract(model, garments, layers, progress=False)
    model = model.to(DEVICE)
    found = wb.extract(model, garments, layers, progress=False)
    stored = wb.extract(model, garments.to(DEVICE), layers, progress=False, out=tmp_path / "store", batch_size=64)
    for layer in layers:
        scale = float(expected[layer].std())
        assert found[layer].device.type == "cpu"
        assert float((found[layer] - expected[layer]).abs().max()) / scale < 1e-4
        assert float((stored[layer] - found[layer]).abs().max()) / scale < 1e-4
    seen = wb.extract(model, garments, layers, views=wb.Augment(2, record=True), progress=False)
    assert len(seen.factors) == 512 and "action.hue" in seen.factors


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_measures_are_those_of_a_processor(name):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(300, 60, generator=g, dtype=torch.float64) * torch.arange(1.0, 61) ** -0.5 + 0.2
    rest = ()
    if name in PAIRED:
        rest = (z.sin() + 0.3 * torch.randn(300, 60, generator=g, dtype=torch.float64),)
    if name in GROUPED:
        rest = (torch.arange(75).repeat_interleave(4),)
    with warnings.catch_warnings(action="ignore"):
        expected = MEASURES[name](z, *rest)
        found = MEASURES[name](z.to(DEVICE), *(x.to(DEVICE) for x in rest))
    assert np.isfinite(expected) and float(found) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_scores_of_codes_are_those_of_a_processor(name):
    rng = np.random.default_rng(0)
    factors = pd.DataFrame(rng.integers(0, 4, (400, 3)), columns=["a", "b", "c"])
    z = torch.from_numpy(factors.to_numpy() + 0.2 * rng.normal(size=(400, 3)))
    with warnings.catch_warnings(action="ignore"):
        expected, found = (SCORES[name](x, factors, **QUICK.get(name, {})) for x in (z, z.to(DEVICE)))
    assert {k: float(v) for k, v in found.items()} == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-6)


def test_spectra_of_float32_features_and_moments_in_chunks():
    z = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 65) ** -1
    expected, found = wb.spectrum(z), wb.spectrum(z.to(DEVICE))
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-4)
    seen = wb.Moments(64)
    for part in z.to(DEVICE).split(1000):
        seen = seen.update(part)
    assert float(wb.rankme(seen)) == pytest.approx(float(wb.rankme(z)), rel=1e-4)


PROBES = {"linear": wb.LinearProbe, "knn": wb.KNNProbe, "mlp": lambda: wb.MLPProbe((32,), lr=0.01, epochs=5)}


@pytest.mark.parametrize("name", PROBES)
def test_probes_read_features_where_they_are(name):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 5, (600,), generator=g)
    x = torch.randn(600, 16, generator=g) + torch.nn.functional.one_hot(y, 16) * 3.0
    expected = PROBES[name]().fit(x[:400], y[:400]).score(x[400:], y[400:])
    probe = PROBES[name]().fit(x[:400].to(DEVICE), y[:400].to(DEVICE))
    scores = probe.score(x[400:].to(DEVICE), y[400:].to(DEVICE)), probe.score(x[400:], y[400:].numpy())
    assert scores == pytest.approx([expected] * 2, abs=0.03) and expected > 0.5


def test_ridge_and_the_table_of_probes_read_features_where_they_are():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 8, generator=g)
    factors = pd.DataFrame({"size": (x @ torch.randn(8, generator=g)).numpy(), "label": (x[:, 0] > 0).long().numpy()})
    parts = slice(0, 300), slice(300, 400)
    tables = [
        wb.probe_layers(*(wb.Features({"h": x[rows].to(device)}, factors.iloc[rows]) for rows in parts))
        for device in ("cpu", DEVICE)
    ]
    np.testing.assert_allclose(tables[1]["value"], tables[0]["value"], atol=0.02)


RENDERED = {
    "garments": lambda: wb.garments(64),
    "sprites": lambda: wb.sprites(64),
    "scenes": lambda: wb.scenes(64),
}


@pytest.mark.parametrize("name", RENDERED)
def test_images_are_drawn_as_on_a_processor(name):
    images = RENDERED[name]()
    numbers = images.factors.select_dtypes("number")
    factors = {k: torch.from_numpy(numbers[k].to_numpy(copy=True)) for k in numbers}
    found = images.renderer({k: v.to(DEVICE) for k, v in factors.items()}).cpu()
    off = (found - images.renderer(factors)).abs()
    assert float(off.mean()) < 1e-4 and float((off > 0.02).float().mean()) < 1e-3  # an edge may fall to the other side


VIEWS = {
    "Augment": lambda images: wb.Augment(2, blur=0.5, solarise=0.2),
    "larger": lambda images: wb.Augment(1, size=48, scale=(0.08, 1.0)),
    "MultiCrop": lambda images: wb.MultiCrop(1, 1),
    "Noise": lambda images: wb.Noise(),
    "Rerender": lambda images: wb.Rerender(images),
    "Plain": lambda images: wb.Plain(size=20),
    "Rotate": lambda images: wb.Rotate(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_distributed_as_on_a_processor(name):
    """Of 2,000 views: brightness, contrast, colour and the difference of neighbouring pixels (Kolmogorov and Smirnov's test)."""
    images = wb.garments(2000)
    makers = VIEWS[name](images)
    seen = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        views = makers(images.to(device).pixels, torch.arange(2000))
        assert all(v.device.type == device and float((v - v.clamp(0, 1)).abs().max()) < 1e-6 for v in views.images)
        seen.append([statistics(v.cpu()) for v in views.images])
    for ours, theirs in zip(*seen, strict=True):
        chances = {k: ks_2samp(ours[k].numpy(), theirs[k].numpy()).pvalue for k in ours}
        assert min(chances.values()) > 1e-4, chances


def statistics(x):
    return {
        "brightness": x.mean((1, 2, 3)),
        "contrast": x.std((1, 2, 3)),
        "colour": (x.amax(1) - x.amin(1)).mean((1, 2)),
        "edges": (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)),
    }


def test_fine_tuning_and_what_comes_after_a_run(garments, tmp_path):
    run = trainer().fit(model_of(wb.SimCLR()), wb.SimCLR(), garments, wb.Augment(), out=tmp_path / "run", progress=False)
    tuned = wb.fine_tune(run, garments, out=tmp_path / "tuned", epochs=1, batch_size=64, device=DEVICE, progress=False)
    assert 0 <= wb.head_accuracy(tuned, garments) <= 1
    assert run.features(garments, "backbone")["backbone"].shape == (256, 64)
    tables = wb.replay(run, garments, layers=["backbone"], progress=False)
    assert np.isfinite(tables["measures"]["value"]).all() and set(tables["measures"]["step"]) == set(run.steps)


def test_a_training_leaves_the_generator_of_the_device_as_it_says():
    """Steps are seeded, wherever: the same step draws the same views."""
    images = wb.garments(64)
    seen = []
    for _ in range(2):
        training = trainer(batch_size=32).steps(model_of(wb.SimCLR()), wb.SimCLR(), images, wb.Augment())
        seen.append(float(next(training).terms["loss"]))
    assert seen[0] == seen[1]


def test_pixels_from_a_file_reach_the_device(tmp_path):
    pixels = np.lib.format.open_memmap(tmp_path / "pixels.npy", "w+", np.uint8, (128, 3, 16, 16))
    pixels[:] = np.random.default_rng(0).integers(0, 256, pixels.shape)
    images = wb.Images(np.load(tmp_path / "pixels.npy", mmap_mode="r"), pd.DataFrame({"label": np.arange(128) % 2}), "file")
    steps = list(trainer(batch_size=32).steps(model_of(wb.SimCLR()), wb.SimCLR(), images, wb.Augment()))
    assert len(steps) == 4 and all(torch.isfinite(s.terms["loss"]) for s in steps)


def test_names_of_settings_are_those_of_the_functions():
    """So that a setting that was renamed is not silently left out."""
    assert all(set(s) <= set(inspect.signature(SCORES[k]).parameters) for k, s in QUICK.items())
    assert sample_embedding(model_of(wb.SimCLR()).to(DEVICE), 3, 32, 32).z.device.type == DEVICE
