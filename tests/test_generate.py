"""Representation-conditioned diffusion: targets against their equations, samples against closed forms, what belongs to whom.

A denoiser of a single point is known exactly for every prediction, so a sampler that reads the network's answer rightly arrives
at that point, and a guided one at the point that the guidance's equation names.
"""

import functools
import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel

import workbench as wb
from workbench.objectives.denoising import PREDICTIONS, alphas_bar, levels, noised

D, SIZE = 5, 8
CONDITIONINGS = ("adagn", "cbn", "xattn")
TOKENS = 4
SCHEDULERS = {
    "flow": ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"],
    "epsilon": ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"],
    "v": ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"],
    "edm": ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"],
}
PAIRS = [(prediction, name) for prediction, listed in SCHEDULERS.items() for name in listed]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def little(prediction="flow", size=SIZE, widths=(8, 16), **settings):
    """An untrained denoiser whose null differs from nought, so that no condition is not the condition 0."""
    torch.manual_seed(0)
    tokens = TOKENS if settings.get("conditioning") == "xattn" else None
    pipe = wb.build_denoiser(D, size, widths, prediction=prediction, tokens=tokens, **settings)
    pipe.set_progress_bar_config(disable=True)
    torch.nn.init.normal_(pipe.projector.null)
    return pipe


def seasoned(conditioning, prediction="flow", **settings):
    """One whose running statistics, if it has any, are no longer those of a new network; still in training mode."""
    pipe = little(prediction, conditioning=conditioning, **settings)
    h = rows(16, 1, conditioning)
    with torch.no_grad():
        for step in range(3):
            x = torch.rand(16, 3, SIZE, SIZE, generator=seeded(step))
            wb.diffusion_loss(pipe.predict, x, h, prediction=prediction, generator=seeded(step))
    return pipe


def rows(n=3, seed=1, conditioning="adagn"):
    shape = (n, TOKENS, D) if conditioning == "xattn" else (n, D)
    return torch.randn(shape, generator=seeded(seed))


def diffused(pipe, scheduler):
    pipe.scheduler = scheduler
    return pipe


def swapped(pipe, name):
    return diffused(pipe, getattr(diffusers, name).from_config(pipe.scheduler.config))


# --- targets ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_is_seen_and_asked_for_is_the_equation(prediction):
    x, noise = torch.randn(2, 4, 1, 2, 2, generator=seeded(), dtype=torch.float64)
    level = levels(4, prediction, generator=seeded(3)).double()
    seen, time, target = noised(x, noise, level, prediction)
    for i in range(4):
        for a, e, got, wanted in zip(*(t[i].flatten().tolist() for t in (x, noise, seen, target)), strict=True):
            u = level[i].item()
            if prediction == "flow":
                expected, told = ((1 - u) * a + u * e, e - a), 1000 * u
            elif prediction == "edm":
                c_skip, c_out = 0.25 / (u * u + 0.25), u * 0.5 / math.sqrt(u * u + 0.25)
                expected, told = ((a + u * e) / math.sqrt(u * u + 0.25), (a - c_skip * (a + u * e)) / c_out), math.log(u) / 4
            else:
                kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * k / 999) for k in range(int(u) + 1))
                target_of = {"epsilon": e, "v": math.sqrt(kept) * e - math.sqrt(1 - kept) * a}
                expected, told = (math.sqrt(kept) * a + math.sqrt(1 - kept) * e, target_of[prediction]), u
            assert (got, wanted) == pytest.approx(expected, rel=1e-9)
            assert time[i].item() == pytest.approx(told)


def test_the_noise_trained_on_is_the_noise_sampled_with():
    for prediction in ("epsilon", "v"):
        scheduler = wb.build_denoiser(D, SIZE, (8,), prediction=prediction).scheduler
        torch.testing.assert_close(alphas_bar(), scheduler.alphas_cumprod.double(), rtol=1e-5, atol=0)


