"""Views: every operation against torchvision's, every maker against its own record, and the distributions it promises."""

import collections
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision.transforms.v2 as tv
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.overrides import TorchFunctionMode

from workbench.core import Views
from workbench.data.images import Images
from workbench.spec import build, describe
from workbench.views import batches, spatial
from workbench.views.augment import JITTER_ORDERS, Augment
from workbench.views.boxes import random_boxes
from workbench.views.colour import brightness, contrast, greyscale, hue, normalise, saturation, solarise
from workbench.views.multicrop import MultiCrop
from workbench.views.noise import Noise
from workbench.views.plain import Plain
from workbench.views.presets import AUGMENTATIONS, MULTICROPS
from workbench.views.rerender import Rerender
from workbench.views.spatial import blur, flip, resized_crop
from workbench.views.turning import Rotate

TOLERANCE = 5e-6  # of float32 images in [0, 1]: a few roundings; hue, which divides by max - min, gets four times as much


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pictures(n: int = 24, height: int = 12, width: int = 16, channels: int = 3) -> torch.Tensor:
    """Random images, among them black, white, grey, saturated ones and ones with two equal channels."""
    x = torch.rand(n, channels, height, width)
    x[0], x[1], x[2] = 0, 1, 0.5
    x[3] = (x[3] > 0.5).float()
    x[4, 0] = x[4, -1]
    x[5] = x[5].mean(0)
    return x


def pixels(n: int = 16, side: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)


def each(function, x, *parameters):
    """One image at a time, as torchvision wants it."""
    return torch.stack([function(image, *(p.item() for p in row)) for image, *row in zip(x, *parameters, strict=True)])


