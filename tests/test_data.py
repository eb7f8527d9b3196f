"""Data sets: rows stay joined to their factors, pixels come back the same, and what users give is read or refused clearly."""

import base64
import inspect
import io
import json
import os
import pickle
import tarfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import workbench.data
from workbench.data import (
    Images,
    SpriteRenderer,
    cifar10,
    cifar100,
    correlate,
    correlation_weights,
    decode,
    digits,
    draw,
    fashion_mnist,
    folder,
    from_arrays,
    garments,
    huggingface,
    scenes,
    sprites,
    subset,
)
from workbench.data.drawing import rgb
from workbench.spec import available, build, describe

SMALL = {name: {"n": 40} for name in ("garments", "posed_garments", "scenes", "sprites")}


def ready() -> dict:
    """Every data set that needs no argument and no file of the user's."""
    found = {}
    for name, make in available(workbench.data, Images).items():
        arguments = inspect.signature(make).parameters.values() if inspect.isfunction(make) else [None]
        if all(a is not None and a.default is not a.empty and a.name != "path" for a in arguments):
            found[name] = make
    return found


def ramp(n: int = 12, **factors: object) -> Images:
    """Images whose every pixel is their row number."""
    pixels = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 4, 4).clone()
    return Images(pixels, pd.DataFrame({"row": np.arange(n), **factors}), "ramp", recipe={"is": "workbench.data.x:ramp"})


def joined(images: Images, column: str = "row") -> bool:
    shown = images.at(range(len(images)))
    return all((shown[i] == int(row)).all() for i, row in enumerate(images.factors[column]))


# Contract: every data set that can be drawn or read without the user's help


@pytest.mark.parametrize("name", sorted(ready()))
def test_contract(name):
    make = ready()[name]
    images = make(**SMALL.get(name, {}))
    assert images.pixels.dtype == torch.uint8 and len(images.pixels) == len(images.factors) == len(images)
    assert list(images.factors.index) == list(range(len(images)))
    numbers = images.factors.select_dtypes("number")
    assert "label" in numbers and np.isfinite(numbers.to_numpy()).all()
    assert images.factors.columns.is_unique and all(isinstance(c, str) and c.isidentifier() for c in images.factors)
    assert images.pixels.float().std() > 10
    again = build(json.loads(json.dumps(describe(images))))
    assert torch.equal(again.pixels, images.pixels) and again.factors.equals(images.factors) and again.name == images.name
    rows = [7, 3, 3, len(images) - 1]
    part = images[rows]
    assert torch.equal(part.pixels, images.pixels[rows])
    assert part.factors.equals(images.factors.iloc[rows].reset_index(drop=True))
    assert torch.equal(build(json.loads(json.dumps(describe(part)))).pixels, part.pixels)


def test_contract_covers_what_there_is():
    assert {"garments", "sprites", "fashion_mnist", "digits"} <= set(ready())


@pytest.mark.parametrize("name", sorted(n for n, f in ready().items() if "seed" in inspect.signature(f).parameters))
def test_seed_decides(name):
    make = ready()[name]
    one, same, other = (make(seed=s, **SMALL[name]) for s in (1, 1, 2))
    assert torch.equal(one.pixels, same.pixels) and one.factors.equals(same.factors)
    assert (one.pixels != other.pixels).float().mean() > 0.2


# Images


def test_parts_keep_rows_joined():
    images = ramp()
    for part in (images[2:9], images[::3], images[::-2], images[[5, 1, 1, -1]], images[torch.tensor([4, 2])]):
        assert joined(part)
    assert images[::-2].factors["row"].tolist() == [11, 9, 7, 5, 3, 1]
    assert images[[5, 1, 1, -1]].factors["row"].tolist() == [5, 1, 1, 11]
    assert images[(images.factors["row"] > 8).to_numpy()].factors["row"].tolist() == [9, 10, 11]
    assert images[torch.arange(12) < 2].factors["row"].tolist() == [0, 1]
    assert joined(images[3:][[0, 5]]) and len(images[[]]) == 0


def test_where_is_a_query_on_factors():
    images = ramp(kind=list("abc") * 4, tall=np.linspace(0, 1, 12))
    part = images.where("kind == 'b' and tall > 0.3")
    assert part.factors["row"].tolist() == [4, 7, 10] and joined(part)
    assert len(images.where("row > 100")) == 0
    for wrong in ("row = 3", "row", "colour == 3", "row =="):
        with pytest.raises(ValueError, match=r"ramp: the query.*(factors are|comparison such as)"):
            images.where(wrong)