def test_levels_are_drawn_from_the_papers_distributions():
    s, sigma, t = (levels(40_000, p, generator=seeded()) for p in ("flow", "edm", "v"))
    for drawn, mean, std in [(s.logit(), 0, 1), (sigma.log(), -1.2, 1.2), (t.double(), 499.5, math.sqrt((1000**2 - 1) / 12))]:
        assert drawn.mean().item() == pytest.approx(mean, abs=5 * std / 200)
        assert drawn.std().item() == pytest.approx(std, rel=0.03)
    assert (t.min(), t.max()) == (0, 999)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_the_mean_square_over_images_of_one_scale(prediction):
    """The variance of the target under a network that always says 0 is known, but for the draws of noise."""
    x = torch.full((4000, 1, 2, 2), 0.75, dtype=torch.float64)  # .5 in [-1, 1]
    zero = lambda seen, *_: torch.zeros_like(seen)  # noqa: E731
    loss = wb.diffusion_loss(zero, x, torch.zeros(4000, D), prediction=prediction, generator=seeded())
    share = alphas_bar()
    wanted = {"epsilon": 1, "v": (share + 0.25 * (1 - share)).mean().item(), "flow": 1.25, "edm": 1}  # x² is sigma_data²
    assert loss.item() == pytest.approx(wanted[prediction], rel=0.05)
    assert loss.dtype is torch.float64


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_loss_withholds_the_share_that_was_asked_for_and_descends_every_parameter(conditioning):
    dropped = []
    keep = lambda seen, time, h, away: dropped.append(away) or seen  # noqa: E731
    for null in (0, 0.25, 1):
        wb.diffusion_loss(keep, torch.rand(2000, 1, 1, 1), torch.zeros(2000, D), null=null, generator=seeded())
    assert [away.double().mean().item() for away in dropped] == pytest.approx([0, 0.25, 1], abs=0.03)
    pipe = little(conditioning=conditioning)
    wb.diffusion_loss(
        pipe.predict, torch.rand(8, 3, SIZE, SIZE), rows(8, 1, conditioning), null=0.5, generator=seeded()
    ).backward()
    for part in (pipe.unet, pipe.projector):
        assert {n for n, p in part.named_parameters() if p.grad is None or not p.grad.any()} == set()


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_few_steps_on_eight_images_lower_the_loss_and_an_average_follows(conditioning):
    pipe, h, x = (
        little(widths=(16, 16), conditioning=conditioning),
        rows(8, 1, conditioning),
        torch.rand(8, 1, 1, 1, generator=seeded()).expand(8, 3, SIZE, SIZE),
    )
    learned = [*pipe.unet.parameters(), *pipe.projector.parameters()]
    optimiser, average, losses = torch.optim.AdamW(learned, lr=3e-3), EMAModel(learned, decay=0.9), []
    for step in range(60):
        loss = wb.diffusion_loss(pipe.predict, x, h, generator=seeded(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.step(learned)
        losses.append(loss.item())
    thirds = np.array(losses).reshape(3, 20).mean(1)
    assert thirds[0] > thirds[1] > thirds[2]
    assert thirds[2] < 0.5 * losses[0]
    average.copy_to(learned)
    with torch.no_grad():
        assert wb.diffusion_loss(pipe.predict, x, h, generator=seeded(99)).item() < 0.5 * losses[0]


# --- samples in closed form ------------------------------------------------------------------------------------------------


def knowing(pipe, prediction):
    """Has the UNet know that the image of condition c is the constant ``tanh(c[0]) / 2``, and answer what follows from it."""
    share = alphas_bar()

    def answer(x, time, class_labels):
        mu = (class_labels[:, 0].tanh() / 2).double()[:, None, None, None]
        x, time = x.double(), torch.as_tensor(time).double()
        if prediction == "flow":
            said = (x - mu) / (time / 1000)
        elif prediction == "edm":
            sigma = (4 * time).exp()
            power = (sigma**2 + 0.25).sqrt()
            said = (mu - 0.25 / power**2 * x * power) / (sigma * 0.5 / power)
        else:
            kept, added = share[int(time)].sqrt(), (1 - share[int(time)]).sqrt()
            noise = (x - kept * mu) / added
            said = noise if prediction == "epsilon" else kept * noise - added * mu
        return SimpleNamespace(sample=said.float())

    pipe.unet.forward = answer
    return pipe


def point(pipe, told):
    """The image, in [0, 1], that is known of a condition."""
    return told[:, 0].tanh() / 4 + 0.5


@pytest.mark.parametrize(("prediction", "name"), PAIRS)
def test_a_perfect_denoiser_of_a_point_arrives_there(prediction, name):
    pipe = swapped(knowing(little(prediction), prediction), name)
    h = rows()
    drawn = pipe(h, num_images_per_rep=2, num_inference_steps=10, generator=seeded()).images
    wanted = point(pipe, pipe.projector(h)).detach().repeat_interleave(2)
    torch.testing.assert_close(drawn, wanted[:, None, None, None].expand_as(drawn), rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_multistep_schedulers_arrive_there_on_the_straight_line_of_flow_matching(name):
    pipe, h = knowing(little(), "flow"), rows()
    how = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **how)
    drawn = pipe(h, num_inference_steps=8, generator=seeded()).images
    wanted = point(pipe, pipe.projector(h)).detach()
    torch.testing.assert_close(drawn, wanted[:, None, None, None].expand_as(drawn), rtol=0, atol=0.02)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_guidance_arrives_where_its_equation_says(scale):
    pipe, h = knowing(little(), "flow"), rows()
    drawn = pipe(h, num_inference_steps=4, guidance_scale=scale, generator=seeded()).images
    null, told = (point(pipe, c).detach() for c in (pipe.projector.null[None], pipe.projector(h)))
    wanted = (null + scale * (told - null)).clamp(0, 1)
    torch.testing.assert_close(drawn, wanted[:, None, None, None].expand_as(drawn), rtol=0, atol=1e-3)


# --- what belongs to whom --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "conditioning"), [*((p, "adagn") for p in PREDICTIONS), *(("v", c) for c in CONDITIONINGS[1:])]
)
def test_saved_and_loaded_it_draws_the_same_to_the_last_bit(prediction, conditioning, tmp_path):
    pipe = seasoned(conditioning, prediction, hidden=7, attention=1)
    h = wb.Representation(3 + 2 * rows(20, 1, conditioning), {"model": "1f", "layer": "backbone", "mean": (0.5,)})
    pipe.projector.standardise(h)
    pipe.save_pretrained(tmp_path)
    again = wb.RCDMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 3, "guidance_scale": 1.5}
    first, second = (p(h[:2], **settings, generator=seeded()).images for p in (pipe, again))
    assert torch.equal(first, second)
    assert (again.config.prediction, again.config.conditioning) == (prediction, conditioning)
    kept, read = (dict(part.state_dict()) for part in (pipe.unet, again.unet))
    assert {name for name in kept if not torch.equal(kept[name], read[name])} == set()
    assert again.projector.config.source == {"model": "1f", "layer": "backbone", "mean": [0.5]}
    assert json.loads((tmp_path / "model_index.json").read_text())["projector"][1] == "RepresentationProjector"


