"""What a representation knows, without a browser: what is drawn and in which order, what is said of it, what is taken away."""

import io
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import workbench as wb
from workbench.panels.know_drawing import Condition, DemoSubject, Drawn, DrawSettings, Studio, denoised_layers, png_of
from workbench.panels.know_page import paint
from workbench.panels.know_sheet import sheet_of
from workbench.panels.know_side import KnowSide
from workbench.panels.know_state import KnowState, in_chunks
from workbench.panels.layer_cuts import Subject, find_subjects

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def run(denoised_run, tmp_path_factory):
    return denoised_run(tmp_path_factory.mktemp("know") / "mine")


@pytest.fixture(scope="module")
def studio(run):
    return Studio(Subject("mine", run.path))


@pytest.fixture
def state(run, studio):
    found, _ = find_subjects(run)
    state = KnowState(found)
    state.take(studio)
    return state


def fill(state):
    """Draws all that is wanted, at once."""
    settings = state.settings()
    paint(state.studio, state.wanted(), settings, lambda made: state.keep(settings, made), lambda: False)


# the state


class Canvas:
    """A studio that draws nothing: 30 images of three pixels a side, the first factor known."""

    pixels = np.arange(30 * 27, dtype=np.uint8).reshape(30, 3, 3, 3)
    factors = pd.DataFrame({"label": np.arange(30) % 2})
    unseen, teaches, reads, usual = True, False, {}, 15.5

    def tokens(self, layer):
        return None

    def sparse(self, layer):
        return layer == "backbone"

    def neighbourhood(self):
        return 20, 15

    def others(self, layer, source):
        return pd.Series({"median rank": self.usual, "MRR": 0.1, "relative distance": 1.0})

    def unlike(self, layer, source):
        return {"backbone": (5.25, 0.998), "projector": (1.0, 0.5)}[layer]

    def source(self, source):
        return np.frombuffer(source, np.uint8).reshape(3, 3, 3) if isinstance(source, bytes) else self.pixels[source]


def made(rank, pixels=None):
    pixels = np.zeros((3, 3, 3), np.uint8) if pixels is None else pixels
    return Drawn(pixels, png_of(pixels), 1.0, 0.5, rank, 30, 3)


@pytest.fixture
def pretended(tmp_path):
    for layer in ("backbone", "backbone.stage1", "projector"):
        weights = tmp_path / "mine" / "denoisers" / layer / "weights"
        weights.mkdir(parents=True)
        (weights / "00000001.safetensors").touch()
        (weights.parent / "run.json").write_text("{}")
    (tmp_path / "bare").mkdir()
    state = KnowState({name: Subject(name, tmp_path / name) for name in ("bare", "mine")})
    state.take(Canvas())
    return state


def test_opening_needs_no_torch_and_begins_with_a_run_that_has_denoisers(run, tmp_path):
    code = f"import sys; from workbench.panels import WhatItKnows; v = WhatItKnows([{str(tmp_path)!r}, {str(run.path)!r}])"
    code += "; print(v.state.subject, v.state.left, v.state.right, 'torch' in sys.modules, 'diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["mine", "backbone", "projector", "False", "False"], done.stderr[-1000:]


def test_without_a_run_the_one_that_came_along_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    viewer = wb.WhatItKnows()
    assert list(viewer.state.found) == ["demo"]
    assert viewer.state.layers() == denoised_layers(DemoSubject()) == ["backbone", "projector"]


def test_denoisers_without_weights_are_left_out(tmp_path):
    for layer in ("backbone", "backbone.stage1", "projector"):
        (tmp_path / "denoisers" / layer / "weights").mkdir(parents=True)
        if layer != "projector":
            (tmp_path / "denoisers" / layer / "weights" / "00000001.safetensors").touch()
    assert denoised_layers(Subject("mine", tmp_path)) == ["backbone", "backbone.stage1"]


