"""The authors' weights: a small network of their structure, written here in plain torch, says the same before and after reading.

Only the names of its parts, which are those of the released files, and the equations are theirs. What stands for the large files
is a state dict of this network.
"""

import functools
import math

import diffusers
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import workbench as wb

D, C, SIZE = 7, 32, 16


def group_norm(width):
    return nn.GroupNorm(32, width)


class Residual(nn.Module):
    def __init__(self, width, out, resample=None):
        super().__init__()
        self.resample = resample or (lambda x: x)
        self.in_layers = nn.Sequential(group_norm(width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * C, 2 * out))
        self.out_layers = nn.Sequential(group_norm(out), nn.SiLU(), nn.Dropout(0), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x, told):
        norm, act, conv = self.in_layers
        h = conv(self.resample(act(norm(x))))
        scale, shift = self.emb_layers(told)[:, :, None, None].chunk(2, 1)
        norm, *rest = self.out_layers
        return self.skip_connection(self.resample(x)) + nn.Sequential(*rest)(norm(h) * (1 + scale) + shift)


class Attending(nn.Module):
    """Rows of ``qkv`` are ordered by head first, then query, key and value."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.norm = heads, group_norm(width)
        self.qkv, self.proj_out = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x, _):
        flat = x.flatten(2)
        said = self.qkv(self.norm(flat))
        each = said.shape[1] // self.heads // 3
        heads = []
        for i in range(self.heads):
            q, k, v = said[:, 3 * each * i : 3 * each * (i + 1)].split(each, 1)
            weights = (q.transpose(1, 2) @ k / math.sqrt(each)).softmax(-1)
            heads.append(v @ weights.transpose(1, 2))
        return x + self.proj_out(torch.cat(heads, 1)).view_as(x)


class Together(nn.Sequential):
    def forward(self, x, told):
        for part in self:
            x = part(x) if isinstance(part, nn.Conv2d) else part(x, told)
        return x


class Small(nn.Module):
    def __init__(self, mult=(1, 1, 2), layers=2, attention=(1, 2), heads=4):
        super().__init__()
        halve, double = (lambda x: F.avg_pool2d(x, 2)), (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"))
        self.time_embed = nn.Sequential(nn.Linear(C, 4 * C), nn.SiLU(), nn.Linear(4 * C, 4 * C))
        self.ssl_emb = nn.Linear(D, 4 * C)
        blocks, widths, width = [Together(nn.Conv2d(3, C, 3, padding=1))], [C], C
        attend = lambda level, width: [Attending(width, heads)] if level in attention else []  # noqa: E731
        for level, m in enumerate(mult):
            for _ in range(layers):
                blocks.append(Together(Residual(width, m * C), *attend(level, m * C)))
                width = m * C
                widths.append(width)
            if level < len(mult) - 1:
                blocks.append(Together(Residual(width, width, halve)))
                widths.append(width)
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = Together(Residual(width, width), Attending(width, heads), Residual(width, width))
        blocks = []
        for level, m in reversed(list(enumerate(mult))):
            for i in range(layers + 1):
                parts = [Residual(width + widths.pop(), m * C), *attend(level, m * C)]
                width = m * C
                if level and i == layers:
                    parts.append(Residual(width, width, double))
                blocks.append(Together(*parts))
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(group_norm(width), nn.SiLU(), nn.Conv2d(width, 6, 3, padding=1))

    def forward(self, x, time, h):
        angles = time[:, None] * torch.exp(-math.log(10_000) * torch.arange(C // 2) / (C // 2))
        told = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1)) + self.ssl_emb(h)
        skipped = []
        for block in self.input_blocks:
            x = block(x, told)
            skipped.append(x)
        x = self.middle_block(x, told)
        for block in self.output_blocks:
            x = block(torch.cat([x, skipped.pop()], 1), told)
        return self.out(x)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def written(folder, change=lambda held: None, **settings):
    torch.manual_seed(0)
    network = Small(**settings)
    held = network.state_dict()
    change(held)
    torch.save(held, folder / "rcdm_ema_small.pt")
    return network.eval(), folder / "rcdm_ema_small.pt"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    network, path = written(tmp_path_factory.mktemp("released"))
    pipe = wb.read_released(path, image_size=SIZE)
    pipe.set_progress_bar_config(disable=True)
    return network, pipe, path


def asked(n=3):
    x, h = torch.randn(n, 3, SIZE, SIZE, generator=seeded()), 3 * torch.randn(n, D, generator=seeded(1)) + 1
    return x, torch.tensor([0.0, 17.0, 999.0])[:n], h


@torch.no_grad()
def off(network, pipe):
    x, time, h = asked()
    theirs = network(x, time, h)
    ours = pipe.unet(x, time, class_labels=pipe.projector(pipe.projector.take(h))).sample
    assert theirs.std() > 0.1
    return float((theirs - ours).abs().max() / theirs.abs().max())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mult": (1, 2), "layers": 1, "attention": ()},
        {"mult": (1, 1, 1), "layers": 1, "attention": (0, 2)},
        {"mult": (1,), "layers": 2, "attention": ()},
        {"mult": (1, 3), "layers": 1, "attention": (1,), "heads": 2},
    ],
)
def test_the_network_says_the_same_after_it_was_read(settings, tmp_path):
    network, path = written(tmp_path, **settings)
    assert off(network, wb.read_released(path, image_size=SIZE, heads=settings.get("heads", 4))) < 1e-5


def test_the_comparison_sees_other_heads_and_another_order_of_query_key_and_value(pair, tmp_path):
    network, pipe, path = pair
    assert off(network, pipe) < 1e-5 < 1e-3 < off(network, wb.read_released(path, image_size=SIZE, heads=2))

    def turn(held):
        held["middle_block.1.qkv.weight"] = held["middle_block.1.qkv.weight"].flip(0)

    assert off(network, wb.read_released(written(tmp_path, turn)[1], image_size=SIZE)) > 1e-3


def test_settings_are_read_off_the_tensors(pair):
    config = pair[1].unet.config
    assert (tuple(config.block_out_channels), config.layers_per_block, tuple(config.attention)) == ((32, 32, 64), 2, (0, 1, 1))
    assert (config.in_channels, config.out_channels, config.sample_size) == (3, 6, SIZE)
    projector = pair[1].projector
    assert projector.config.features_dim == D
    h = asked()[2]
    assert torch.equal(projector.standardised(h), h)


def test_a_scheduler_gets_the_variance_if_it_takes_one_and_the_noise_alone_otherwise(pair):
    network, pipe, _ = pair
    x, _, h = asked(2)
    time = torch.full((2,), 999.0)
    with torch.no_grad():
        noise, variance = network(x, time, h).chunk(2, 1)
        torch.testing.assert_close(pipe.predict(x, time, h), noise, rtol=1e-4, atol=1e-4)
    ddim = pipe.scheduler
    kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * k / 999) for k in range(1000))
    before = math.prod(1 - (1e-4 + (0.02 - 1e-4) * k / 999) for k in range(500))  # of step 499, which comes after 999
    image = ((x - math.sqrt(1 - kept) * noise) / math.sqrt(kept)).clamp(-1, 1)
    fresh = torch.randn(2, 3, SIZE, SIZE, generator=seeded(5))
    beta = 1 - kept / before
    share = (variance + 1) / 2
    log = share * math.log(beta) + (1 - share) * math.log((1 - before) / (1 - kept) * beta)
    mean = math.sqrt(before) * beta / (1 - kept) * image + math.sqrt(1 - beta) * (1 - before) / (1 - kept) * x
    wanted = mean + (log / 2).exp() * fresh
    try:
        pipe.scheduler = diffusers.DDPMScheduler.from_config(ddim.config, variance_type="learned_range")
        stepped, step = [], pipe.scheduler.step
        pipe.scheduler.step = functools.wraps(step)(lambda *a, **k: stepped.append(step(*a, **k)) or stepped[-1])
        pipe(h, latents=x, num_inference_steps=2, generator=seeded(5))
        torch.testing.assert_close(stepped[0].prev_sample, wanted, rtol=1e-3, atol=1e-3)
    finally:
        pipe.scheduler = ddim
    images = pipe(h, latents=x, num_inference_steps=3).images
    assert images.shape == (2, 3, SIZE, SIZE)


def test_what_was_read_is_kept_as_any_pipeline(pair, tmp_path):
    _, pipe, _ = pair
    pipe.save_pretrained(tmp_path)
    again = wb.RCDMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    first, second = (p(asked()[2], num_inference_steps=2, generator=seeded()).images for p in (pipe, again))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="cannot be guided: give a representation, and guidance_scale=1"):
        again(asked()[2], guidance_scale=2.0)
    with pytest.raises(ValueError, match="no representation was withheld"):
        again(None)


def test_features_of_pixels_that_were_scaled_otherwise_are_refused(pair):
    scaled = lambda mean: wb.Representation(asked()[2], {"model": "1f", "mean": mean, "std": [0.5] * 3})  # noqa: E731
    pair[1](scaled([0.5] * 3), num_inference_steps=1)
    with pytest.raises(ValueError, match=r"made for: mean \[0.485, 0.456, 0.406\] instead of \[0.5, 0.5, 0.5\]"):
        pair[1](scaled([0.485, 0.456, 0.406]))


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda held: held.pop("ssl_emb.weight"), r"no denoiser of representations .* it has no ssl_emb.weight"),
        (lambda held: held.pop("ssl_emb.bias"), "missing ssl_emb.bias"),
        (
            lambda held: [held.pop("middle_block.1.qkv.bias"), held.pop("input_blocks.2.0.in_layers.0.weight")],
            "as released .*: missing input_blocks.2.0.in_layers.0.weight, middle_block.1.qkv.bias",
        ),
        (lambda held: held.update({"label_emb.weight": torch.zeros(2)}), "as released .*: unknown label_emb.weight$"),
        (lambda held: held.update({"out.0.weight": torch.zeros(2)}), "as released .*: of another shape out.0.weight"),
        (lambda held: held.update({"ssl_emb.weight": torch.zeros(64, 7)}), "of another shape ssl_emb.weight"),
        (lambda held: held.update({"out.2.weight": 3}), "is no mapping of names to tensors"),
        (
            lambda held: held.update({"harm": Harmful()}),
            "no file of tensors alone, so it is not read; wanted one such as rcdm_ema",
        ),
        (lambda held: [held.pop(k) for k in list(held) if k.startswith("output_blocks.8.")], "are no levels of 3 blocks"),
        (
            lambda held: held.update({"time_embed.0.weight": torch.zeros(128, 16)}),
            "told in 16 numbers, but its first level has 32 filters; only networks whose first channel_mult is 1",
        ),
    ],
)
def test_other_files_are_told_apart_and_nothing_in_them_is_executed(change, says, tmp_path, capsys):
    _, path = written(tmp_path, change)
    with pytest.raises(ValueError, match=says):
        wb.read_released(path, image_size=SIZE)
    assert "executed" not in capsys.readouterr().out


def test_other_wishes_are_refused(pair, tmp_path):
    with pytest.raises(FileNotFoundError):
        wb.read_released(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="18 pixels cannot be halved 2 times"):
        wb.read_released(pair[2], image_size=18)
    with pytest.raises(ValueError, match="widths of 5 heads and 32 groups are multiples of both, but one is 32"):
        wb.read_released(pair[2], image_size=SIZE, heads=5)
    pipe = wb.build_denoiser(D, SIZE, (8,), prediction="epsilon")
    pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config, variance_type="learned_range")
    with pytest.raises(ValueError, match="says noise alone, but 'learned_range' wants its variance too"):
        pipe(torch.zeros(1, D))