def test_the_same_latents_give_the_same_image_and_others_another():
    pipe, h = little(), rows(1)
    a, b = torch.randn(2, 1, 3, SIZE, SIZE, generator=seeded())
    first, again, other = (pipe(h, latents=z, num_inference_steps=3).images for z in (a, a, b))
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.01
    ddim = little("epsilon")
    steady, noisy = (ddim(h, latents=a, num_inference_steps=3, eta=eta, generator=seeded(5)).images for eta in (0.0, 1.0))
    assert torch.equal(steady, ddim(h, latents=a, num_inference_steps=3, generator=seeded(6)).images)
    assert (steady - noisy).abs().mean() > 0.01


@pytest.mark.parametrize(("eta", "conditioning"), [(0.0, "adagn"), *((1.0, c) for c in CONDITIONINGS)])
def test_an_image_is_the_same_whatever_it_is_drawn_beside(eta, conditioning):
    pipe, h, order = seasoned(conditioning, "epsilon"), rows(3, 1, conditioning), [2, 0, 1]
    generators = lambda: [seeded(s) for s in range(6)]  # noqa: E731
    settings = {"num_inference_steps": 3, "num_images_per_rep": 2, "eta": eta}
    plain = pipe(h, generator=generators(), **settings)
    assert torch.equal(plain.representation, h.repeat_interleave(2, 0))
    moved = [generators()[2 * i + k] for i in order for k in range(2)]
    turned = pipe(h[order], generator=moved, **settings).images.unflatten(0, (3, 2))
    torch.testing.assert_close(turned, plain.images.unflatten(0, (3, 2))[order], rtol=0, atol=1e-3)
    alone = pipe(h[1:2], generator=generators()[2:4], **settings).images
    torch.testing.assert_close(alone, plain.images[2:4], rtol=0, atol=1e-3)
    assert pipe.unet.training  # drawing leaves it as it was


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_ends_of_an_interpolation_are_the_plain_samples(conditioning):
    pipe, (one, two) = seasoned(conditioning), rows(2, 1, conditioning)
    z = torch.randn(1, 3, SIZE, SIZE, generator=seeded())
    way = torch.stack([(1 - a) * one + a * two for a in (0, 0.5, 1)])
    frames = pipe(way, latents=z, num_inference_steps=3).images
    for frame, h in ((frames[0], one), (frames[2], two)):
        plain = pipe(h[None], latents=z, num_inference_steps=3).images[0]
        torch.testing.assert_close(frame, plain, rtol=0, atol=1e-3)
    assert (frames[0] - frames[2]).abs().mean() > 1e-3  # the condition is heard


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_guidance_of_one_is_a_single_pass_and_of_nothing_is_nothing(conditioning):
    pipe, h = seasoned(conditioning), rows(2, 1, conditioning)
    z = torch.randn(2, 3, SIZE, SIZE, generator=seeded())
    passed, forward = [], pipe.unet.forward
    pipe.unet.forward = lambda x, *a, **k: passed.append(len(x)) or forward(x, *a, **k)
    draw = lambda rep, **k: pipe(rep, latents=z, num_inference_steps=3, **k).images  # noqa: E731
    plain, nearly = draw(h), draw(h, guidance_scale=1 + 1e-6)
    assert passed == [2] * 3 + [4] * 3
    torch.testing.assert_close(plain, nearly, rtol=0, atol=1e-4)
    none, guided = (draw(None, num_images_per_rep=2, guidance_scale=w) for w in (1.0, 3.0))
    torch.testing.assert_close(none, guided, rtol=0, atol=1e-3)
    assert torch.equal(none, draw(h, guidance_scale=0.0))
    assert (none - plain).abs().mean() > 1e-3


@pytest.mark.parametrize(("prediction", "name"), PAIRS)
def test_a_swapped_scheduler_keeps_the_prediction(prediction, name):
    pipe = little(prediction)
    says = pipe.scheduler.config.get("prediction_type")
    swapped(pipe, name)
    assert pipe.scheduler.config.get("prediction_type") == says
    images = pipe(rows(2), num_inference_steps=3, generator=seeded()).images
    assert images.shape == (2, 3, SIZE, SIZE)
    assert torch.isfinite(images).all()
    assert (images.min() >= 0) & (images.max() <= 1)


def test_the_kinds_of_output_are_the_same_pixels():
    pipe, h = little(channels=1), rows(2)
    draw = lambda kind: pipe(h, num_inference_steps=2, generator=seeded(), output_type=kind, return_dict=False)[0]  # noqa: E731
    tensor, array, pictures = draw("pt"), draw("np"), draw("pil")
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert np.array_equal(np.stack([np.asarray(p) for p in pictures]), (255 * array[..., 0]).round().astype("uint8"))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_in_half_precision_the_images_are_about_the_same(conditioning):
    pipe, h = seasoned(conditioning), rows(2, 1, conditioning)
    z = torch.randn(2, 3, SIZE, SIZE, generator=seeded())
    draw = lambda p: p(h, latents=z, num_inference_steps=3, guidance_scale=2.0).images  # noqa: E731
    full, half = draw(pipe), draw(pipe.to(torch.bfloat16))
    assert half.dtype is torch.float32
    assert 0 < (full - half).abs().mean() < 0.02