def test_a_run_without_denoisers_says_what_makes_them(pretended, tmp_path):
    assert (pretended.subject, pretended.left, pretended.right) == ("mine", "backbone", "projector")
    pretended.subject = "bare"
    (said,) = pretended.remarks()
    assert f"`workbench denoise {tmp_path / 'bare'} --layers backbone projector` trains them" in said
    assert pretended.shown() == ["left"]
    pretended.subject = "mine"
    assert pretended.remarks() == []


def test_a_few_samples_of_both_sides_come_first(pretended):
    first = [(condition.layer, i) for condition, i in pretended.wanted()[:9]]
    assert first == [(layer, i) for layer in ("backbone", "projector") for i in range(4)] + [("backbone", 4)]
    assert len(pretended.wanted()) == 32
    pretended.view = "between"
    assert pretended.at == 4  # in the middle, which is neither of the images
    pretended.at = 3
    assert [condition.at for condition, _ in pretended.wanted()[:8]] == [3] * 8
    assert len(pretended.wanted()) == 2 * 9 * 4
    sizes = [len(part) for part in in_chunks(pretended.wanted(), 16)]
    assert sizes == [4, 4, 16, 16, 16, 16]


def test_the_ends_of_the_way_are_the_images_as_they_are(pretended):
    pretended.view = "between"
    conditions = [row.condition for row in pretended.rows("left")]
    assert conditions[0] == Condition("backbone", 0) and conditions[-1] == Condition("backbone", 1)
    assert [c.at for c in conditions[1:-1]] == list(range(1, 8)) and {c.kind for c in conditions[1:-1]} == {"between"}


def test_what_was_drawn_is_remembered_with_how_it_was_drawn(pretended):
    wanted = pretended.wanted()
    pretended.keep(pretended.settings(), [(one, made(1.0)) for one in wanted])
    assert pretended.wanted() == [] and pretended.complete()
    for name, value in (("seed", 1), ("steps", 20), ("guidance", 2.0), ("annealing", 0.5)):
        before = getattr(pretended, name)
        setattr(pretended, name, value)
        assert len(pretended.wanted()) == 32, name
        setattr(pretended, name, before)
    assert pretended.complete()
    pretended.first = 4
    assert len(pretended.wanted()) == 32


def ranked(state, **ranks):
    """Draws as if samples of the layers had these ranks, in turn, and returns the title."""
    state.seed += 1
    state.keep(state.settings(), [((c, i), made(ranks[c.layer][i % len(ranks[c.layer])])) for c, i in state.wanted()])
    return state.title()


def test_the_title_says_which_layer_comes_nearer(pretended):
    assert pretended.title() == "What does the representation still know of an image?"
    nearer = "Samples return nearer to their source in backbone than in projector: median rank 1 [1, 1] against 3 [2, 4]"
    assert ranked(pretended, backbone=[1.0], projector=[2.0, 3.0, 3.0, 4.0]) == nearer
    other = "Samples return nearer to their source in projector than in backbone: median rank 3 [3, 3] against 5 [5, 5]"
    assert ranked(pretended, backbone=[5.0], projector=[3.0]) == other
    alike = "Samples return about as near to their source in projector as in backbone: median rank 4 [2, 6] and 4.5 [1, 8]"
    assert ranked(pretended, backbone=[1.0, 8.0], projector=[2.0, 6.0]) == alike
    # a few ranks far off, which carry the mean away, change nothing
    assert ranked(pretended, backbone=[1.0] * 14 + [30.0] * 2, projector=[2.0, 3.0, 3.0, 4.0]) == nearer
    table = pretended.ranks("right")
    assert table.loc["median rank", ["value", "chance", "others"]].tolist() == [3.0, 15.5, 15.5]
    assert table.loc["MRR", "chance"] == pytest.approx(sum(1 / r for r in range(1, 31)) / 30)
    assert pretended.finding() == (
        "Rank among 30 images by distance in each layer's own space; chance 15.5, other images in place of the samples "
        "15.5. 16 samples of one image, [95% intervals]."
    )