# operations


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high", "tolerance"),
    [
        (brightness, reference.adjust_brightness, 0, 2, TOLERANCE),
        (contrast, reference.adjust_contrast, 0, 2, TOLERANCE),
        (saturation, reference.adjust_saturation, 0, 2, TOLERANCE),
        (hue, reference.adjust_hue, -0.5, 0.5, 4 * TOLERANCE),
        (solarise, reference.solarize, 0, 1, 0),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_agrees_with_torchvision(ours, theirs, low, high, tolerance, channels):
    x = pictures(channels=channels)
    parameter = torch.linspace(low, high, len(x))[torch.randperm(len(x))]
    made = ours(x, parameter)
    torch.testing.assert_close(made, each(theirs, x, parameter), atol=tolerance, rtol=0)
    assert made.min() >= 0 and made.max() <= 1
    inplace = x.clone()
    assert ours(inplace, parameter, out=inplace) is inplace
    assert inplace.equal(made)


def test_greyscale_agrees_with_torchvision_and_greys_only_what_is_asked():
    x = pictures()
    expected = reference.rgb_to_grayscale(x, 3)
    torch.testing.assert_close(greyscale(x), expected, atol=1e-6, rtol=0)
    which = torch.arange(len(x)) % 3 == 0
    some = greyscale(x, which)
    assert some[~which].equal(x[~which])
    torch.testing.assert_close(some[which], expected[which], atol=1e-6, rtol=0)
    assert greyscale(x, which, out=x) is x and x.equal(some)
    single = pictures(channels=1)
    assert greyscale(single).equal(single)


@given(st.floats(-2, 2), st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_hue_keeps_brightest_and_darkest_and_turns_back(turn, number):
    """A turn of hue permutes and interpolates: min and max of every pixel stay, a whole turn is none, and -turn undoes it."""
    x = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(number))
    t = torch.full((3,), turn)
    turned = hue(x, t)
    torch.testing.assert_close(turned.amax(1), x.amax(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(turned.amin(1), x.amin(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(hue(x, t + 1), turned, atol=1e-4, rtol=0)
    torch.testing.assert_close(hue(turned, -t), x, atol=1e-4, rtol=0)


def test_hue_turns_red_to_green_to_blue():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    third = torch.tensor([1 / 3])
    green = hue(red, third)
    torch.testing.assert_close(green.flatten(), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(hue(green, third).flatten(), torch.tensor([0.0, 0, 1]), atol=1e-6, rtol=0)


def test_normalise_agrees_with_torchvision_and_wants_a_value_a_channel():
    x, mean, std = pictures(), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    torch.testing.assert_close(normalise(x, mean, std), reference.normalize(x, mean, std), atol=TOLERANCE, rtol=0)
    with pytest.raises(ValueError, match="images of 3 channels need as many means and positive stds"):
        normalise(x, [0.5], [0.5])
    with pytest.raises(ValueError, match="positive stds"):
        normalise(x, mean, [0.2, 0, 0.4])


def test_flip_agrees_with_torchvision():
    x, which = pictures(), torch.arange(24) % 2 == 0
    assert flip(x).equal(reference.horizontal_flip(x))
    assert flip(x, which)[which].equal(reference.horizontal_flip(x)[which])
    assert flip(x, which)[~which].equal(x[~which])


@pytest.mark.parametrize(("kernel", "low", "high"), [(3, 0.1, 2), (5, 0.3, 3), (9, 0.1, 2), (23, 0.1, 2)])
def test_blur_agrees_with_torchvision(kernel, low, high):
    x = pictures(12, 24, 30)
    sigma = torch.linspace(low, high, len(x))
    expected = each(lambda image, s: reference.gaussian_blur(image, [kernel, kernel], [s, s]), x, sigma)
    torch.testing.assert_close(blur(x, sigma, kernel=kernel), expected, atol=TOLERANCE, rtol=0)
    assert blur(x, torch.zeros(12), kernel=kernel).equal(x)


@pytest.mark.parametrize("kernel", [4, 25])
def test_blur_says_which_kernel_fits(kernel):
    with pytest.raises(ValueError, match=f"12x16 images needs an odd kernel below twice the side, but got {kernel}"):
        blur(pictures(), torch.ones(24), kernel=kernel)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("side", "size"),
    [
        ((32, 32), (32, 32)),
        ((40, 57), (24, 20)),
        ((20, 21), (64, 48)),
        ((200, 100), (32, 32)),
        ((5, 7), (1, 1)),
        ((720, 720), (704, 8)),
    ],
)
def test_crop_agrees_with_torchvision(side, size, antialias):
    n = 3 if side[0] > 500 else 16  # the longest lines are weighed without a table
    x = torch.rand(n, 3, *side)
    boxes = random_boxes(n, side, (0.02, 1.0), (0.3, 3.0))
    mirrored = torch.rand(n) < 0.5

    def one(image, top, left, height, width, mirror):
        crop = reference.resized_crop(image, top, left, height, width, list(size), antialias=antialias)
        return reference.horizontal_flip(crop) if mirror else crop

    made = resized_crop(x, *boxes, size, flipped=mirrored, antialias=antialias)
    torch.testing.assert_close(made, each(one, x, *boxes, mirrored), atol=2e-5 if side[0] > 500 else TOLERANCE, rtol=0)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_crop_of_any_size_keeps_the_range_and_a_constant(height, width, to_height, to_width, number):
    torch.manual_seed(number)
    x = torch.rand(4, 3, height, width)
    x[0] = 0.25
    boxes = random_boxes(4, (height, width), (0.01, 1.0), (0.2, 5.0))
    made = resized_crop(x, *boxes, (to_height, to_width), flipped=torch.rand(4) < 0.5)
    assert made.shape == (4, 3, to_height, to_width)
    assert made.min() >= x.min() - 1e-6 and made.max() <= x.max() + 1e-6
    torch.testing.assert_close(made[0], torch.full_like(made[0], 0.25), atol=1e-6, rtol=0)


def test_crop_of_uint8_is_the_crop_of_the_scaled_image():
    x, boxes = pixels(), random_boxes(16, (16, 16), (0.2, 1.0), (0.75, 1.33))
    torch.testing.assert_close(resized_crop(x, *boxes, (9, 9)), resized_crop(x / 255, *boxes, (9, 9)), atol=1e-6, rtol=0)


# boxes


@pytest.mark.parametrize(
    ("side", "scale", "ratio"),
    [((32, 32), (0.2, 1.0), (3 / 4, 4 / 3)), ((48, 96), (0.05, 0.14), (3 / 4, 4 / 3)), ((30, 90), (0.7, 1.0), (0.5, 2.0))],
)
def test_boxes_are_distributed_as_torchvisions(side, scale, ratio):
    n = 3000
    ours = torch.stack(random_boxes(n, side, scale, ratio)).double()
    draw = tv.RandomResizedCrop(8, scale=scale, ratio=ratio)
    image = torch.empty(3, *side)
    rows = [draw.make_params([image]) for _ in range(n)]
    theirs = torch.tensor([[row[k] for row in rows] for k in ("top", "left", "height", "width")]).double()
    for a, b in zip((*ours, ours[2] * ours[3]), (*theirs, theirs[2] * theirs[3]), strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    assert (ours[0] + ours[2] <= side[0]).all() and (ours[1] + ours[3] <= side[1]).all()
    assert (ours[:2] >= 0).all() and (ours[2:] >= 1).all()


def test_a_box_that_never_fits_is_the_largest_central_one():
    top, left, height, width = random_boxes(5, (100, 10), (1.0, 1.0), (1.0, 1.0))
    assert (top.tolist(), left.tolist(), height.tolist(), width.tolist()) == ([45] * 5, [0] * 5, [10] * 5, [10] * 5)


# Augment


def replayed(image, action, row, size):
    """One view, made again by torchvision from what was recorded of it."""
    a = {name: values[row].item() for name, values in action.items()}
    x = reference.resized_crop(image / 255, a["top"], a["left"], a["height"], a["width"], [size, size], antialias=True)
    x = reference.horizontal_flip(x) if a["flip"] else x
    if a["jitter"]:
        for name in JITTER_ORDERS[a["order"]]:
            x = getattr(reference, f"adjust_{name}")(x, a[name])
    x = reference.rgb_to_grayscale(x, 3) if a["grey"] else x
    if a["blur"]:
        kernel = max(3, 2 * (size // 20) + 1)
        x = reference.gaussian_blur(x, [kernel, kernel], [a["blur"]] * 2)
    return reference.solarize(x, 0.5) if a["solarise"] else x


@pytest.mark.parametrize("size", [16, 11, 64])
def test_views_are_what_torchvision_makes_of_the_record(size):
    x = pixels(30)
    makers = Augment(3, size=size, scale=(0.1, 1.0), jitter=(0.8, 0.8, 0.8, 0.4), blur=0.5, solarise=(0, 0.3, 1), record=True)
    views = makers(x, torch.arange(30))
    for image, action in zip(views.images, views.actions, strict=True):
        expected = torch.stack([replayed(x[row], action, row, size) for row in range(30)])
        off = (image - expected).abs()
        near_half = (image - 0.5).abs() < 1e-4  # where rounding decides whether a value is solarised
        assert off[~near_half].max() < 1e-4  # hue after hue-like steps magnifies rounding where max - min is small
        assert off.median() < 1e-6


MAKERS = {
    "default": Augment(2),
    "all": Augment(2, size=24, blur=0.5, solarise=0.5),
    "nothing": Augment(2, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter_p=0.0, grey=0.0),
    "colourless": Augment(3, jitter=(0.0, 0.0, 0.0, 0.0), grey=1.0),
    "multicrop": MultiCrop(2, 3, small_size=8, blur=0.5),
    "noise": Noise(2),
    "rotate": Rotate(2),
    "plain": Plain(2),
    "resized": Plain(1, size=7),
    **{name: Augment.preset(name) for name in AUGMENTATIONS},
    **{name: MultiCrop.preset(name) for name in MULTICROPS},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_what_every_maker_promises(name, channels):
    maker, index = MAKERS[name], torch.arange(100, 108)
    x = pixels(8, channels=channels)
    x[0], x[1], x[2] = 0, 255, 128
    before = x.clone()
    views = maker(x, index)
    assert isinstance(views, Views) and views.index is index and x.equal(before)
    assert len(views.images) == maker.n and views.actions is None
    for image in views.images:
        assert image.dtype == torch.float32 and image.device == x.device and image.is_contiguous()
        assert image.shape[:2] == (8, channels) and image.shape[2] == image.shape[3]
        assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1
    torch.manual_seed(5)
    once, other = maker(x, index), maker(x, index)
    torch.manual_seed(5)
    again = maker(x, index)
    assert all(a.equal(b) for a, b in zip(once.images, again.images, strict=True))
    random = name not in ("nothing", "plain", "resized")
    assert any(not a.equal(b) for a, b in zip(once.images, other.images, strict=True)) == random
    assert [v.shape[0] for v in maker(x[:1], index[:1]).images] == [1] * maker.n
    assert all(v.shape[0] == 0 for v in maker(x[:0], index[:0]).images)


@pytest.mark.parametrize("name", MAKERS)
def test_describe_and_build_give_the_maker_again(name):
    spec = describe(MAKERS[name])
    again = build(spec)
    assert describe(again) == spec
    torch.manual_seed(1)
    once = MAKERS[name](pixels(4), torch.arange(4))
    torch.manual_seed(1)
    assert all(a.equal(b) for a, b in zip(once.images, again(pixels(4), torch.arange(4)).images, strict=True))


def test_nothing_to_do_gives_the_images_themselves():
    x = pixels()
    for image in (*MAKERS["nothing"](x, torch.arange(16)).images, *Plain()(x, torch.arange(16)).images):
        torch.testing.assert_close(image, x / 255, atol=1e-7, rtol=0)


def test_recording_changes_nothing_and_portions_change_nothing(monkeypatch):
    x, index = pixels(40), torch.arange(40)
    results = []
    for record, cached in ((False, 400_000), (True, 400_000), (False, 3000)):
        monkeypatch.setattr(batches, "CACHED", cached)
        torch.manual_seed(3)
        results.append(Augment(2, blur=0.5, solarise=0.2, record=record)(x, index).images)
    for other in results[1:]:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(results[0], other, strict=True))


def test_an_accelerator_is_never_waited_for():
    """Tensors of the device "meta" have no values: whatever asks for one, as a wait for a GPU would, fails."""
    x = torch.empty(6, 3, 20, 20, dtype=torch.uint8, device="meta")
    views = Augment(2, size=24, blur=0.5, solarise=0.1, record=True)(x, torch.arange(6))
    assert [(v.shape[2], v.device.type) for v in views.images] == [(24, "meta")] * 2
    with pytest.raises((RuntimeError, NotImplementedError)):
        views.actions[0]["flip"].any().item()


def test_working_on_all_gives_what_working_on_some_gives(monkeypatch):
    """The path for accelerators, taken on a CPU."""
    x, index = pixels(40), torch.arange(40)
    views = Augment(2, blur=0.5, solarise=0.2)
    torch.manual_seed(4)
    some = views(x, index).images
    monkeypatch.setattr(batches, "countable", lambda x: False)
    torch.manual_seed(4)
    for a, b in zip(some, views(x, index).images, strict=True):
        off = (a - b).abs()
        assert off.max() < 1e-4 or off[(a - 0.5).abs() > 1e-4].max() < 1e-4


def test_there_is_no_work_an_image():
    """As many calls of torch for 4 images as for 32."""

    class Count(TorchFunctionMode):
        def __init__(self):
            self.calls = collections.Counter()

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.calls[getattr(function, "__name__", str(function))] += 1
            return function(*args, **(kwargs or {}))

    counts = []
    for n in (4, 4, 32):  # the first call also fills tables
        views = Augment(2, grey=1.0, blur=1.0, solarise=1.0)
        with Count() as count:
            views(pixels(n, 8), torch.arange(n))
        counts.append(count.calls)
    assert counts[1] == counts[2]


def test_probabilities_and_ranges_are_those_asked_for():
    n = 4000
    views = Augment(
        2, flip=(0.5, 0.1), jitter=(0.4, 1.5, 0.2, 0.1), grey=(0.2, 0.7), blur=(1.0, 0.1), solarise=(0.0, 0.2), record=True
    )
    actions = views(pixels(n, 4), torch.arange(n)).actions
    for v, action in enumerate(actions):
        asked = {
            "flip": views.flip[v],
            "jitter": 0.8,
            "grey": views.grey[v],
            "blur": views.blur[v],
            "solarise": views.solarise[v],
        }
        for name, p in asked.items():
            assert abs((action[name] > 0).double().mean() - p) <= 4 * math.sqrt(p * (1 - p) / n), name
        on = action["jitter"]
        ranges = {"brightness": (0.6, 1.4), "contrast": (0.0, 2.5), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
        for name, (low, high) in ranges.items():
            drawn = action[name][on].double()
            assert stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
            assert (action[name][~on] == (name != "hue")).all()
        sigma = action["blur"][action["blur"] > 0].double()
        assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
        independent = torch.stack(
            [action[name].double() for name in ("flip", "grey", "jitter", "solarise", "height", "top", "left")]
        )
        independent = independent[independent.std(1) > 0]
        assert (torch.corrcoef(independent) - torch.eye(len(independent))).abs().fill_diagonal_(0)[:-3].max() < 0.08
    assert abs(torch.corrcoef(torch.stack([a["brightness"] for a in actions]))[0, 1]) < 0.08


def test_every_order_of_the_jitter_is_drawn_as_often():
    views, x = Augment(4, record=True), pixels(1, 2)
    orders = [int(a["order"][0]) for _ in range(300) for a in views(x, torch.arange(1)).actions]
    counts = np.bincount(orders, minlength=24)
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least 1 view of at least 1 pixel, but got n=0, size=None"),
        ({"size": 0}, "at least 1 view of at least 1 pixel, but got n=2, size=0"),
        ({"scale": (0.0, 1.0)}, r"scale is \(smallest, largest\), above 0 and at most 1.0, but got \(0.0, 1.0\)"),
        ({"scale": (0.5, 1.5)}, "scale is"),
        ({"ratio": (2.0, 1.0)}, "ratio is"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma is"),
        ({"jitter": (0.4, 0.4, 0.4)}, "jitter is brightness, contrast, saturation"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "hue from 0 to 0.5 of a turn"),
        ({"flip": 1.5}, "flip is a probability from 0 to 1, or one for each of the 2 views, but got 1.5"),
        ({"blur": (0.1, 0.2, 0.3)}, "blur is a probability from 0 to 1, or one for each of the 2 views"),
    ],
)
def test_augment_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augment(**arguments)


@pytest.mark.parametrize("maker", [Augment(2), MultiCrop(1, 1), Noise(), Plain(), Rotate()])
def test_makers_say_what_pixels_they_want(maker):
    with pytest.raises(TypeError, match=r"uint8 pixels from 0 to 255, but got torch.float32"):
        maker(torch.rand(2, 3, 8, 8), torch.arange(2))
    with pytest.raises(ValueError, match=r"1 or 3 channels, height, width\), but got \(2, 4, 8, 8\)"):
        maker(pixels(2, 8, 4), torch.arange(2))
    with pytest.raises(ValueError, match="2 images with 3 row numbers"):
        maker(pixels(2, 8), torch.arange(3))


def test_presets_have_names():
    with pytest.raises(KeyError, match="there is no preset 'moco'; there are simclr, "):
        Augment.preset("moco")
    with pytest.raises(KeyError, match="there are swav, dino"):
        MultiCrop.preset("byol")
    views = Augment.preset("byol", size=9, flip=0.0)
    assert (views.size, views.flip, views.blur, views.solarise) == (9, 0.0, (1.0, 0.1), (0.0, 0.2))


# MultiCrop


def test_multicrop_makes_large_and_small_crops_of_their_areas():
    views = MultiCrop(
        2, 3, size=20, small_size=6, small_scale=(0.1, 0.2), scale=(0.5, 1.0), blur=(1.0, 0.0, 0, 0, 1.0), record=True
    )
    made = views(pixels(300, 40), torch.arange(300))
    assert [v.shape[2] for v in made.images] == [20, 20, 6, 6, 6]
    shares = torch.stack([a["height"] * a["width"] / 1600 for a in made.actions])
    assert 0.45 < shares[:2].min() < 0.55 and 0.9 < shares[:2].max() <= 1
    assert 0.09 < shares[2:].min() < 0.11 and 0.18 < shares[2:].max() < 0.22
    assert [bool((a["blur"] > 0).all()) for a in made.actions] == [True, False, False, False, True]
    assert [v.shape[2] for v in MultiCrop(1, 1)(pixels(2, 28), torch.arange(2)).images] == [28, 12]


def test_multicrop_says_what_is_wrong():
    with pytest.raises(ValueError, match="at least 1 large and 1 small view, but got 2 and 0; else use Augment"):
        MultiCrop(2, 0)
    with pytest.raises(ValueError, match="one for each of the 8 views"):
        MultiCrop(2, 6, blur=(0.1, 0.2))
    with pytest.raises(ValueError, match="scale is"):
        MultiCrop(small_scale=(0.2, 0.1))


# Noise


def test_noise_is_gaussian_of_the_recorded_strength_and_the_views_have_their_own():
    x = torch.full((400, 3, 16, 16), 128, dtype=torch.uint8)
    views = Noise(2, sigma=(0.02, 0.1), record=True)(x, torch.arange(400))
    offs = []
    for image, action in zip(views.images, views.actions, strict=True):
        assert list(action) == ["noise"]
        assert stats.kstest(action["noise"].double(), stats.uniform(0.02, 0.08).cdf).pvalue > 1e-3
        offs.append((image - 128 / 255) / action["noise"][:, None, None, None])
        assert stats.kstest(offs[-1].double().flatten()[::30], stats.norm.cdf).pvalue > 1e-3
    assert abs(torch.corrcoef(torch.stack([off.flatten() for off in offs]))[0, 1]) < 0.01
    assert abs(torch.corrcoef(torch.stack([a["noise"] for a in views.actions]))[0, 1]) < 0.2


def test_noise_is_cut_off_at_black_and_white_and_none_is_none():
    x = pixels()
    x[0], x[1] = 0, 255
    (image,) = Noise(1, sigma=(5.0, 5.0))(x, torch.arange(16)).images
    assert image.min() == 0 and image.max() == 1
    torch.testing.assert_close(image[0].eq(0).float().mean(), torch.tensor(0.5), atol=0.1, rtol=0)
    (same,) = Noise(1, sigma=(0.0, 0.0))(x, torch.arange(16)).images
    torch.testing.assert_close(same, x / 255, atol=1e-7, rtol=0)


def test_noise_never_waits_for_an_accelerator():
    x = torch.empty(6, 3, 20, 20, dtype=torch.uint8, device="meta")
    assert [v.device.type for v in Noise()(x, torch.arange(6)).images] == ["meta"] * 2


@pytest.mark.parametrize("sigma", [(-0.1, 0.2), (0.3, 0.2), (0.0, math.inf)])
def test_noise_says_what_is_wrong(sigma):
    with pytest.raises(ValueError, match=r"sigma is \(smallest, largest\), from 0 on, but got"):
        Noise(sigma=sigma)
    with pytest.raises(ValueError, match="Noise makes at least 1 view, but got n=0"):
        Noise(0)


# Plain


def test_plain_resizes_as_torchvision_does():
    x = torch.randint(0, 256, (5, 3, 20, 30), dtype=torch.uint8)
    (made,) = Plain(size=13)(x, torch.arange(5)).images
    torch.testing.assert_close(made, reference.resize(x / 255, [13, 13], antialias=True), atol=TOLERANCE, rtol=0)
    with pytest.raises(ValueError, match="at least 1 view of at least 1 pixel, but got n=0"):
        Plain(0)


# Rerender


class Stripes:
    """Draws the number of an object as the shade of its upper half, and two nuisances as the shades of the quarters below."""

    nuisances = ("left", "right")

    def sample(self, n, *, generator=None, device="cpu"):
        draws = torch.rand(2, n, generator=generator, device=device)
        return {"left": draws[0], "right": draws[1] + 1}

    def __call__(self, factors):
        x = torch.zeros(len(factors["number"]), 1, 2, 2, device=factors["number"].device)
        x[:, 0, 0] = factors["number"].float()[:, None] / 100
        x[:, 0, 1, 0], x[:, 0, 1, 1] = factors["left"], factors["right"] - 1
        return x


@pytest.fixture
def stripes():
    n, renderer = 50, Stripes()
    table = {"number": np.arange(n), "name": ["object"] * n} | {k: v.numpy() for k, v in renderer.sample(n).items()}
    factors = pd.DataFrame(table)
    shown = renderer({name: torch.tensor(factors[name]) for name in ("number", "left", "right")})
    return Images((shown * 255).round().byte(), factors, "stripes", renderer=renderer)


def test_rerender_keeps_the_object_and_draws_the_rest(stripes):
    index = torch.tensor([7, 3, 3, 49])
    views = Rerender(stripes, 3)(stripes.at(index), index)
    assert len(views.images) == len(views.actions) == 3 and views.index is index
    for image, action in zip(views.images, views.actions, strict=True):
        torch.testing.assert_close(image[:, 0, 0], (index / 100)[:, None].expand(4, 2))
        assert list(action) == ["left", "right"]
        torch.testing.assert_close(image[:, 0, 1], torch.stack([action["left"], action["right"] - 1], 1))
    drawn = torch.cat([a["left"] for a in views.actions])
    assert len(drawn.unique()) == 12


def test_rerender_varies_only_what_is_asked(stripes):
    index = torch.tensor([1, 2])
    views = Rerender(stripes, 2, vary=["right"])(stripes.at(index), index)
    kept = torch.tensor(stripes.factors["left"])[index]
    for image, action in zip(views.images, views.actions, strict=True):
        torch.testing.assert_close(image[:, 0, 1, 0], kept)
        assert list(action) == ["right"] and not torch.allclose(image[:, 0, 1, 1], stripes.at(index)[:, 0, 1, 1] / 255, atol=0.01)


def test_rerender_is_reproducible(stripes):
    views, index = Rerender(stripes), torch.arange(5)
    torch.manual_seed(2)
    once, other = views(stripes.at(index), index), views(stripes.at(index), index)
    torch.manual_seed(2)
    assert views(stripes.at(index), index).images[1].equal(once.images[1]) and not other.images[1].equal(once.images[1])


def test_rerender_says_what_is_wrong(stripes):
    still = Images(stripes.pixels, stripes.factors, "still")
    with pytest.raises(ValueError, match=r"'still'.*has no renderer, so it cannot be drawn again; use garments\(\)"):
        Rerender(still)
    with pytest.raises(ValueError, match=r"stripes can be drawn again with other left, right, but vary is \['number'\]"):
        Rerender(stripes, vary=["number"])
    with pytest.raises(ValueError, match="but vary is 'left'"):
        Rerender(stripes, vary="left")
    with pytest.raises(ValueError, match=r"but vary is \[\]"):
        Rerender(stripes, vary=[])
    with pytest.raises(ValueError, match="at least 1 view, but got n=0"):
        Rerender(stripes, 0)
    with pytest.raises(IndexError, match="stripes has rows 0 to 49, but rows 3 to 50 were asked for"):
        Rerender(stripes)(stripes.at([3, 4]), torch.tensor([3, 50]))
    with pytest.raises(ValueError, match="2 images with 3 row numbers"):
        Rerender(stripes)(stripes.at([3, 4]), torch.arange(3))


@pytest.mark.parametrize("name", ["garments", "sprites"])
def test_rerender_draws_the_images_of_the_library(name):
    import workbench

    images = getattr(workbench, name)()[:40]
    index = torch.arange(0, 40, 3)
    renderer = images.renderer
    views = Rerender(images, 2)(images.at(index), index)
    for image in views.images:
        assert image.shape == (14, *images.pixels.shape[1:]) and image.min() >= 0 and image.max() <= 1
    first = renderer.nuisances[0]
    one = Rerender(images, 2, vary=[first])(images.at(index), index)
    assert list(one.actions[0]) == [first] and not one.images[0].equal(one.images[1])


# the house


def test_views_import_neither_data_nor_torchvision():
    modules = "augment multicrop noise rerender plain spatial colour"
    code = f"import sys; [__import__('workbench.views.' + m) for m in {modules.split()}]; "
    code += "assert not [m for m in sys.modules if m.startswith(('workbench.data', 'torchvision', 'kornia'))]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_segments_weigh_one():
    for size, longest in ((7, 30), (30, 7), (1, 1)):
        index, weight = spatial._all_segments(size, longest, True, "cpu")
        torch.testing.assert_close(weight.sum(2), torch.ones(2 * longest, size))
        assert index.min() >= 0 and (index.amax((1, 2)) < torch.arange(1, longest + 1).repeat(2)).all()