# --- conditional batch normalisation ---------------------------------------------------------------------------------------


def test_conditional_batch_normalisation_is_its_equation_and_is_in_every_residual_block():
    pipe = seasoned("cbn", attention=1)
    blocks = [m for m in pipe.unet.modules() if hasattr(m, "norm1")]
    assert len(blocks) == 8  # two down, two in the middle, two a level up
    assert not any(isinstance(part, torch.nn.GroupNorm) for block in blocks for part in block.modules())
    norm = blocks[0].norm1
    channels = norm.norm.num_features
    x, c = torch.randn(4, channels, 3, 2, generator=seeded()), torch.randn(4, 512, generator=seeded(1))
    said = c.double() @ norm.said.weight.double().T + norm.said.bias.double()
    ran = norm.norm.running_mean.double(), norm.norm.running_var.double()
    assert ran[0].abs().max() > 1e-3
    for training in (False, True):
        got = norm.train(training)(x, c)
        for k in range(channels):
            column = x[:, k].double()
            mean, var = (column.mean(), column.var(correction=0)) if training else (ran[0][k], ran[1][k])
            scale, shift = said[:, k, None, None], said[:, channels + k, None, None]
            wanted = (column - mean) / (var + 1e-5).sqrt() * (1 + scale) + shift
            torch.testing.assert_close(got[:, k].double(), wanted, rtol=1e-4, atol=1e-5)


def test_a_block_without_condition_is_that_of_diffusers_with_another_norm():
    """Time enters as there: with its GroupNorms in place of ours, the network says what the UNet of diffusers says."""
    ours = wb.build_denoiser(D, SIZE, (8, 16), layers=2, attention=1, conditioning="cbn").unet.eval()
    theirs = diffusers.UNet2DModel(**{k: v for k, v in ours.unet.config.items() if not k.startswith("_")}).eval()
    for mine, other in zip(*([m for m in net.modules() if hasattr(m, "norm1")] for net in (ours, theirs)), strict=True):
        for part in ("conv1", "conv2", "time_emb_proj", *(["conv_shortcut"] if other.conv_shortcut else [])):
            getattr(other, part).load_state_dict(getattr(mine, part).state_dict())
        for name in ("norm1", "norm2"):
            getattr(mine, name).forward = functools.partial(lambda norm, x, c: norm(x), getattr(other, name))
    rest = {k: v for k, v in ours.unet.state_dict().items() if ".resnets." not in k}
    assert set(theirs.load_state_dict(rest, strict=False).unexpected_keys) == set()
    x, t = torch.randn(2, 3, SIZE, SIZE, generator=seeded()), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t, torch.randn(2, 512)).sample, theirs(x, t).sample, rtol=1e-5, atol=1e-5)


# --- attention to tokens ---------------------------------------------------------------------------------------------------


def test_tokens_are_told_apart_by_their_place_and_by_nothing_else():
    pipe, h = little(conditioning="xattn"), rows(2, 1, "xattn")
    x, t = torch.randn(2, 3, SIZE, SIZE, generator=seeded()), torch.full((2,), 500.0)
    turned = h[:, [2, 0, 3, 1]]
    with torch.no_grad():
        assert (pipe.predict(x, t, h) - pipe.predict(x, t, turned)).abs().max() > 1e-4
        pipe.projector.places.zero_()
        torch.testing.assert_close(pipe.predict(x, t, h), pipe.predict(x, t, turned), rtol=1e-4, atol=1e-5)


def test_the_null_in_place_of_every_token_is_one_token():
    pipe = little(conditioning="xattn")
    x, t = torch.randn(2, 3, SIZE, SIZE, generator=seeded()), torch.full((2,), 500.0)
    with torch.no_grad():
        away = pipe.predict(x, t, rows(2, 1, "xattn"), torch.ones(2, dtype=torch.bool))
        one = pipe.unet(x, t, encoder_hidden_states=pipe.projector.null.expand(2, 1, -1)).sample
    torch.testing.assert_close(away, one, rtol=1e-4, atol=1e-5)