def test_split_by_seed_and_by_factor():
    images = ramp(thing=[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    a, b = images.split(0.75, seed=3)
    assert len(a) == 9 and sorted([*a.factors["row"], *b.factors["row"]]) == list(range(12)) and joined(a) and joined(b)
    assert images.split(0.75, seed=3)[0].factors.equals(a.factors)
    assert not images.split(0.75, seed=4)[0].factors.equals(a.factors)
    a, b = images.split(0.5, by="thing")
    assert len(a) == len(b) == 6 and not set(a.factors["thing"]) & set(b.factors["thing"])
    for wrong in (0, 1, 1.5, -0.2):
        with pytest.raises(ValueError, match="leaves one part empty"):
            images.split(wrong)
    with pytest.raises(KeyError, match="no factor 'colour'"):
        images.split(by="colour")


def test_recipes_of_parts_build_the_parts():
    images = garments(30)
    parts = [
        images[5:20],
        images[::-3],
        images.where("label > 4"),
        *images.split(0.7),
        images[3:][[1, 0, 0]].split(0.5)[1],
        images[:0],
    ]
    for part in parts:
        again = build(json.loads(json.dumps(describe(part))))
        assert torch.equal(again.pixels, part.pixels) and again.factors.equals(part.factors)
    assert describe(images[5:20])["rows"] == "5:20" and describe(images[[4, 9, 10, 11, 2]])["rows"] == "4,9:12,2"
    assert from_arrays(np.zeros((4, 3, 8, 8), np.uint8))[:2].recipe is None


@given(st.lists(st.integers(0, 11), max_size=30))
def test_any_rows_survive_being_written_and_read(rows):
    images = ramp()
    part = images[rows]
    again = subset(images, describe(part)["rows"])
    assert again.factors["row"].tolist() == rows and joined(again)


@pytest.mark.parametrize("rows", ["all", "3:", "0:99", "-1", "5:2", "1:2:3"])
def test_a_wrong_subset_is_refused(rows):
    with pytest.raises(ValueError, match="rows"):
        subset(ramp(), rows)


def test_wrong_rows_say_what_to_do():
    images = ramp()
    for rows, kind, text in (
        (3, TypeError, r"write images\[3:4\]"),
        ("row", TypeError, r"write images.factors\['row'\]"),
        ([0.5, 1.0], TypeError, "float64"),
        ([12], IndexError, "rows 0 to 11, but row 12"),
        ([-13, 2], IndexError, "row -13"),
        ([True, False], ValueError, "a mask of 2 for 12"),
    ):
        with pytest.raises(kind, match=text):
            images[rows]


def test_images_refuse_what_does_not_fit():
    good, table = np.zeros((4, 3, 8, 8), np.uint8), pd.DataFrame({"label": range(4)})
    for pixels, factors, kind, text in (
        (good[:3], table, ValueError, "3 images but 4 rows"),
        (good.astype(np.float32), table, TypeError, "must be uint8 from 0 to 255, but got float32"),
        (good.transpose(0, 2, 3, 1), table, ValueError, r"\(4, 8, 8, 3\)"),
        (good[0], table, ValueError, r"\(3, 8, 8\)"),
        (good, {"label": range(4)}, TypeError, "must be a DataFrame"),
    ):
        with pytest.raises(kind, match=text):
            Images(pixels, factors, "mine")


def test_batches_show_each_image_once_in_a_seeded_order():
    images = ramp(10)
    orders = [torch.cat([i for i, _ in images.batches(4, shuffle=True, seed=s)]) for s in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert sorted(orders[0].tolist()) == list(range(10))
    assert all((pixels[:, 0, 0, 0] == index).all() for index, pixels in images.batches(4, shuffle=True))
    assert [len(i) for i, _ in images.batches(4)] == [4, 4, 2] and [len(i) for i, _ in images.batches(4, drop_last=True)] == [
        4,
        4,
    ]
    assert list(images[:0].batches(4)) == []
    with pytest.raises(ValueError, match="size is 0"):
        next(images.batches(0))


def test_memory_maps_stay_on_disk_until_they_are_used(tmp_path):
    np.save(tmp_path / "p.npy", ramp(50).pixels.numpy())
    images = Images(np.load(tmp_path / "p.npy", mmap_mode="r"), pd.DataFrame({"row": range(50)}), "mapped")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a tensor over read-only memory would be a trap
        for part in (images, images[torch.tensor([5, 1, 1])], images[10:30].where("row % 2 == 0").split(0.5)[1], images[::-1]):
            assert not isinstance(part.pixels, torch.Tensor) and joined(part)
            assert part.pixels.shape == (len(part), 3, 4, 4) and part.pixels.dtype == np.uint8
            for index, pixels in part.batches(3, shuffle=True):
                assert isinstance(pixels, torch.Tensor)
                assert pixels[:, 0, 0, 0].tolist() == part.factors["row"].iloc[index.numpy()].tolist()
        held = images[20:].to("cpu")
    assert isinstance(held.pixels, torch.Tensor) and joined(held) and len(held) == 30
    held.pixels.zero_()
    assert joined(images)


def test_a_read_only_array_is_not_written_through():
    array = np.zeros((3, 1, 8, 8), np.uint8)
    array.flags.writeable = False
    images = Images(array, pd.DataFrame(index=range(3)), "locked")
    images.pixels.fill_(9)
    assert array.sum() == 0


def test_a_notebook_shows_a_row_of_thumbnails():
    for images, width in ((garments(20), 12 * 32), (garments(2, size=200), 2 * 67), (digits()[:3], 3 * 8), (digits()[:0], 1)):
        text = images._repr_html_()
        encoded = text.split("base64,")[1].split('"')[0]
        assert Image.open(io.BytesIO(base64.b64decode(encoded))).width == width and images.name in text


# Drawn images


def test_rgb_agrees_with_the_standard_library():
    import colorsys

    values = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.tensor([colorsys.hsv_to_rgb(*v) for v in values.tolist()], dtype=torch.float64)
    torch.testing.assert_close(rgb(*values.unbind(1)), expected)
    torch.testing.assert_close(rgb(values[:, 0] + 1, *values.unbind(1)[1:]), expected)


@pytest.mark.parametrize("make", [garments, scenes, sprites])
def test_a_renderer_draws_the_images_from_their_factors(make):
    images = make(60, seed=5)
    renderer, factors = images.renderer, images.factors
    assert torch.equal(draw(renderer, factors), images.pixels)
    columns = {c: torch.tensor(factors[c].to_numpy()) for c in factors.select_dtypes("number")}
    drawn = renderer(columns)
    assert drawn.shape == images.pixels.shape and drawn.dtype == torch.float32 and drawn.min() >= 0 and drawn.max() <= 1
    assert (drawn * 255 - images.pixels.float()).abs().max() < 0.51
    assert set(renderer.nuisances) < set(columns) and "label" in columns
    backwards = renderer({c: v.flip(0) for c, v in columns.items()}).flip(0)
    torch.testing.assert_close(backwards, drawn, atol=2e-3, rtol=0)
    fresh = renderer.sample(500, generator=torch.Generator().manual_seed(1))
    assert set(fresh) == set(renderer.nuisances) and all(v.shape == (500,) for v in fresh.values())
    again = renderer.sample(500, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(again[c], fresh[c]) for c in fresh)
    for c, values in fresh.items():
        moved = renderer({**columns, c: values[:60]})
        assert (moved - drawn).abs().amax((1, 2, 3)).median() > 0.02, f"{c} changes nothing"
        assert values.min() >= factors[c].min() - 0.1 * np.ptp(factors[c]) - 1e-6
    with pytest.raises(KeyError, match="are missing"):
        renderer({"label": columns["label"]})


def centre(pixels: torch.Tensor) -> tuple[float, float]:
    """Returns the centre (right, down) of where the picture differs from its corner, in image sides from the middle."""
    weight = ((pixels.float() - pixels[:, :1, :1].float()).abs().sum(0) > 50).float()
    at = (torch.arange(weight.shape[0]) + 0.5) / weight.shape[0] - 0.5
    return ((weight.sum(0) * at).sum() / weight.sum()).item(), ((weight.sum(1) * at).sum() / weight.sum()).item()


@pytest.mark.parametrize("orientation, right, down", [(0, 0, 1), (90, 1, 0), (180, 0, -1), (270, -1, 0)])
def test_orientation_turns_counter_clockwise(orientation, right, down):
    renderer = SpriteRenderer(size=64)
    row = {"label": 4, "scale": 0.6, "orientation": orientation, "x": 0.0, "y": 0.0, "hue": 0.0, "background_hue": 0.5}
    x, y = centre(draw(renderer, pd.DataFrame([row]))[0])  # the drop is heavy below its middle
    assert x == pytest.approx(0.05 * right, abs=0.03) and y == pytest.approx(0.05 * down, abs=0.03)
    assert abs(x) + abs(y) > 0.03


def test_garments_turn_and_move_as_the_columns_say():
    plain = garments(1, size=64).factors.assign(
        rotation=0.0, scale=0.7, x=0.0, y=0.0, background_value=0.0, value=1.0, light=1.0, saturation=0.2
    )
    boot = fashion_mnist("test").factors.query("class_name == 'ankle boot'").index[0]  # its toe is on the left
    plain["garment"] = 10_000 + int(boot)
    renderer = garments(1, size=64).renderer
    x, y = centre(draw(renderer, plain)[0])
    assert abs(x) + abs(y) > 0.05
    x90, y90 = centre(draw(renderer, plain.assign(rotation=90.0))[0])
    assert (x90, y90) == pytest.approx((y, -x), abs=0.02)
    xs, ys = centre(draw(renderer, plain.assign(x=0.12, y=-0.1))[0])
    assert (xs - x, ys - y) == pytest.approx((0.12, -0.1), abs=0.03)


def test_garments_show_every_garment_before_any_twice_and_keep_the_splits_apart():
    train, test = garments(12_000, size=8), garments(2_000, split="test", size=8)
    counts = train.factors["garment"].value_counts()
    assert len(counts) == 10_000 and counts.max() == 2
    assert set(test.factors["garment"]) == set(range(10_000, 12_000)) and train.factors["garment"].max() < 10_000
    assert train.factors["label"].value_counts(normalize=True).between(0.09, 0.11).all()
    assert garments(5).factors.equals(garments(40).factors[:5])
    base = pd.concat([fashion_mnist("train").factors, fashion_mnist("test").factors], ignore_index=True)
    for images in (train, test):
        assert (base["label"].to_numpy()[images.factors["garment"]] == images.factors["label"]).all()
    numbers = train.factors.select_dtypes("number").drop(columns=["label", "garment"])
    for name, (low, high) in train.renderer.ranges.items():
        assert numbers[name].min() == pytest.approx(low, abs=0.01 * (high - low)) and numbers[name].max() <= high
    off_diagonal = numbers.assign(garment=train.factors["garment"]).corr().to_numpy()[~np.eye(15, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.05


def nearest(a: torch.Tensor, b: torch.Tensor, labels: torch.Tensor, k: int = 20) -> torch.Tensor:
    a, b = (torch.nn.functional.normalize(x.flatten(1).float(), dim=1) for x in (a, b))
    votes = labels[(b @ a.T).topk(k, dim=1).indices]
    return torch.nn.functional.one_hot(votes, 10).sum(1).argmax(1)


def test_pixels_say_little_of_garments_and_much_of_plain_fashion_mnist():
    accuracy = {}
    for name, make in (
        ("plain", fashion_mnist),
        ("garments", lambda split: garments(10_000 if split == "train" else 2_000, split=split)),
    ):
        train, test = make("train"), make("test")
        labels, truth = (torch.tensor(x.factors["label"].to_numpy()) for x in (train, test))
        accuracy[name] = (nearest(train.pixels, test.pixels, labels) == truth).float().mean().item()
    assert 0.2 < accuracy["garments"] < 0.27 and 0.78 < accuracy["plain"] < 0.86


def test_ten_thousand_garments_are_drawn_quickly():
    garments(16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        garments(10_000)
        assert time.process_time() - start < 4  # about .4 s on a free core
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "wrong, text", [({"split": "val"}, "'train' and 'test'"), ({"n": 0}, "n is 0"), ({"size": 4}, "size is 4")]
)
def test_garments_refuse(wrong, text):
    with pytest.raises(ValueError, match=text):
        garments(**{"n": 4, **wrong})


def test_sprites_fill_their_grid_once():
    images = sprites(None, scales=2, orientations=3, positions=2, hues=2, background_hues=2, shapes=("heart", "arrow"))
    names = ["label", "scale", "orientation", "x", "y", "hue", "background_hue"]
    assert len(images) == 2 * 2 * 3 * 2 * 2 * 2 * 2 and not images.factors[names].duplicated().any()
    classes = images.renderer.classes(images.factors)
    assert classes.nunique().tolist() == [2, 2, 3, 2, 2, 2, 2] and not classes.duplicated().any()
    for name in names:
        assert np.array(images.renderer.grid[name])[classes[name]].tolist() == images.factors[name].tolist()
    assert len(torch.unique(images.pixels.flatten(1), dim=0)) == len(images)
    assert set(images.factors.loc[images.factors["label"] == 1, "shape"]) == {"arrow"}
    part = sprites(300)
    assert not part.factors.duplicated().any() and (part.renderer.classes(part.factors)["orientation"] < 24).all()


def test_no_sprite_looks_the_same_after_a_turn():
    images = sprites(None, scales=1, orientations=12, positions=1, hues=1, background_hues=1)
    for label in range(5):
        turns = images.where(f"label == {label}").pixels.float().flatten(1) / 255
        apart = torch.cdist(turns, turns) + 1e3 * torch.eye(12)
        assert apart.min() > 2, f"shape {label} has two orientations alike"


def test_a_sprite_covers_the_area_that_its_scale_says():
    rows = pd.DataFrame(
        {"label": 1, "scale": [0.3, 0.6], "orientation": 30.0, "x": 0.013, "y": 0.007, "hue": 0.0, "background_hue": 0.0}
    )
    renderer = SpriteRenderer(size=64, shapes=("drop", "arrow"))
    cover = renderer._coverage(
        torch.ones(2), {c: torch.tensor(v.to_numpy()).float()[:, None, None] for c, v in rows.items() if c in renderer.nuisances}
    )
    corners = np.array([[0, -5], [4, -0.5], [1.5, -0.5], [1.5, 5], [-1.5, 5], [-1.5, -0.5], [-4, -0.5]])
    (x, y), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    area = abs((x * y2 - x2 * y).sum()) / 2 / np.linalg.norm(corners, axis=1).max() ** 2
    for picture, scale in zip(cover, (0.3, 0.6), strict=True):
        assert picture.mean().item() == pytest.approx(area * scale**2 / 4, rel=0.03)


@pytest.mark.parametrize(
    "wrong, text",
    [({"shapes": ["square"]}, "the shapes are"), ({"hues": 0}, "hues is too small"), ({"n": 10**9}, "11,796,480 points")],
)
def test_sprites_refuse(wrong, text):
    with pytest.raises(ValueError, match=text):
        sprites(**{"n": 4, **wrong})


# Fashion-MNIST and digits


def test_embedded_sample_is_stratified():
    for split, each in (("train", 1000), ("test", 200)):
        images = fashion_mnist(split)
        assert images.factors["label"].value_counts().to_dict() == dict.fromkeys(range(10), each)
        assert images.factors["row"].is_monotonic_increasing and images.factors["row"].is_unique
    both = fashion_mnist("all", channels=3)
    assert both.pixels.shape == (12_000, 3, 28, 28) and (both.pixels[:, 0] == both.pixels[:, 2]).all()
    assert torch.equal(both.pixels[10_000:, :1], fashion_mnist("test").pixels)


def test_embedded_sample_is_what_the_full_set_holds(monkeypatch, tmp_path):
    from workbench.data.fashion import DEBIAN

    if not DEBIAN.exists():
        pytest.skip("the full set is not installed")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    for split, n in (("train", 60_000), ("test", 10_000)):
        sample, full = fashion_mnist(split), fashion_mnist(split, full=True)
        rows = sample.factors["row"].to_numpy()
        assert len(full) == n and torch.equal(full.at(rows), sample.pixels)
        assert full.factors["label"].to_numpy()[rows].tolist() == sample.factors["label"].tolist()


def write_idx(path, array):
    import gzip
    import struct

    with gzip.open(path, "wb") as file:
        file.write(b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def test_full_set_is_read_from_the_users_folder(monkeypatch, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28)).astype(np.uint8)
    for file in ("train", "t10k"):
        write_idx(tmp_path / f"{file}-images-idx3-ubyte.gz", pixels)
        write_idx(tmp_path / f"{file}-labels-idx1-ubyte.gz", np.arange(6, dtype=np.uint8))
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    images = fashion_mnist("all", full=True)
    assert len(images) == 12 and (images.pixels[:6, 0].numpy() == pixels).all() and images.factors["label"][5] == 5
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes((tmp_path / "t10k-images-idx3-ubyte.gz").read_bytes()[:200])
    with pytest.raises(ValueError, match="damaged.*fetch it again"):
        fashion_mnist("test", full=True)


def test_full_set_says_the_three_ways_to_get_it(monkeypatch, tmp_path):
    import torchvision

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    monkeypatch.setattr("workbench.data.fashion.DEBIAN", tmp_path / "none")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    with pytest.raises(FileNotFoundError, match=r"(?s)dataset-fashion-mnist.*WORKBENCH_DATA.*internet.*no route to host"):
        fashion_mnist(full=True)
    for wrong in ({"split": "val"}, {"channels": 2}):
        with pytest.raises(ValueError, match="but got"):
            fashion_mnist(**wrong)


def test_digits_split_each_class():
    train, test = digits("train"), digits("test")
    assert len(train) == 1442 and len(test) == 355 and not set(train.factors["row"]) & set(test.factors["row"])
    assert test.factors["label"].value_counts().between(34, 36).all()
    from sklearn.datasets import load_digits

    assert (digits().pixels[:, 0].numpy() == np.round(load_digits().images * 255 / 16)).all()
    with pytest.raises(ValueError, match="'all', 'train' and 'test'"):
        digits("val")


# CIFAR archives, written here in the published formats


def cifar_files(form: str, coarse: bool) -> tuple[dict[str, bytes], np.ndarray, dict]:
    """Returns the files of a small CIFAR, all its train pixels in order and its labels."""
    rng = np.random.default_rng(int(coarse))
    names = ["test"] if coarse else ["test_batch"]
    names = (["train"] if coarse else [f"data_batch_{i}" for i in range(1, 6)]) + names
    files, pixels, labels = {}, [], []
    for name in names:
        data = rng.integers(0, 256, (8, 3072)).astype(np.uint8)
        fine, rough = rng.integers(0, 100 if coarse else 10, 8), rng.integers(0, 20, 8)
        if form == "python":
            keys = {"fine_labels": fine.tolist(), "coarse_labels": rough.tolist()} if coarse else {"labels": fine.tolist()}
            files[name] = pickle.dumps({"data": data, **keys, "filenames": ["a.png"] * 8}, protocol=2)
        else:
            head = np.stack([rough, fine], 1) if coarse else fine[:, None]
            files[f"{name}.bin"] = np.concatenate([head.astype(np.uint8), data], 1).tobytes()
        if "test" not in name:
            pixels.append(data.reshape(-1, 3, 32, 32))
            labels.append((fine, rough))
    words, rough_words = [f"class{i}" for i in range(100 if coarse else 10)], [f"group{i}" for i in range(20)]
    if form == "binary" and coarse:
        files |= {"fine_label_names.txt": "\n".join(words).encode(), "coarse_label_names.txt": "\n".join(rough_words).encode()}
    elif form == "binary":
        files["batches.meta.txt"] = ("\n".join(words) + "\n\n").encode()
    elif coarse:
        files["meta"] = pickle.dumps({"fine_label_names": words, "coarse_label_names": rough_words}, protocol=2)
    else:
        files["batches.meta"] = pickle.dumps({"label_names": words, "num_vis": 3072}, protocol=2)
    fine, rough = (np.concatenate(x) for x in zip(*labels, strict=True))
    return files, np.concatenate(pixels), {"label": fine, "coarse_label": rough}


PLACES = {
    ("python", False): ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ("binary", False): ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    ("python", True): ("cifar-100-python", "cifar-100-python.tar.gz"),
    ("binary", True): ("cifar-100-binary", "cifar-100-binary.tar.gz"),
}


@pytest.mark.parametrize("coarse", [False, True], ids=["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar_in_each_published_form(form, coarse, packed, tmp_path, monkeypatch):
    inner, archive = PLACES[form, coarse]
    files, pixels, labels = cifar_files(form, coarse)
    place = tmp_path / inner
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    direct = place
    if packed:
        with tarfile.open(tmp_path / archive, "w:gz") as tar:
            tar.add(place, inner)
        for file in place.iterdir():
            file.unlink()
        direct = tmp_path / archive
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    read = cifar100 if coarse else cifar10
    for images in (read(path=direct), read(path=tmp_path), read()):
        assert (images.pixels.numpy() == pixels).all() and images.name == f"{read.__name__}_train"
        assert (images.factors["label"] == labels["label"]).all()
        assert images.factors["class_name"].tolist() == [f"class{i}" for i in labels["label"]]
        if coarse:
            assert (images.factors["coarse_label"] == labels["coarse_label"]).all()
            assert images.factors["coarse_class_name"].tolist() == [f"group{i}" for i in labels["coarse_label"]]
    assert len(read("test")) == 8
    assert (build(json.loads(json.dumps(describe(read())))).pixels.numpy() == pixels).all()
    with pytest.raises(ValueError, match="are given no path are built"):  # a stranger's description chooses no file to read
        build(describe(read(path=direct)))
    images.pixels.add_(1)  # memory of its own


def test_cifar_runs_nothing_in_a_pickle(tmp_path):
    files, _, _ = cifar_files("python", False)
    mark = tmp_path / "owned"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    files["data_batch_3"] = pickle.dumps({"data": Evil(), "labels": [0]}, protocol=2)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.mkdir.*do not trust this file"):
        cifar10(path=tmp_path)
    assert not mark.exists()
    files["data_batch_3"] = pickle.dumps({"data": np.array([print], dtype=object), "labels": [0]}, protocol=2)
    (tmp_path / "data_batch_3").write_bytes(files["data_batch_3"])
    with pytest.raises(ValueError, match=r"asks for (__builtin__|builtins)\.print"):
        cifar10(path=tmp_path)


def test_damaged_cifar_says_so(tmp_path, monkeypatch):
    import torchvision

    def offline(*_, **__):
        raise OSError("no route to host")

    files, _, _ = cifar_files("python", False)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data[: len(data) // 2] if name == "data_batch_2" else data)
    with pytest.raises(ValueError, match="could not be read"):
        cifar10(path=tmp_path)
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}, protocol=2))
    with pytest.raises(ValueError, match="not as published"):
        cifar10(path=tmp_path)
    with pytest.raises(ValueError, match="'train' and 'test'"):
        cifar10("val")
    with pytest.raises(FileNotFoundError, match="neither cifar-100-python.tar.gz nor cifar-100-binary.tar.gz"):
        cifar100(path=tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not a tar")
    with pytest.raises(ValueError, match="no archive, or is damaged"):
        cifar10(path=tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(FileNotFoundError, match=r"(?s)path=.*WORKBENCH_DATA.*internet.*no route to host"):
        cifar10()


# Folders and tables


def save(path, colour=(200, 30, 30), size=(20, 12), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "pets"
    for i, name in enumerate(("cat/a.jpg", "cat/deep/b.PNG", "dog/c.webp", "dog/d.bmp", "dog/e.jpeg")):
        save(root / name, (40 * i, 255 - 40 * i, 0), (20 + 3 * i, 31 - 4 * i))
    (root / "dog" / "notes.txt").write_text("not an image")
    save(root / ".ipynb_checkpoints" / "hidden.png")
    save(root / "dog" / "._c.png")
    return root


def look(path, tmp_path, **options):
    return folder(path, size=16, cache=tmp_path / "cache", progress=False, **options)


def stores(tmp_path):
    return [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"]


def test_folder_reads_any_tree(tree, tmp_path):
    images = look(tree, tmp_path)
    assert images.factors["path"].tolist() == ["cat/a.jpg", "cat/deep/b.PNG", "dog/c.webp", "dog/d.bmp", "dog/e.jpeg"]
    assert images.factors["label"].tolist() == [0, 0, 1, 1, 1] and images.factors["class_name"].unique().tolist() == [
        "cat",
        "dog",
    ]
    assert images.pixels.shape == (5, 3, 16, 16) and images.name == "pets" and isinstance(images.pixels, np.memmap)
    for i in range(5):
        assert (images.at([i]).float().mean((0, 2, 3)) - torch.tensor([40.0 * i, 255 - 40 * i, 0])).abs().max() < 4
    assert look(tree, tmp_path, level=-1).factors["class_name"].tolist() == ["cat", "deep", "dog", "dog", "dog"]
    assert list(look(tree, tmp_path, level=None).factors) == ["path"]
    assert list(look(tree / "cat" / "deep", tmp_path).factors) == ["path"]
    with pytest.raises(ValueError, match="folder of level 1"):
        look(tree, tmp_path, level=1)
    recipe = describe(images)
    assert recipe["path"] == str(tree) and recipe["size"] == 16
    with pytest.raises(ValueError, match="are given no path are built"):
        build(recipe)


def test_folder_decodes_once_and_notices_changes(tree, tmp_path, monkeypatch):
    import workbench.data.folders as module

    calls = []
    monkeypatch.setattr(module, "decode", lambda file, **k: (calls.append(file), decode(file, **k))[1])
    first = look(tree, tmp_path)
    assert len(calls) == 5
    same = look(tree, tmp_path)
    assert len(calls) == 5 and (same.pixels == first.pixels).all()
    save(tree / "cat" / "new.png")
    assert len(look(tree, tmp_path)) == 6 and len(calls) == 11
    save(tree / "cat" / "new.png", (1, 2, 3))
    os.utime(tree / "cat" / "new.png", (1, 1))
    assert look(tree, tmp_path).at([2])[0, :, 0, 0].tolist() == [1, 2, 3] and len(calls) == 17
    (tree / "cat" / "new.png").unlink()
    assert len(look(tree, tmp_path)) == 5
    assert len(stores(tmp_path)) == 1  # old listings leave nothing behind
    look(tree, tmp_path, fit="pad")
    assert len(stores(tmp_path)) == 2  # other settings stand beside it


def test_folder_leaves_nothing_of_an_interrupted_decoding(tree, tmp_path, monkeypatch):
    import workbench.data.folders as module

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        look(tree, tmp_path)
    assert stores(tmp_path) == []
    monkeypatch.undo()
    assert len(look(tree, tmp_path)) == 5


def test_folder_lists_corrupt_files_and_skips_them(tree, tmp_path):
    whole = (tree / "dog" / "e.jpeg").read_bytes()
    (tree / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tree / "dog" / "empty.png").write_bytes(b"")
    (tree / "dog" / "text.png").write_text("no image at all")
    (tree / "dog" / "lost.png").symlink_to(tmp_path / "nowhere")
    for _ in range(2):  # decoding, and from the cache
        with pytest.warns(UserWarning, match="(?s)4 of 9 images could not be decoded.*skipped.csv.*left out") as caught:
            images = look(tree, tmp_path)
        assert images.factors["path"].tolist() == ["cat/a.jpg", "cat/deep/b.PNG", "dog/c.webp", "dog/d.bmp", "dog/e.jpeg"]
        for i in range(5):
            assert (images.at([i]).float().mean((0, 2, 3)) - torch.tensor([40.0 * i, 255 - 40 * i, 0])).abs().max() < 4
        listed = pd.read_csv(str(caught[0].message).split("listed in ")[1].split("skipped.csv")[0] + "skipped.csv")
        assert {p.rsplit("/", 1)[1] for p in listed["path"]} == {"cut.jpg", "empty.png", "text.png", "lost.png"}
        assert listed["reason"].str.len().gt(5).all()
    with pytest.raises(ValueError, match="(?s)4 of 9 images.*cut.jpg.*corrupt='skip'"):
        look(tree, tmp_path, corrupt="raise")


def test_folder_with_nothing_to_read(tmp_path):
    for make, kind, text in (
        (lambda: tmp_path / "none", FileNotFoundError, "there is no .*none; give a folder"),
        (lambda: (tmp_path / "empty").mkdir() or tmp_path / "empty", FileNotFoundError, "holds no image, at any depth"),
        (lambda: save(tmp_path / "one.jpg"), ValueError, "neither a folder nor a table"),
    ):
        with pytest.raises(kind, match=text):
            look(make(), tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="None is left"):
        look(tmp_path / "broken", tmp_path)
    for wrong in ({"fit": "zoom"}, {"channels": 4}, {"corrupt": "ignore"}, {"background": "no colour"}):
        with pytest.raises(ValueError):
            look(tmp_path / "broken", tmp_path, **wrong)
    with pytest.raises(ValueError, match="size is 0"):
        folder(tmp_path / "broken", size=0)


def test_folder_follows_links_but_not_in_circles(tree, tmp_path):
    (tree / "again").symlink_to(tree / "cat")
    (tree / "cat" / "circle").symlink_to(tree)
    (tree / "dog" / "circle").symlink_to(tree / "dog")
    paths = look(tree, tmp_path).factors["path"].tolist()
    assert "again/a.jpg" in paths and len(paths) == 7


def test_folder_does_not_hide_what_it_may_not_read(tree, tmp_path, monkeypatch):
    real = os.scandir

    def denied(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError, match="dog .Permission denied"):
        look(tree, tmp_path)


def test_folder_needs_room_on_the_disk(tree, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match="free; make room, or say cache="):
        look(tree, tmp_path)


def test_of_several_at_once_one_decodes_and_the_rest_wait(tree, tmp_path, monkeypatch):
    import workbench.data.folders as module

    calls = []
    monkeypatch.setattr(module, "decode", lambda path, **k: (calls.append(path), time.sleep(0.05), decode(path, **k))[2])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: look(tree, tmp_path), range(4)))
    assert len(calls) == 5 and all((other.pixels == found[0].pixels).all() for other in found)


def test_what_a_killed_process_left_is_removed(tree, tmp_path):
    look(tree, tmp_path)
    (store,) = stores(tmp_path)
    left = store.rename(store.with_name(f".{store.name.rsplit('-', 1)[0]}-abc123"))
    assert len(look(tree, tmp_path)) == 5 and not left.exists() and stores(tmp_path) == [store]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_folder_reads_a_table_of_paths_and_factors(tree, tmp_path, suffix):
    table = pd.DataFrame(
        {"file": ["dog/c.webp", "cat/a.jpg", "dog/c.webp"], "angle": [0.5, 1.5, 2.5], "label": ["dog", "cat", "dog"]}
    )
    path = tree / f"table.{suffix}"
    {"csv": table.to_csv, "tsv": lambda p, index: table.to_csv(p, sep="\t", index=index), "parquet": table.to_parquet}[suffix](
        path, index=False
    )
    images = look(path, tmp_path, column="file")
    assert images.factors["angle"].tolist() == [0.5, 1.5, 2.5] and images.factors["path"].tolist() == table["file"].tolist()
    assert images.factors["label"].tolist() == [1, 0, 1] and images.factors["class_name"].tolist() == ["dog", "cat", "dog"]
    assert torch.equal(images.at([0]), images.at([2])) and not torch.equal(images.at([0]), images.at([1]))
    elsewhere = tmp_path / f"elsewhere.{suffix}"
    path.rename(elsewhere)
    assert len(look(elsewhere, tmp_path, column="file", root=tree)) == 3


@pytest.mark.parametrize(
    "table, kind, text",
    [
        ({"file": ["cat/a.jpg"]}, ValueError, r"no column 'path' of paths; it has \['file'\]: say column="),
        ({"path": []}, ValueError, "has no rows"),
        ({"path": ["cat/a.jpg", None]}, ValueError, "no path in row 1"),
        ({"path": ["cat/a.jpg", "cat/z.jpg", "x.png"]}, FileNotFoundError, r"(?s)2 of 3 files.*cat/z.jpg; say root="),
    ],
)
def test_a_wrong_table_says_so(tree, tmp_path, table, kind, text):
    pd.DataFrame(table).to_csv(tree / "t.csv", index=False)
    with pytest.raises(kind, match=text):
        look(tree / "t.csv", tmp_path)


# Pictures of every kind


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return file


def test_fits_keep_the_right_part():
    array = np.zeros((10, 30, 3), np.uint8)
    array[:, :10, 0] = array[:, 10:20, 1] = array[:, 20:, 2] = 250  # red, green, blue thirds
    crop, pad, stretch = (decode(encoded(Image.fromarray(array)), size=12, fit=f) for f in ("crop", "pad", "stretch"))
    assert crop[1].min() > 180 and crop[0, :, 2:-2].max() < 60
    assert (pad[:, 0] == 255).all() and (pad[:, -1] == 255).all() and pad[0, 6, 1] > 200 > 60 > pad[1, 6, 1]
    assert stretch[0, 0, 0] > 200 and stretch[2, -1, -1] > 200 and stretch[1, 6, 6] > 200
    assert decode(encoded(Image.fromarray(array)), size=12, fit="pad", background="black")[:, 0].max() == 0


def test_orientation_in_exif_is_obeyed():
    array = np.zeros((16, 16, 3), np.uint8)
    array[:8] = 255  # white above
    for tag, side in ((1, np.s_[:, 2, :]), (3, np.s_[:, -3, :]), (6, np.s_[:, :, -3]), (8, np.s_[:, :, 2])):
        image = Image.fromarray(array)
        exif = image.getexif()
        exif[0x0112] = tag
        pixels = decode(encoded(image, "JPEG", exif=exif, quality=95), size=16)
        assert pixels[side].min() > 200 and pixels.mean() == pytest.approx(127.5, abs=8), tag


def test_modes_become_bytes():
    grey16 = Image.fromarray(np.full((8, 8), 0x80FF, np.uint16))
    half = np.full((8, 8, 4), 255, np.uint8)
    half[:, 4:, 3] = 0
    half[..., :3] = (10, 20, 30)
    palette = Image.fromarray(half).convert("RGB").convert("P")
    assert (decode(encoded(grey16), size=8) == 0x80).all()
    assert (decode(encoded(grey16), size=8, channels=1) == 0x80).all()
    clear = decode(encoded(Image.fromarray(half)), size=8, background="white")
    assert clear[:, 0, 0].tolist() == [10, 20, 30] and (clear[:, :, 4:] == 255).all()
    assert decode(encoded(Image.new("L", (8, 8), 77)), size=8)[:, 0, 0].tolist() == [77] * 3
    assert decode(encoded(Image.new("LA", (8, 8), (77, 0))), size=8).min() == 255
    assert decode(encoded(Image.new("1", (8, 8), 1)), size=8).min() == 255
    assert decode(encoded(palette), size=8)[:, 0, 0].tolist() == pytest.approx([10, 20, 30], abs=26)
    assert decode(encoded(Image.new("P", (8, 8), 0), transparency=0), size=8).min() == 255
    assert decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), size=8)[0].min() > 200
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    assert decode(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), size=8)[0].min() > 200
    with pytest.raises(ValueError, match="floating-point"):
        decode(encoded(Image.new("F", (8, 8), 0.5), "TIFF"), size=8)


def test_a_large_jpeg_is_decoded_at_a_smaller_scale_to_the_same_picture():
    picture = Image.fromarray(garments(1, size=600).pixels[0].permute(1, 2, 0).numpy())
    small, exact = (decode(encoded(picture, form, **o), size=32) for form, o in (("JPEG", {"quality": 98}), ("PNG", {})))
    assert np.abs(small.astype(int) - exact).mean() < 3


# Arrays and Hugging Face


def test_from_arrays_guesses_and_says_so():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 3, 8, 10)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (from_arrays(pixels).pixels.numpy() == pixels).all()
        assert (from_arrays(torch.from_numpy(pixels) / 255).pixels.numpy() == pixels).all()
        assert (from_arrays(pixels.transpose(0, 2, 3, 1), layout="NHWC").pixels.numpy() == pixels).all()
        assert from_arrays(pixels[:, 0]).pixels.shape == (6, 1, 8, 10)
        assert from_arrays(np.zeros((2, 3, 8, 8), np.float16)).pixels.dtype == torch.uint8
    with pytest.warns(UserWarning, match="taken as NHWC"):
        images = from_arrays(pixels.transpose(0, 2, 3, 1), {"x": range(6)}, labels=list("babaca"), name="mine")
    assert (images.pixels.numpy() == pixels).all() and images.name == "mine"
    assert images.factors["label"].tolist() == [1, 0, 1, 0, 2, 0] and images.factors["class_name"].tolist() == list("babaca")
    assert images.factors["x"].tolist() == list(range(6)) and describe(images) is None
    table = pd.DataFrame({"y": [1.0, 2.0]}, index=[5, 9])
    assert from_arrays(pixels[:2], table, labels=torch.tensor([4, 5])).factors.to_dict("list") == {
        "label": [4, 5],
        "y": [1.0, 2.0],
    }


@pytest.mark.parametrize(
    "pixels, more, kind, text",
    [
        (np.zeros((2, 3, 8, 3), np.uint8), {}, ValueError, "both ways.*layout="),
        (np.zeros((2, 4, 8, 8), np.uint8), {}, ValueError, "no side of 1 or 3"),
        (np.zeros((2, 8), np.uint8), {}, ValueError, "3 or 4 dimensions"),
        (np.zeros((2, 3, 8, 8), np.int64), {}, TypeError, "are int64"),
        (np.full((2, 3, 8, 8), 1.5), {}, ValueError, r"\[0, 1\], but go from 1.5 to 1.5"),
        (np.full((2, 3, 8, 8), np.nan), {}, ValueError, "go from nan"),
        (np.zeros((2, 3, 8, 8), np.uint8), {"labels": [1, 2, 3]}, ValueError, "labels must be one an image"),
        (np.zeros((2, 3, 8, 8), np.uint8), {"factors": {"a": [1]}}, ValueError, "2 images but 1 rows"),
        (np.zeros((2, 3, 8, 8), np.uint8), {"layout": "HW"}, ValueError, "'NCHW', 'NHWC' or 'auto'"),
    ],
)
def test_from_arrays_refuses(pixels, more, kind, text):
    with pytest.raises(kind, match=text):
        from_arrays(pixels, **more)


def test_hugging_face_in_memory():
    datasets = pytest.importorskip("datasets")
    source = garments(6)
    pictures = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in source.pixels]
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine": datasets.ClassLabel(names=["a", "b", "c"]),
            "size": datasets.Value("float32"),
            "who": datasets.Value("string"),
            "boxes": datasets.Sequence(datasets.Value("int32")),
        }
    )
    rows = {"img": pictures, "fine": [0, 2, 1, -1, 0, 1], "size": np.arange(6) / 2, "who": list("uvwxyz"), "boxes": [[1, 2]] * 6}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    images = huggingface(dataset, image="img", progress=False)
    assert torch.equal(images.pixels, source.pixels)
    assert images.factors.to_dict("list") == {
        "label": [0, 2, 1, -1, 0, 1],
        "class_name": ["a", "c", "b", "", "a", "b"],
        "size": [0, 0.5, 1, 1.5, 2, 2.5],
        "who": list("uvwxyz"),
    }
    raw = dataset.cast_column("img", datasets.Image(decode=False))
    assert torch.equal(huggingface(raw, image="img", progress=False).pixels, source.pixels)
    assert huggingface(dataset.rename_columns({"img": "image", "fine": "label"}), size=16, progress=False).pixels.shape == (
        6,
        3,
        16,
        16,
    )
    mixed = datasets.Dataset.from_dict(
        {"image": [pictures[0], pictures[1].resize((20, 24))]}, features=datasets.Features({"image": datasets.Image()})
    )
    assert list(huggingface(mixed, size=16, progress=False).factors) == []
    for wrong, more, kind, text in (
        (mixed, {}, ValueError, "2 shapes.*say size="),
        (mixed, {"image": "img"}, KeyError, "no column 'img'; it has"),
        (dataset, {"image": "size"}, TypeError, "holds float, not images"),
        (datasets.DatasetDict(train=mixed), {}, ValueError, r"one split.*dataset\['train'\]"),
        (mixed.select([]), {}, ValueError, "no rows"),
    ):
        with pytest.raises(kind, match=text):
            huggingface(wrong, progress=False, **more)