def test_samples_as_near_as_chance_are_said_to_come_back_to_nothing(pretended):
    neither = "Samples of neither layer come back to this image: median rank 14 [14, 14] and 20 [20, 20], chance 15.5"
    assert ranked(pretended, backbone=[14.0], projector=[20.0]) == neither
    one = "Samples return to their source in projector, not in backbone: median rank 2 [2, 2] against 20 [20, 20], chance 15.5"
    assert ranked(pretended, backbone=[20.0], projector=[2.0]) == one
    # an image that any image is near to
    pretended.studio.usual = 4.0
    assert ranked(pretended, backbone=[3.0], projector=[2.5]).startswith("Samples of neither layer come back to this image")
    assert ", other images in place of the samples 4. " in pretended.finding()
    same = "Samples of neither layer come back to this image: median rank 30 [30, 30] and 30 [30, 30], other images 4"
    assert ranked(pretended, backbone=[30.0], projector=[30.0]) == same
    # one layer alone
    pretended.studio.usual = 15.5
    pretended.right = "backbone"
    assert (
        ranked(pretended, backbone=[20.0])
        == "Samples of backbone do not come back to this image: median rank 20 [20, 20], chance 15.5"
    )
    assert ranked(pretended, backbone=[2.0]) == "Samples of backbone return to their source: median rank 2 [2, 2], chance 15.5"


@pytest.mark.parametrize(
    ("n", "low", "high", "level"), [(4, 1, 4, 0.875), (8, 1, 8, 0.95), (16, 4, 13, 0.95), (64, 24, 41, 0.95)]
)
def test_the_median_rank_lies_between_two_of_the_ranks(pretended, n, low, high, level):
    from scipy.stats import quantile_test

    pretended.samples = n
    ranked(pretended, backbone=np.random.default_rng(0).permutation(n) + 1.0, projector=[1.0])
    rank = pretended.ranks("left").loc["median rank"]
    assert [rank[name] for name in ("value", "low", "high", "interval")] == [(n + 1) / 2, low, high, level]
    if n > 5:
        assert quantile_test(np.arange(1, n + 1)).confidence_interval(0.95) == (low, high)


def test_the_factor_that_parts_the_layers_is_named_only_where_it_is_no_accident(pretended, monkeypatch):
    kept = {"left": [1.0, 0.75], "right": [0.125, 0.5]}
    factors = {"factor": ["hue", "label"], "chance": [0.2, 0.5]}
    monkeypatch.setattr(pretended, "kept", lambda side: pd.DataFrame(factors | {"value": kept[side]}))
    ranked(pretended, backbone=[1.0], projector=[1.0])
    told = " Most apart in hue: kept by 16 of 16 in backbone, 2 of 16 in projector (chance 20%)."
    assert pretended.finding().endswith("[95% intervals]." + told)
    kept["left"][0] = 0.375
    assert pretended.finding().endswith("[95% intervals].")


def test_mean_and_deviation_are_those_of_the_samples(pretended):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 3, 3, 3), dtype=np.uint8)
    wanted = [one for one in pretended.wanted() if one[0].layer == "backbone"]
    pretended.keep(pretended.settings(), [(one, made(1.0, pixels[one[1]])) for one in wanted])
    mean, deviation = pretended.maps("left")
    assert mean == pytest.approx(pixels.mean(0) / 255)
    assert deviation == pytest.approx(np.sqrt((pixels / 255).var(0, ddof=1).mean(2)))
    assert pretended.maps("right") is None
    assert deviation.max() <= pretended.darkest() < deviation.max() + 0.05
    wide = np.where(np.arange(16)[:, None, None, None] % 2, 255, 0) * np.ones((3, 3, 3), np.uint8)
    wanted = [one for one in pretended.wanted() if one[0].layer == "projector"]
    pretended.keep(pretended.settings(), [(one, made(1.0, wide[one[1]].astype(np.uint8))) for one in wanted])
    assert pretended.darkest() == 0.55  # of both sides: 0 and 1 deviate by a little more than a half
    sides = [KnowSide(pretended, side, chosen=print) for side in ("left", "right")]
    for side in sides:
        side.draw()
        assert "0 to 0.55, both sides" in side.sheet.object