def test_every_token_of_a_layer_is_a_place_of_its_map_in_order():
    images, seen = wb.garments(5), []
    torch.manual_seed(0)
    model = wb.build_encoder("convnet", "8", width=4)
    layer = "backbone.stage2"
    hook = model.get_submodule(layer).register_forward_hook(lambda _m, _g, out: seen.append(out.clone()))
    h = wb.represent(model, images, layer, tokens="all", batch_size=5)
    hook.remove()
    (maps,) = seen
    _, channels, height, width = maps.shape
    assert h.values.shape == (5, height * width, channels)
    assert h.source["tokens"] == "all"
    for y, x in [(0, 0), (0, 1), (height - 1, 2)]:
        assert torch.equal(h.values[:, y * width + x], maps[:, :, y, x])
    pooled = wb.represent(model, images, layer)
    torch.testing.assert_close(h.values.mean(1), pooled.values, rtol=1e-5, atol=1e-6)
    assert h[2].values.shape == h[2:3].values.shape == (1, height * width, channels)
    pipe = wb.build_denoiser(channels, SIZE, (8,), conditioning="xattn", tokens=height * width)
    pipe.set_progress_bar_config(disable=True)
    pipe.projector.standardise(h)
    z = pipe.projector.standardised(h.values).flatten(0, 1)
    assert z.mean(0).abs().max() < 1e-4
    assert pipe(h[:2], num_inference_steps=1).images.shape == (2, 3, SIZE, SIZE)
    with pytest.raises(ValueError, match="made for: tokens 'mean' instead of 'all'"):
        pipe(pooled)
    with pytest.raises(
        ValueError, match="'backbone': it gives one vector an image, no tokens; take tokens='mean', or an earlier"
    ):
        wb.represent(model, images, "backbone", tokens="all")
    with pytest.raises(KeyError, match="no layer 'head'"):
        wb.represent(model, images, "head", tokens="all")


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_conditioning_is_trained_kept_and_read_as_a_run(conditioning, tmp_path):
    images, h = wb.sprites(32, size=8, seed=0), wb.Representation(rows(32, 1, conditioning), {"layer": "backbone"})
    trainer = wb.Trainer(epochs=2, batch_size=16, lr=2e-3, weight_decay=0.0, device="cpu", precision="fp32")
    torch.manual_seed(0)
    model = wb.Denoiser.of(h, SIZE, (8, 16), conditioning=conditioning)
    run = trainer.fit(model, wb.Denoising(decay=0.5), images, wb.Conditioned(h), out=tmp_path / "run", progress=False)
    drawn = []
    for each in (model, run.model(), wb.Run(run.path).model()):
        pipe = each.pipeline()
        pipe.set_progress_bar_config(disable=True)
        drawn.append(pipe(h[:2], num_inference_steps=2, guidance_scale=2.0, generator=seeded()).images)
    assert torch.equal(drawn[1], drawn[2])
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=1e-4)  # its memory lies otherwise after training


def test_a_denoiser_that_attends_takes_every_token_of_a_run_s_layer(tmp_path):
    images = wb.sprites(32, size=16, seed=0)
    torch.manual_seed(0)
    encoder = wb.build_encoder("convnet", "8", width=4)
    trainer = wb.Trainer(epochs=1, batch_size=16, device="cpu", precision="fp32")
    run = trainer.fit(encoder, wb.SimCLR(), images, wb.Augment(), out=tmp_path / "run", progress=False)
    settings = {"widths": (8, 16), "conditioning": "xattn", "trainer": trainer, "progress": False}
    pipe = wb.train_denoiser(run, "backbone.stage4", **settings).model().pipeline()
    pipe.set_progress_bar_config(disable=True)
    h = wb.represent(run, images[:2], "backbone.stage4", tokens="all")
    assert h.values.ndim == 3
    assert pipe(h, num_inference_steps=1).images.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="it gives one vector an image, no tokens; take tokens='mean', or an earlier layer"):
        wb.train_denoiser(run, "projector", **settings)