# Factors that go together


def test_correlation_weights_are_the_equation():
    factors = pd.DataFrame({"a": [2.0, 4.0, 3.0, 2.5], "b": [10, 30, 20, 30], "name": list("zxyx")})
    ua, ub, un = [0, 1, 0.5, 0.25], [0, 1, 0.5, 1], [1, 0, 0.5, 0]
    for b, other in (("b", ub), ("name", un)):
        expected = [np.exp(-((x - y) ** 2) / (2 * 0.3**2)) for x, y in zip(ua, other, strict=True)]
        np.testing.assert_allclose(correlation_weights(factors, "a", b, sigma=0.3), expected)
    product = correlation_weights(factors, "a", "b", sigma=0.3) * correlation_weights(factors, "a", "name", sigma=0.3)
    np.testing.assert_allclose(correlation_weights(factors, "a", ["b", "name"], sigma=0.3), product)
    flipped = [np.exp(-((x - 1 + y) ** 2) / (2 * 0.3**2)) for x, y in zip(ua, ub, strict=True)]
    np.testing.assert_allclose(correlation_weights(factors, "a", "b", sigma=0.3, inverse=True), flipped)
    assert correlation_weights(factors, "a", "b", sigma=1e6) == pytest.approx(np.ones(4))


def test_correlate_gives_images():
    images = sprites(2000, seed=1)
    strong = correlate(images, "x", "hue", sigma=0.1, seed=3)
    assert len(strong) == 2000 and strong.factors[["x", "hue"]].corr().iloc[0, 1] > 0.8
    assert correlate(images, "x", "hue", inverse=True).factors[["x", "hue"]].corr().iloc[0, 1] < -0.8
    assert torch.equal(draw(strong.renderer, strong.factors), strong.pixels)
    again = build(json.loads(json.dumps(describe(strong))))
    assert torch.equal(again.pixels, strong.pixels) and again.name == "sprites_correlated"
    thin = correlate(images, "x", "hue", method="thin")
    assert len(thin) < 1000 and not thin.factors.duplicated().any() and thin.factors[["x", "hue"]].corr().iloc[0, 1] > 0.8
    assert len(correlate(images, "x", ["hue", "y"], n=50)) == 50
    for wrong, kind, text in (
        ({"a": "colour"}, KeyError, "no factor 'colour'"),
        ({"sigma": 0}, ValueError, "sigma must be positive"),
        ({"method": "drop"}, ValueError, "'resample' or 'thin'"),
        ({"method": "thin", "n": 5}, ValueError, "n is 5; leave n out, or take 'resample'"),
    ):
        with pytest.raises(kind, match=text):
            correlate(images, **{"a": "x", "b": "y", **wrong})
    with pytest.raises(ValueError, match="'scale' is 0.52 for every image"):
        correlate(sprites(20, scales=1), "scale", "x")


def test_a_mask_is_a_mask_of_whatever_kind():
    images = Images(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), pd.DataFrame({"label": range(5)}), "five")
    mask = [False, True, False, True, True]
    for rows in (mask, np.array(mask), torch.tensor(mask)):
        assert images.at(rows).flatten().tolist() == [1, 3, 4]
        assert images[rows].factors["label"].tolist() == [1, 3, 4]