def test_an_image_that_was_dropped_in_is_told_as_unlike_the_gallery_and_its_factors_are_not_guessed(pretended):
    pretended.studio.reads, pretended.studio.teaches = {"label": 1.0}, True
    pretended.first = bytes(27)
    side = KnowSide(pretended, "left", chosen=print)
    side.draw()
    assert '<div class="quiet strangers"></div>' in side.sheet.object  # the place is kept
    ranked(pretended, backbone=[20.0], projector=[20.0])
    side.draw()
    assert pretended.kept("left").empty and 'class="bar"' not in side.sheet.object
    assert "No factors: their classifiers learned from images like the gallery's" in side.sheet.object
    told = "It is 5.2 times as far from its nearest image of the gallery as these are from theirs, further than 99% of them"
    assert pretended.strangers("left") == [f"{told}: what is drawn of it is a guess."] and told in side.sheet.object
    assert pretended.strangers("right")[0].endswith("further than 50% of them.")
    assert pretended.file_name() == "know_samples_dropped_in.png"
    pretended.view, pretended.studio.common = "dimensions", lambda layer, source: np.array([True, False])
    side.draw()
    assert "No factors: " in side.sheet.object and "factor changed" not in side.sheet.object


def test_blocks_keep_their_places_while_nothing_is_drawn(pretended):
    pretended.studio.reads = {"label": 1.0}
    pretended.studio.read = lambda pixels: pd.DataFrame({"label": np.zeros(len(pixels), int)})
    side = KnowSide(pretended, "left", chosen=print)
    side.draw()
    parts = ('class="map"', 'class="ranks"', 'class="kept"', 'class="bar"', "<tr", "<table")
    empty = [side.sheet.object.count(part) for part in parts]
    assert "by 16 samples" in side.sheet.object and "–" in side.sheet.object and min(empty) > 0
    ranked(pretended, backbone=[1.0], projector=[1.0])
    side.draw()
    assert [side.sheet.object.count(part) for part in parts] == empty and "100%" in side.sheet.object
    pretended.view = "dimensions"
    pretended.studio.common = lambda layer, source: np.array([True, False])
    side.draw()
    parts = ("<tr", "<td", 'class="change"')
    empty = [side.sheet.object.count(part) for part in parts]
    ranked(pretended, backbone=[1.0], projector=[1.0])
    side.draw()
    assert [side.sheet.object.count(part) for part in parts] == empty and "changed, of 8" in side.sheet.object


def test_rows_say_what_becomes_of_common_dimensions(pretended):
    pretended.view = "dimensions"
    words = {side: [row.words for row in pretended.rows(side)][1:3] for side in ("left", "right")}
    assert words["left"] == ["common set to 0", "as many at random set to 0"]
    assert words["right"] == ["common set to the mean", "as many at random set to the mean"]
    assert pretended.meaning("left") == "A dimension is common where it is not 0 in at least 15 of the 20 nearest neighbours."
    assert "where |z| is above its median in at least 15 of the 20 nearest" in pretended.meaning("right")