# --- beside a loop by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_it_draws_what_the_plain_loop_of_the_benchmark_draws(conditioning, guidance):
    path = Path(__file__).parents[1] / "benchmarks" / "sampling.py"
    spec = importlib.util.spec_from_file_location("benchmark_sampling", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    pipe, h = seasoned(conditioning), rows(2, 1, conditioning)
    z = torch.randn(2, 3, SIZE, SIZE, generator=seeded())
    ours = pipe(h, latents=z, num_inference_steps=3, guidance_scale=guidance).images
    pipe.unet.eval()
    assert torch.equal(ours, benchmark.loop(pipe, h, z, 3, guidance))


# --- annealing -------------------------------------------------------------------------------------------------------------


def naively_annealed(z, noise, t, s, tau1, tau2, psi):
    """The equations of CADS for one row, a number at a time."""
    gamma = 1 if t <= tau1 else 0 if t >= tau2 else (tau2 - t) / (tau2 - tau1)
    noisy = [math.sqrt(gamma) * a + s * math.sqrt(1 - gamma) * n for a, n in zip(z, noise, strict=True)]
    moments = []
    for row in (noisy, z):
        mean = sum(row) / len(row)
        moments.append((mean, math.sqrt(sum((a - mean) ** 2 for a in row) / len(row))))
    (m, d), (own_m, own_d) = moments
    return [psi * ((a - m) / d * own_d + own_m) + (1 - psi) * a for a in noisy]


@pytest.mark.parametrize("psi", [0.0, 0.3, 1.0])
def test_the_condition_is_annealed_as_the_equations_say(psi):
    pipe, h, told, steps = little(), rows(2), [], 8
    pipe.projector.standardise(3 * rows(50, seed=4) + 1)
    tell, s, tau1, tau2 = pipe.projector.tell, 0.7, 0.3, 0.8
    pipe.projector.tell = lambda z: told.append(z.tolist()) or tell(z)
    pipe(h, num_inference_steps=steps, annealing=s, tau1=tau1, tau2=tau2, psi=psi, generator=[seeded(7), seeded(8)])
    z = pipe.projector.standardised(h)
    for row, generator in enumerate((seeded(7), seeded(8))):
        torch.randn(1, 3, SIZE, SIZE, generator=generator)  # where the image starts
        for i in range(steps):
            noise = torch.randn(1, D, generator=generator)[0].tolist()
            wanted = naively_annealed(z[row].tolist(), noise, 1 - i / steps, s, tau1, tau2, psi)
            assert told[1 + i][row] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert told[steps][0] == pytest.approx(z[0].tolist(), abs=1e-5)  # at the end the representation is plain


def test_no_annealing_is_the_plain_sample_and_more_of_it_gives_images_that_differ_more():
    pipe, h = knowing(little(), "flow"), rows(1)
    draw = lambda **k: pipe(h, num_images_per_rep=16, num_inference_steps=6, generator=seeded(), **k).images  # noqa: E731
    plain = draw()
    assert torch.equal(plain, draw(annealing=0.0, tau1=0.1, tau2=0.2, psi=0.5))
    torch.testing.assert_close(plain, draw(annealing=2.0, tau1=1.0, tau2=1.0), rtol=0, atol=1e-3)  # it ended before it began
    unlike = [draw(annealing=s, tau1=0.0, tau2=1.0, psi=0.0).std(0).mean().item() for s in (0.0, 0.2, 1.0)]
    assert unlike[0] < 0.001 < unlike[1] < unlike[2]


def test_annealing_alone_or_beside_others_is_the_same():
    pipe, h = little(), rows(3)
    settings = {"num_inference_steps": 4, "annealing": 0.5}
    beside = pipe(h, generator=[seeded(s) for s in range(3)], **settings).images
    alone = pipe(h[1:2], generator=[seeded(1)], **settings).images
    torch.testing.assert_close(alone, beside[1:2], rtol=0, atol=1e-3)
    assert (beside - pipe(h, num_inference_steps=4, generator=[seeded(s) for s in range(3)]).images).abs().max() > 1e-3


# --- representations -------------------------------------------------------------------------------------------------------


def test_standardised_rows_have_mean_nought_and_std_one_whatever_their_scale():
    h = rows(9000).double() * torch.tensor([1e-2, 1, 10, 1e3, 0]) + torch.tensor([0, 1, -5, 1e3, 7])
    projector = wb.RepresentationProjector(D, 4).standardise(h)
    z = projector.standardised(h)
    torch.testing.assert_close(projector.mean.double(), h.mean(0), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(projector.std.double(), h.std(0, correction=0), rtol=1e-6, atol=1e-9)
    assert z[:, :4].std(0, correction=0).tolist() == pytest.approx([1] * 4, rel=1e-3)
    assert z[:, 4].tolist() == [0.0] * 9000  # it never varied
    near = projector.standardised(torch.tensor([[0.0, 1, -5, 1e3, 7.5]]))
    assert near[0, 4].item() == 0.5  # and is not blown up where it does
    scaled = wb.RepresentationProjector(D, 4).standardise(3 * h - 1)
    torch.testing.assert_close(scaled.standardised(3 * h - 1)[:, 1:], z[:, 1:], rtol=0, atol=1e-4)


def test_what_varies_by_rounding_alone_is_only_centred_and_untouched_statistics_change_nothing():
    h = torch.stack([torch.full((100,), 0.3), torch.linspace(0, 1e-7, 100)], 1) + torch.tensor([1e-8, 0]) * rows(100)[:, :2]
    projector = wb.RepresentationProjector(2, 4).standardise(h)
    moved = projector.standardised(torch.tensor([[0.4, 2e-7]]))[0]
    assert moved[0].item() == pytest.approx(0.1, rel=1e-5)
    assert moved[1].item() == pytest.approx((2e-7 - 5e-8) / h[:, 1].std(correction=0).item(), rel=1e-3)  # small, but it varied
    raw = rows() * torch.tensor([1e-6, 1, 10, 1e3, 1e6])
    assert torch.equal(wb.RepresentationProjector(D, 4).standardised(raw), raw)


@pytest.mark.parametrize("width", [1, 8192])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_representations_may_have_any_number_of_dimensions_and_never_vary(width, conditioning):
    tokens = (2,) if conditioning == "xattn" else ()
    pipe = wb.build_denoiser(width, SIZE, (4,), conditioning=conditioning, tokens=2 if tokens else None)
    pipe.set_progress_bar_config(disable=True)
    pipe.projector.standardise(torch.ones(3, *tokens, width))
    for annealing in (0.0, 0.5):
        drawn = pipe(torch.ones(2, *tokens, width), num_inference_steps=2, annealing=annealing).images
        assert torch.isfinite(drawn).all()


def test_a_representation_says_where_it_comes_from_and_others_are_refused(tmp_path):
    images = wb.garments(16)
    torch.manual_seed(0)
    model, other = (wb.build_encoder("convnet", "5-5", width=4) for _ in range(2))
    h = wb.represent(model, images, "projector")
    pipe = little()
    pipe.projector.standardise(h)
    assert pipe(h[:2], num_inference_steps=2).images.shape == (2, 3, SIZE, SIZE)
    pipe(h.values[:2], num_inference_steps=2)  # a plain tensor says nothing
    assert torch.equal(h[3].values, h.values[3:4])
    assert h[3].source == h.source
    with pytest.raises(
        ValueError, match=r"not those that the denoiser was made for: model '\w{16}' instead of '\w{16}'\. Take them by"
    ):
        pipe(wb.represent(other, images, "projector"))
    with pytest.raises(ValueError, match="layer 'projector.1' instead of 'projector'"):
        pipe(wb.represent(model, images, "projector.1"))
    darker = wb.Encoder(model.backbone, model.projector, mean=(0.4,))
    with pytest.raises(ValueError, match=r"made for: mean \[0.4\] instead of \[0.5\]\."):
        pipe(wb.represent(darker, images, "projector"))
    wb.extract(model, images, ["projector", "backbone"], out=tmp_path / "store", tokens="patches", progress=False)
    wb.extract(model, images, "projector", out=tmp_path / "same", progress=False)
    kept = wb.Representation.load(tmp_path / "same", "projector")
    assert torch.equal(pipe.projector.take(kept), h.values)
    with pytest.raises(ValueError, match="made for: tokens 'patches' instead of 'mean'"):
        pipe(wb.Representation.load(tmp_path / "store", "projector"))


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_diffusers_is_imported_when_it_is_used():
    code = "import sys, workbench as wb; wb.represent, wb.diffusion_loss; print('diffusers' in sys.modules)"
    assert python(code) == "False"


def test_without_diffusers_it_is_said_what_to_install():
    code = """
import sys
sys.modules["diffusers"] = None
import workbench as wb
wb.represent, wb.diffusion_loss, dir(wb)
for name in ("build_denoiser", "RepresentationProjector"):
    try:
        getattr(wb, name)
    except ModuleNotFoundError as error:
        print(error)
"""
    said = "workbench.{} is built of diffusers, which is not installed: pip install 'workbench[diffusion]'"
    assert python(code).splitlines() == [said.format(name) for name in ("build_denoiser", "RepresentationProjector")]


# --- bad input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda p: p(torch.zeros(2, 4)), ValueError, r"conditioned on representations \(B, 5\), but got \(2, 4\); take those"),
        (lambda p: p(torch.zeros(5)), ValueError, r"representations \(B, 5\), but got \(5,\)"),
        (lambda p: p(np.zeros((2, 5))), TypeError, "a representation is a tensor .* but got ndarray"),
        (lambda p: p(rows(), output_type="jpg"), ValueError, "output_type is one of 'pt', 'np', 'pil', but got 'jpg'"),
        (lambda p: p(rows() / 0), ValueError, "of finite representations, but 3 of these 3 are not finite"),
        (lambda p: p(rows(), annealing=-1), ValueError, "the standard deviation of noise, 0 or more, but got -1"),
        (lambda p: p(rows(), annealing=1, tau1=0.9, tau2=0.6), ValueError, "0 <= tau1 <= tau2 <= 1, but got 0.9, 0.6"),
        (lambda p: p(rows(), annealing=1, psi=2), ValueError, "from 0 to 1, but got 2"),
        (lambda p: wb.represent(wb.build_encoder("convnet", "5", width=4), wb.garments(2), "head"), KeyError,
         "the model has no layer 'head'; among its layers are backbone"),
        (lambda p: p(rows(), num_images_per_rep=1.5), ValueError, "a whole number of at least 1, but got 1.5"),
        (lambda p: p(rows(), num_images_per_rep=0), ValueError, "num_images_per_rep is a whole number of at least 1, but got 0"),
        (lambda p: p(rows(), num_inference_steps=0), ValueError, "num_inference_steps is a whole number of at least 1"),
        (lambda p: p(rows(), eta=0.5), ValueError, "eta=0.5 is noise of DDIM's steps, but FlowMatchEuler.* takes none"),
        (lambda p: p(rows(), generator=[seeded()]), ValueError, "one generator, or one an image: 1 were given for 3 images"),
        (
            lambda p: p(rows(), num_images_per_rep=2, latents=torch.zeros(3, 3, 8, 8)),
            ValueError,
            r"latents of these samples are \(6, 3, 8, 8\) or \(2, 3, 8, 8\), but got \(3, 3, 8, 8\)",
        ),
        (lambda p: swapped(p, "DDIMScheduler")(rows()), ValueError, "'flow', but DDIMScheduler reads .* as 'epsilon'; take"),
        (
            lambda p: diffused(little("v"), diffusers.HeunDiscreteScheduler(prediction_type="v_prediction"))(rows()),
            ValueError,
            "HeunDiscreteScheduler reckons with other noise than was trained with, betas evenly from .0001 to .02",
        ),
        (lambda p: diffused(p, diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction"))(rows()), ValueError,
         "other noise than was trained with, a straight line from image to noise; take DPMSolver.*use_flow_sigmas=True"),
        (lambda p: swapped(p, "EDMEulerScheduler")(rows()), ValueError, "predicts 'flow', but EDMEulerScheduler reads"),
        (lambda p: wb.diffusion_loss(p.predict, torch.rand(2, 3, 8, 8), rows(3)), ValueError, "2 images and 3 representations"),
        (lambda p: wb.diffusion_loss(p.predict, torch.rand(3, 3, 8, 8), rows(), null=2), ValueError, "from 0 to 1, but got 2"),
        (lambda p: wb.diffusion_loss(p.predict, torch.rand(3, 3, 8, 8), rows(), prediction="x"), ValueError, "got 'x'"),
        (lambda p: p.projector.standardise(torch.zeros(0, 5)), ValueError, "at least 1 representation, but got none"),
        (lambda p: p.projector.standardise(rows() / 0), ValueError, "must be finite, but 5 of 5 dimensions are not"),
        (lambda p: wb.build_denoiser(D, 28, (8,) * 4), ValueError, "28 pixels cannot be halved 3 times, as 4 levels do: "
         "give at most 3 widths, or images of a multiple of 8 pixels"),
        (lambda p: wb.build_denoiser(D, 15, (8, 8)), ValueError, "15 pixels cannot be halved 1 times.* at most 1 widths"),
        (lambda p: wb.build_denoiser(0, 16), ValueError, "features_dim is a whole number of at least 1, but got 0"),
        (lambda p: wb.build_denoiser(D, 16, channels=0), ValueError, "channels is a whole number of at least 1, but got 0"),
        (lambda p: wb.build_denoiser(D, 16.0), ValueError, "image_size is a whole number of at least 1, but got 16.0"),
        (lambda p: wb.build_denoiser(D, 16, 8), ValueError, "whole numbers such as .32, 64., .* but got 8, 0"),
        (lambda p: wb.build_denoiser(D, 16, "32-64"), ValueError, r"numbers such as \(32, 64\), and .* but got '32-64', 0"),
        (lambda p: wb.build_denoiser(D, 16, (32, 6.4)), ValueError, r"whole numbers .* but got \(32, 6.4\), 0"),
        (lambda p: wb.build_denoiser(D, 16, ()), ValueError, "widths are filters of at least one level"),
        (lambda p: wb.build_denoiser(D, 16, conditioning="film"), ValueError, "one of 'adagn', 'cbn', 'xattn', but got 'film'"),
        (lambda p: wb.build_denoiser(D, 16, prediction="x"), ValueError, "is one of 'flow', 'epsilon', 'v', 'edm', but"),
        (lambda p: wb.RCDMPipeline(p.unet, wb.RepresentationProjector(D, 7), p.scheduler), ValueError, "of time, 32, but is 7"),
        (
            lambda p: wb.RCDMPipeline(diffusers.UNet2DModel(8, block_out_channels=(32,), down_block_types=("DownBlock2D",),
                                                            up_block_types=("UpBlock2D",)), p.projector, p.scheduler),
            ValueError,
            'class_embed_type="identity", but got a UNet2DModel of class_embed_type None; wb.build_denoiser makes one',
        ),
        (lambda p: p(rows(2, 1, "xattn")), ValueError,
         r"representations \(B, 5\), but got \(2, 4, 5\); take one vector an image, tokens='mean', or a denoiser"),
        (lambda p: little(conditioning="xattn")(rows()), ValueError,
         r"on tokens \(B, 4, 5\), but got \(3, 5\); take them by wb.represent\(model, images, layer, tokens='all'\), or a"),
        (lambda p: little(conditioning="xattn")(torch.zeros(2, 3, D)), ValueError, r"on tokens \(B, 4, 5\), but got \(2, 3, 5\)"),
        (lambda p: wb.build_denoiser(D, 16, conditioning="xattn"), ValueError, r"tokens='all'\), and say tokens=T to"),
        (lambda p: wb.Denoiser.of(rows(), 8, (8,), conditioning="xattn"), ValueError,
         r"with conditioning='xattn' attention is to .* take them by wb.represent\(model, images, layer, tokens='all'\)"),
        (lambda p: wb.build_denoiser(D, 16, tokens=3), ValueError,
         "tokens go with conditioning='xattn'; 'adagn' is conditioned on one vector .* tokens='mean'"),
        (lambda p: wb.build_denoiser(D, 16, conditioning="xattn", tokens=0), ValueError, "tokens is a whole number .* but got 0"),
        (lambda p: wb.RCDMPipeline(p.unet, wb.RepresentationProjector(D, 32, tokens=2), p.scheduler), ValueError,
         "where the UNet attends to them, and only there"),
        (lambda p: wb.RCDMPipeline(p.unet, p.projector, p.scheduler, conditioning="cbn"), ValueError,
         "of conditioning 'cbn' the UNet is a BatchNormUNet, but got a UNet2DModel"),
        (lambda p: wb.RCDMPipeline(little(conditioning="cbn").unet, p.projector, p.scheduler, conditioning="cbn"), ValueError,
         "that of the UNet's condition, 512, but is 32"),
        (lambda p: wb.Representation(np.zeros((2, 5), int)), TypeError,
         r"a tensor or array of floats \(images, dimensions\), but got \(2, 5\) of int64"),
        (lambda p: wb.Representation([[0.5]]), TypeError, "but got list"),
        (lambda p: wb.Representation(torch.zeros(5)), TypeError, r"but got \(5,\) of torch.float32; one of them is h\[None\]"),
    ],
)  # fmt: skip
def test_bad_input_is_told_what_was_wanted(call, kind, says):
    with pytest.raises(kind, match=says):
        call(little())


def test_an_array_of_floats_is_a_representation():
    array = np.arange(10, dtype=np.float32).reshape(2, 5)
    array.flags.writeable = False
    h = wb.Representation(array[::-1])
    assert h.values.dtype is torch.float32 and h.values.tolist() == array[::-1].tolist()


@pytest.mark.parametrize(("tokens", "advice"), [("all", ", tokens='all'"), ("mean", "")])
def test_the_advice_for_other_tokens_gives_what_is_wanted(tokens, advice):
    conditioning = "xattn" if tokens == "all" else "adagn"
    known = {"layer": "L", "tokens": tokens}
    pipe = little(conditioning=conditioning)
    pipe.projector.standardise(wb.Representation(rows(3, 1, conditioning), known))
    with pytest.raises(ValueError, match=re.escape(f"wb.represent(model, images, 'L'{advice}) of that very model")):
        pipe(wb.Representation(rows(), known | {"tokens": "cls"}))