def image_file(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_dropped_image_is_cropped_resized_and_coloured(state):
    wide = np.zeros((20, 40), np.uint8)
    wide[:, 10:30] = 200
    source = state.drop(image_file(wide))
    seen = state.studio.source(source)
    assert seen.shape == (16, 16, 3) and np.abs(seen.astype(int) - 200).max() < 10  # but for the edges of the resizing
    assert state.first == source and state.dropped == [source]
    with pytest.raises(ValueError, match="That file is no image that can be read: a PNG, JPEG, WebP or GIF is wanted"):
        state.drop(b"no image at all")
    assert state.dropped == [source]
    other = state.drop(image_file(np.full((16, 16), 90, np.uint8)), "second")
    assert (state.first, state.second) == (source, other) and state.dropped == [other, source]
    fill(state)
    assert all(one.candidates == 49 for one in state.of(state.rows("left")[0].condition))  # the gallery's 48, and itself


# the studio


def test_other_images_in_the_place_of_samples_and_how_far_an_image_is_from_the_gallery(studio):
    gallery = studio._said["projector"]
    z = ((gallery.values - gallery.values.mean(0)) / gallery.values.std(0, correction=0)).double()
    apart = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    ranks = [int((apart[row] < apart[row, 5]).sum()) for row in range(48) if row != 5]  # of no. 5, without the row itself
    assert studio.others("projector", 5)["median rank"] == np.median(ranks)
    assert studio.others("projector", 5)["MRR"] == pytest.approx(np.mean([1 / r for r in ranks]))
    black = bytes(3 * 16 * 16)
    row = wb.out_of_distribution(studio._of_source("projector", black), gallery).iloc[0]
    assert studio.unlike("projector", black) == (row["relative"], row["beyond"])
    assert [studio.sparse(layer) for layer in studio.layers] == [wb.is_sparse(studio._said[layer]) for layer in studio.layers]


def test_the_gallery_is_held_out_and_its_images_are_known(run, studio):
    held = run.held_out()
    there = {image.tobytes() for image in held.at(range(len(held))).permute(0, 2, 3, 1).numpy()}
    assert studio.unseen and studio.layers == ["backbone", "projector"]
    assert len(studio.pixels) == 48 and {image.tobytes() for image in studio.pixels} <= there
    assert list(studio.factors) == ["label", "scale", "x", "y", "hue", "background_hue"]


def test_a_source_is_looked_for_among_others(run):
    few = run.held_out()[range(3)]
    with pytest.raises(ValueError, match="among at least 2 images, but of the 3 given 1 can be chosen; give 4"):
        Studio(Subject("mine", run.path, images=lambda: few))
    studio = Studio(Subject("mine", run.path, images=lambda: run.held_out()[range(4)]))
    assert len(studio.pixels) == 2 and studio.draw([Condition("projector", 0)], [0], DrawSettings(steps=2))[0].candidates == 2


def test_samples_are_those_of_the_pipeline_and_no_other_sample_enters(run, studio):
    settings = DrawSettings(seed=3, steps=4, guidance=1.5)
    drawn = studio.draw([Condition("projector", 5)] * 3 + [Condition("projector", 9)], [0, 1, 2, 1], settings)
    pipe = wb.denoisers(run)["projector"].model().pipeline()
    pipe.set_progress_bar_config(disable=True)
    source = torch.tensor(studio.pixels[[5]]).permute(0, 3, 1, 2) / 255
    h = wb.represent_pixels(run.model(), source, "projector")
    images = pipe(
        h, num_images_per_rep=3, num_inference_steps=4, guidance_scale=1.5, latents=wb.shared_noise(pipe, 3, seed=3)
    ).images
    for one, image in zip(drawn, images, strict=False):
        assert np.abs(one.pixels - 255 * image.permute(1, 2, 0).numpy()).max() < 1
    (alone,) = studio.draw([Condition("projector", 5)], [2], settings)
    assert np.abs(alone.pixels.astype(int) - drawn[2].pixels).max() <= 1
    # where the layer has it
    gallery = studio._said["projector"].values.double()
    seen = wb.represent_pixels(run.model(), torch.tensor(drawn[0].pixels[None]).permute(0, 3, 1, 2) / 255, "projector").values
    spread = gallery.std(0, correction=0)
    apart = ((gallery - seen.double()) / spread).norm(dim=1)
    assert drawn[0].nearest == int(apart.argmin()) and drawn[0].distance == pytest.approx(float(apart[5]), rel=1e-4)
    assert drawn[0].rank == 1 + int((apart < apart[5]).sum()) and drawn[0].candidates == 48


def test_noise_on_the_condition_is_each_samples_own(studio):
    settings = DrawSettings(steps=3, annealing=0.8)
    one, other = studio.draw([Condition("backbone", 0)] * 2, [0, 3], settings)
    (alone,) = studio.draw([Condition("backbone", 0)], [3], settings)
    assert np.abs(alone.pixels.astype(int) - other.pixels).max() <= 1
    (plain,) = studio.draw([Condition("backbone", 0)], [3], settings._replace(annealing=0.0))
    assert (plain.pixels != other.pixels).any() and (one.pixels != other.pixels).any()


def test_what_lies_between_and_what_is_changed_are_those_of_the_operators(studio):
    h = {row: studio._said["backbone"][row] for row in (2, 7)}
    way = wb.between(h[2], h[7], 9).values
    for at in (1, 4, 8):
        said = studio._condition(Condition("backbone", 2, "between", 7, at), studio._of_source).values
        assert torch.equal(said, way[at : at + 1])
    common = wb.common_dimensions(h[2], studio._said["backbone"])
    assert torch.equal(studio.common("backbone", 2), common) and 0 < common.sum() < len(common)
    changed = {
        kind: studio._condition(Condition("backbone", 2, kind, 7), studio._of_source).values[0]
        for kind in ("swapped", "random swapped")
    }
    swapped = torch.where(common, h[7].values[0], h[2].values[0])
    assert torch.equal(changed["swapped"], swapped)
    off = changed["random swapped"] != h[2].values[0]
    assert off.sum() <= common.sum() and not torch.equal(changed["random swapped"], swapped)


def test_images_are_drawn_of_tokens_and_looked_for_by_their_mean(denoised_run, tmp_path):
    run = denoised_run(tmp_path / "tokens", ["projector"])
    settings = {"conditioning": "xattn", "trainer": wb.Trainer(epochs=1, batch_size=32), "progress": False}
    wb.train_denoiser(run, "backbone.stage1", widths=(8, 16), **settings)
    state = KnowState(find_subjects(run)[0])
    state.take(studio := Studio(Subject("tokens", run.path)))
    assert state.layers() == ["backbone.stage1", "projector"]
    assert studio.tokens("backbone.stage1") == 64 and studio.tokens("projector") is None
    first, second = (torch.tensor(studio.pixels[[row]]).permute(0, 3, 1, 2) / 255 for row in (5, 9))
    h, other = (wb.represent_pixels(run.model(), x, "backbone.stage1", tokens="all") for x in (first, second))
    pipe = wb.denoisers(run)["backbone.stage1"].model().pipeline()
    pipe.set_progress_bar_config(disable=True)
    common = studio.common("backbone.stage1", 5)
    told = {
        Condition("backbone.stage1", 5): h,
        Condition("backbone.stage1", 5, "between", 9, 3): wb.between(h, other, 9)[3],
        Condition("backbone.stage1", 5, "swapped", 9): wb.manipulate(h, common, to=other),
    }
    for condition, representation in told.items():
        (drawn,) = studio.draw([condition], [2], DrawSettings(seed=1, steps=3))
        noise = wb.shared_noise(pipe, 3, seed=1)[2:]
        image = pipe(representation, num_inference_steps=3, latents=noise).images[0].permute(1, 2, 0).numpy()
        assert np.abs(drawn.pixels - 255 * image).max() < 1, condition
        seen = wb.represent_pixels(run.model(), torch.tensor(drawn.pixels[None]).permute(0, 3, 1, 2) / 255, "backbone.stage1")
        spread = studio._said["backbone.stage1"].values.std(0, correction=0)
        apart = ((seen.values - representation.values.mean(1)) / spread).norm()
        assert drawn.distance == pytest.approx(float(apart), rel=1e-3), condition
    sides = [KnowSide(state, side, chosen=print) for side in ("left", "right")]
    for side in sides:
        side.draw()
    assert "Conditioned on 64 tokens an image; ranks and distances are of their mean." in sides[0].sheet.object
    assert "tokens an image" not in sides[1].sheet.object


def test_factors_are_read_off_pixels_once_somebody_learned(run, state, monkeypatch):
    monkeypatch.setattr("workbench.panels.know_drawing.LEAST", 40)
    fill(state)
    assert state.learns() and state.kept("left").empty
    state.studio.learn()
    try:
        kept = state.kept("left")
        assert not state.learns() and list(kept["factor"]) == list(state.studio.factors)
        assert kept[["value", "chance", "right"]].stack().between(0, 1).all()
        label = state.studio.factors["label"]
        assert kept["chance"].iloc[0] == pytest.approx((label == label[0]).mean())
        read = state.studio.read(np.stack([d.pixels for d in state.of(state.rows("left")[0].condition)]))
        assert kept["value"].iloc[0] == pytest.approx((read["label"] == label[0]).mean())
        state.view = "dimensions"
        assert state.changes("left").empty
        fill(state)
        assert list(state.changes("left")) == ["zeroed", "random zeroed", "swapped", "random swapped"]
        assert list(state.changes("left").index) == list(state.studio.factors)
    finally:
        state.studio.reads, state.studio._readers = {}, {}


def test_near_values_of_a_fine_factor_count_as_one(pretended):
    canvas = Canvas()
    canvas.factors = pd.DataFrame({"hue": range(24), "x": [*range(16), *range(8)], "label": [0, 1] * 12})
    canvas.reads = dict.fromkeys(canvas.factors, 1.0)
    pretended.take(canvas)
    assert pretended.nearness() == {"within": {"hue": 2.0, "x": 1.0}, "periods": {"hue": 24.0}}


# drawing in a thread


def test_the_drawing_stops_when_it_is_told_to():
    class Slow:
        def draw(self, conditions, numbers, settings):
            return [made(1.0) for _ in conditions]

    parts, stop = [], threading.Event()
    wanted = [(Condition("backbone", 0), i) for i in range(200)]
    paint(Slow(), wanted, DrawSettings(), parts.append, lambda: len(parts) == 3)
    assert [len(part) for part in parts] == [4, 8, 16]
    paint(Slow(), wanted, DrawSettings(), parts.append, stop.is_set)
    assert [one for part in parts[3:] for one, _ in part] == wanted


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def test_the_page_draws_what_is_chosen_and_forgets_what_was_not_waited_for(run):
    viewer = wb.WhatItKnows(run)
    assert not viewer._right.visible and viewer.job is None
    viewer.open()
    viewer.job.wait(60)
    looks = []
    viewer.state.param.watch(lambda event: looks.append(event), "first")
    viewer.state.take(wb_studio(viewer))
    viewer.renew()
    viewer.choose(4)  # the first drawing may still go on
    assert viewer.job.stopping.is_set() is False and looks
    viewer.job.wait(60)
    assert viewer.job.error is None
    assert viewer._right.visible and 'data-row="4"' in viewer.gallery.object
    assert viewer.sides["left"].sheet.object.count('class="blank"') <= 16


def wb_studio(viewer):
    from workbench.panels.know_drawing import open_studio

    return open_studio(viewer.state.found[viewer.state.subject], lambda words: None)


def test_a_side_shows_every_sample_with_what_is_known_of_it(state):
    side = KnowSide(state, "left", chosen=print)
    side.draw()
    assert side.sheet.object.count('class="blank"') == 16
    fill(state)
    side.draw()
    shown = side.sheet.object
    assert shown.count('class="sample"') == 16 and 'class="blank"' not in shown
    one = state.of(state.rows("left")[0].condition)[0]
    assert f"distance to the condition <b>{one.distance:.2f}</b> standard deviations" in shown
    assert f"relative distance to the image <b>{one.relative:.2f}</b>" in shown and "<td>relative distance</td>" in shown
    assert f"nearest real image, no. {one.nearest}</figure>" in shown
    state.view = "between"
    fill(state)
    side.draw()
    assert side.sheet.object.count('class="sample"') == 4 + 9 * 4
    assert side.sheet.object.count("rank of the first image") == 4 + 8 * 4  # in the last column it is the second's
    assert side.sheet.object.count("rank of the second image") == 4
    state.view = "dimensions"
    fill(state)
    side.draw()
    assert side.sheet.object.count('class="sample"') == 5 * 8
    assert f"Of 8 dimensions this image has {state.common('left')[0]} in common" in side.sheet.object


def test_a_file_takes_the_place_that_is_chosen_and_one_that_is_no_image_leaves_nothing_behind(run):
    viewer = wb.WhatItKnows(run)
    viewer.state.take(wb_studio(viewer))
    first, viewer.state.view, viewer.which.value = viewer.state.first, "between", 1
    viewer.drop.value = image_file(np.full((16, 16), 90, np.uint8))
    assert viewer.state.first == first and viewer.state.second == viewer.state.dropped[0]
    assert viewer.drop.value is None  # so that the same file is news
    assert viewer.gallery.object.index('data-row="-1"') < viewer.gallery.object.index('data-row="0"')
    assert viewer.gallery.object.count('class="thumb"') == 20  # no more than before, which would move what is below
    viewer._page_by(20)
    assert 'data-row="19"' in viewer.gallery.object and 'data-row="-1"' not in viewer.gallery.object
    viewer.drop.value = b"no image"
    assert viewer.trouble.visible and viewer.trouble.object.startswith("That file is no image that can be read")
    assert viewer.drop.value is None and viewer.drop.uploaded_label == viewer.drop.label
    assert viewer.progress.visible and len(viewer.state.dropped) == 1
    viewer._stop()


@pytest.mark.parametrize("view", ["samples", "between", "dimensions"])
def test_the_picture_to_take_away_holds_the_samples(state, view):
    state.view, state.second, state.seed = view, 3, 1
    rows, (many, step, top) = state.rows("left"), (state.many(), 102, 193)
    left = 32 + 18 + max(round(ImageFont.load_default(21).getlength(row.words)) for row in rows)
    ends = {"samples": [(top, 32)], "between": [(top + 30, 32), (top + 30, 32 + 8 * step)]}.get(
        view, [(top, left), (top, left + step)]
    )
    places = {
        "samples": [(top + i // 8 * step, 146 + i % 8 * step) for i in range(many)],
        "between": [(top + 30 + (1 + i) * step, 32 + at * step) for at in range(9) for i in range(many)],
        "dimensions": [(top + (1 + row) * step, left + i * step) for row in range(5) for i in range(many)],
    }[view]

    def cells(where):
        sheet = np.asarray(Image.open(io.BytesIO(sheet_of(state))))
        return [sheet[top : top + 96 : 6, left : left + 96 : 6] for top, left in where]

    assert all((cell == 255).all() for cell in cells(places))  # what was not drawn yet leaves no mark
    fill(state)
    assert all((cell == state.studio.source(one)).all() for cell, one in zip(cells(ends), state.shows(), strict=True))
    drawn = [d.pixels for row in rows for d in state.of(row.condition)]
    assert all((cell == one).all() for cell, one in zip(cells(places), drawn, strict=True))


@pytest.mark.parametrize(
    ("view", "title", "name"),
    [
        ("samples", "mine: samples of image no. 0", "know_samples_no0.png"),
        ("between", "mine: interpolation from image no. 0 to image no. 3", "know_interpolation_no0_no3.png"),
        ("dimensions", "mine: common dimensions of image no. 0, second image no. 3", "know_common_dimensions_no0_no3.png"),
    ],
)
def test_the_picture_to_take_away_says_what_it_shows(state, monkeypatch, view, title, name):
    state.view, state.second = view, 3
    told = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, at, words, **how: [told.append((words, how["font"].size)), draw(self, at, words, **how)],
    )
    sheet_of(state)
    assert (title, 30) in told and told[1][0].startswith("seed 0, 10 steps, guidance 1; unfinished, 0 of ")
    fill(state)
    told.clear()
    sheet_of(state)
    words = [one for one, _ in told]
    assert words[:2] == [title, "seed 0, 10 steps, guidance 1"] and {size for _, size in told[1:]} == {21}
    assert {"backbone", "projector"} <= set(words) and state.file_name() == name
    for side in ("left", "right"):
        assert any(one.endswith(state.told_rank(side)) for one in words)
    rank = state.ranks("left").loc["median rank"]
    beside = f"chance {rank['chance']:g}" if rank["chance"] <= rank["others"] else f"other images {rank['others']:g}"
    assert state.told_rank("left").endswith(f"; {beside}")
