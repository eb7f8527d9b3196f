"""Published sets of known factors, read from small files that are written here in the true formats."""

import gzip
import json
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.data.published import NORB
from workbench.spec import build, describe

DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty place for data sets and what is unpacked from them."""
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def grid(*lengths):
    return np.stack(np.unravel_index(np.arange(np.prod(lengths)), lengths), 1)


def write_dsprites(path, *, save=np.savez_compressed, **changes):
    classes = grid(1, 3, 2, 4, 3, 2)
    values = np.stack(
        [
            np.ones(len(classes)),
            classes[:, 1] + 1.0,
            np.linspace(0.5, 1, 2)[classes[:, 2]],
            np.linspace(0, 2 * np.pi, 4)[classes[:, 3]],
            np.linspace(0, 1, 3)[classes[:, 4]],
            np.linspace(0, 1, 2)[classes[:, 5]],
        ],
        1,
    )
    imgs = np.random.default_rng(0).integers(0, 2, (len(classes), 8, 8)).astype(np.uint8)
    metadata = np.array({"title": "a pickle, which is never read"}, dtype=object)
    arrays = {"metadata": metadata, "imgs": imgs, "latents_classes": classes, "latents_values": values, **changes}
    save(path, **{key: value for key, value in arrays.items() if value is not None})
    return imgs


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_dsprites_stay_in_their_file_or_in_the_cache(save, home, tmp_path):
    imgs = write_dsprites(tmp_path / DSPRITES, save=save)
    images = wb.dsprites(path=tmp_path)
    assert (images.at(range(144)).numpy() == 255 * imgs[:, None]).all() and images.pixels.shape == (144, 1, 8, 8)
    assert torch.equal(images.at([5, 2, 2]), images.to("cpu").pixels[[5, 2, 2]])
    assert torch.equal(images.where("shape == 'heart'").to("cpu").pixels, images.to("cpu").pixels[96:])
    kept = list((home / "unpacked").iterdir()) if (home / "unpacked").exists() else []
    assert len(kept) == (3 if save is np.savez_compressed else 0)
    assert wb.digest(wb.dsprites(path=tmp_path / DSPRITES)) == wb.digest(images)
    factors = images.factors
    assert factors["label"].value_counts().to_dict() == {0: 48, 1: 48, 2: 48}
    assert [sorted(set(factors[c].round(9))) for c in ("scale", "orientation", "x", "y")] == [
        [0.5, 1],
        [0, 120, 240, 360],
        [0, 0.5, 1],
        [0, 1],
    ]
    assert wb.factor_numbers(images).nunique().tolist() == [3, 2, 4, 3, 2]
    assert (wb.factor_numbers(images).to_numpy() == grid(3, 2, 4, 3, 2)).all()


def test_what_was_unpacked_is_used_again_until_the_file_changes(home, tmp_path):
    write_dsprites(tmp_path / DSPRITES)
    before = {p.name: p.stat().st_mtime_ns for p in (wb.dsprites(path=tmp_path), home / "unpacked")[1].iterdir()}
    wb.dsprites(path=tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in (home / "unpacked").iterdir()} == before
    imgs = write_dsprites(tmp_path / DSPRITES, imgs=np.ones((144, 8, 8), np.uint8))
    assert imgs.min() == 0 and wb.dsprites(path=tmp_path).at([0, 7]).min() == 255


def test_a_set_in_the_data_home_can_be_made_again_from_its_recipe_and_correlated(home):
    write_dsprites(home / DSPRITES)
    images = wb.dsprites()
    again = build(json.loads(json.dumps(describe(images))))
    assert wb.digest(again) == wb.digest(images)
    tied = wb.correlate(images, **wb.correlation_settings(images)["label-scale@0.1"], n=500)
    assert tied.factors["label"].corr(tied.factors["scale"]) > 0.8 and len(tied.at([3, 499])) == 2
    with pytest.raises(ValueError, match="given no path"):
        build(describe(wb.dsprites(path=home)))


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"imgs": None}, "has no array 'imgs'; it has metadata, latents_classes"),
        ({"imgs": np.zeros((143, 8, 8), np.uint8)}, r"shape \(143, 8, 8\) and factors \(144, 6\)"),
        ({"imgs": np.zeros((144, 8, 8))}, "images of float64"),
        ({"latents_classes": grid(1, 3, 2, 4, 3, 2)[::-1]}, "not the full grid of 1 x 3 x 2 x 4 x 3 x 2 in order"),
        ({"latents_classes": grid(1, 4, 2, 3, 3, 2)}, "has 4 shapes, but dSprites has 3"),
        ({"latents_values": np.array([{}] * 144, dtype=object)}, "numbers by rows is wanted"),
    ],
)
def test_a_wrong_file_of_dsprites_is_refused(tmp_path, changes, text):
    write_dsprites(tmp_path / DSPRITES, **changes)
    with pytest.raises(ValueError, match=text):
        wb.dsprites(path=tmp_path)


def test_damaged_and_missing_files_say_what_to_do(tmp_path, home):
    (tmp_path / DSPRITES).write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ValueError, match="is no npz file, or is damaged.*fetch it again"):
        wb.dsprites(path=tmp_path)
    write_dsprites(tmp_path / DSPRITES)
    whole = (tmp_path / DSPRITES).read_bytes()
    with zipfile.ZipFile(tmp_path / DSPRITES) as archive:
        at = archive.getinfo("imgs.npy").header_offset + 60
    (tmp_path / DSPRITES).write_bytes(whole[:at] + bytes(200) + whole[at + 200 :])
    with pytest.raises(ValueError, match="fetch it again"):
        wb.dsprites(path=tmp_path)
    assert not [p for p in (home / "unpacked").iterdir() if p.name.startswith(".part") or "imgs" in p.name]
    for read, text in (
        (wb.dsprites, "dSprites is not in .*there is no dsprites_ndarray.*Fetch it from https://github.com/google-deepmind"),
        (wb.shapes3d, "3D Shapes is not in .*3dshapes.h5"),
        (wb.mpi3d, "MPI3D is not in .*mpi3d_toy.npz"),
        (wb.small_norb, "SmallNORB is not in .*training-dat.mat nor .*training-dat.mat.gz"),
        (wb.cars3d, "holds no .mat files of Cars3D"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"{text}.*WORKBENCH_DATA"):
            read()


def test_a_full_disk_is_seen_before_it_is_filled(tmp_path, monkeypatch):
    import shutil

    write_dsprites(tmp_path / DSPRITES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match="0.0 GB free; make room"):
        wb.dsprites(path=tmp_path)


def write_shapes3d(path, **changes):
    h5py = pytest.importorskip("h5py")
    classes = grid(2, 3, 2, 2, 4, 3)
    spans = [np.arange(2) / 10, np.arange(3) / 10, np.arange(2) / 10, [0.75, 1.25], np.arange(4.0), [-30, 0, 30]]
    labels = np.stack([np.array(span)[column] for span, column in zip(spans, classes.T, strict=True)], 1)
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 8, 6, 3)).astype(np.uint8)
    with h5py.File(path, "w") as file:
        for key, value in {"images": images, "labels": labels, **changes}.items():
            if value is not None:
                file.create_dataset(key, data=value, chunks=(16, *value.shape[1:]), compression="gzip")
    return images


def test_shapes3d_is_read_by_rows(tmp_path):
    stored = write_shapes3d(tmp_path / "3dshapes.h5").transpose(0, 3, 1, 2)
    images = wb.shapes3d(path=tmp_path / "3dshapes.h5")
    assert images.pixels.shape == (288, 3, 8, 6) and not isinstance(images.pixels, torch.Tensor)
    for rows in ([7, 3, 3, 287, 4], [0], [], np.arange(288)[::-1], np.arange(288) % 5 == 0):
        assert (images.at(rows).numpy() == stored[np.asarray(rows, dtype=None if len(rows) else int)]).all()
    assert (images[3:200:7].to("cpu").pixels.numpy() == stored[3:200:7]).all()
    assert list(images.factors) == ["label", "floor_hue", "wall_hue", "hue", "size", "orientation"]
    assert images.factors["label"].dtype == np.int64 and sorted(set(images.factors["orientation"])) == [-30, 0, 30]
    numbers = wb.factor_numbers(images)
    assert numbers.nunique().to_dict() == {"label": 4, "floor_hue": 2, "wall_hue": 3, "hue": 2, "size": 2, "orientation": 3}
    assert len(wb.correlation_settings(images)) == 15
    tied = wb.correlate(images, {"floor_hue": "wall_hue"}, n=64, sigma=0.1)
    assert (tied.to("cpu").pixels[5].numpy() == tied.at([5])[0].numpy()).all()


def test_a_wrong_file_of_shapes3d_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "3dshapes.h5"
    for changes, text in (
        ({"labels": None}, "no HDF5 file with 'images' and 'labels'"),
        ({"labels": np.zeros((288, 5))}, r"factors \(288, 5\)"),
        ({"labels": np.zeros((288, 6))}, "not the full grid"),
    ):
        write_shapes3d(path, **changes)
        with pytest.raises(ValueError, match=text):
            wb.shapes3d(path=path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="or is damaged.*fetch it again"):
        wb.shapes3d(path=path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match="pip install h5py"):
        wb.shapes3d(path=path)


@pytest.mark.parametrize("n, lengths", [(460_800, (4, 4, 2, 3, 3, 40, 40)), (1_036_800, (6, 6, 2, 3, 3, 40, 40))])
def test_mpi3d_is_told_by_its_number_of_images(tmp_path, n, lengths):
    stored = (np.arange(3 * n) % 251).astype(np.uint8).reshape(n, 1, 1, 3)
    np.savez(tmp_path / "mpi3d_real.npz", images=stored)
    images = wb.mpi3d("real", path=tmp_path)
    order = ["object_color", "label", "object_size", "camera_height", "background_color", "horizontal_axis", "vertical_axis"]
    assert tuple(images.factors[order].max() + 1) == lengths and images.name == "mpi3d_real"
    row = np.ravel_multi_index((2, 3, 1, 0, 2, 17, 39), lengths)
    assert images.factors.loc[row, order].tolist() == [2, 3, 1, 0, 2, 17, 39]
    assert images.at([row, 0])[0].flatten().tolist() == stored[row].flatten().tolist()


def test_a_wrong_file_of_mpi3d_is_refused(tmp_path):
    for stored, text in (
        (np.zeros((100, 2, 2, 3), np.uint8), "holds 100 images, but MPI3D has 1,036,800, or 460,800"),
        (np.zeros((100, 2, 2), np.uint8), "height, width, 3"),
    ):
        np.savez_compressed(tmp_path / "mpi3d_toy.npz", images=stored)
        with pytest.raises(ValueError, match=text):
            wb.mpi3d(path=tmp_path)
    with pytest.raises(ValueError, match="'toy', 'realistic', 'real', 'complex'"):
        wb.mpi3d("mini")


def test_cars3d_is_read_from_a_file_a_car(home):
    from scipy.io import savemat

    (home / "cars").mkdir()
    shown = np.zeros((2, 24, 4), int)
    for car in (0, 1):
        im = np.zeros((8, 8, 3, 24, 4), np.uint8)
        for azimuth, elevation in np.ndindex(24, 4):
            shown[car, azimuth, elevation] = 100 * car + 4 * azimuth + elevation
            im[..., azimuth, elevation] = shown[car, azimuth, elevation]
        im[:4, :, 0] = 255  # red above
        savemat(home / "cars" / f"car_{car:03d}_mesh.mat", {"im": im}, do_compression=True)
    images = wb.cars3d(size=8)
    assert images.pixels.shape == (192, 3, 8, 8) and list(images.factors) == ["label", "azimuth", "elevation"]
    assert (wb.factor_numbers(images).to_numpy() == grid(2, 24, 4)).all()
    for i in (0, 5, 100, 191):
        assert (images.pixels[i, 1:] == shown.ravel()[i]).all() and (images.pixels[i, 0, :4] == 255).all()
    again = build(json.loads(json.dumps(describe(images))))
    assert torch.equal(again.pixels, images.pixels)
    assert wb.cars3d(size=4).pixels.shape == (192, 3, 4, 4)
    savemat(home / "cars" / "car_000_mesh.mat", {"im": np.zeros((8, 8, 3, 24), np.uint8)})
    with pytest.raises(ValueError, match=r"\(8, 8, 3, 24\), but \(height, width, 3, 24, 4\)"):
        wb.cars3d()
    (home / "cars" / "car_000_mesh.mat").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="car_000_mesh.mat is no file of MATLAB"):
        wb.cars3d()


def matrix(array):
    """Returns the bytes of a file in NORB's format."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[array.dtype.name]
    lengths = [*array.shape, *[1] * (3 - array.ndim)]
    return struct.pack(f"<Ii{len(lengths)}i", magic, array.ndim, *lengths) + array.tobytes()


def write_norb(folder, split, n, *, packed):
    rng = np.random.default_rng(n)
    dat = rng.integers(0, 256, (n, 2, 6, 6)).astype(np.uint8)
    cat = (np.arange(n) % 5).astype(np.int32)
    info = np.stack([rng.integers(0, 10, n), np.arange(n) % 9, 2 * (np.arange(n) % 18), np.arange(n) % 6], 1).astype(np.int32)
    for kind, array in (("dat", dat), ("cat", cat), ("info", info)):
        file = folder / f"{NORB[split]}-{kind}.mat{'.gz' * packed}"
        file.write_bytes(gzip.compress(matrix(array)) if packed else matrix(array))
    return dat, cat, info


@pytest.mark.parametrize("packed", [False, True])
def test_small_norb_is_read_from_its_matrices(home, packed):
    dat, cat, info = write_norb(home, "train", 36, packed=packed)
    test, *_ = write_norb(home, "test", 20, packed=packed)
    images = wb.small_norb()
    assert images.pixels.shape == (36, 1, 6, 6) and (images.at([30, 2, 2]).numpy() == dat[[30, 2, 2], :1]).all()
    assert (wb.small_norb("train", camera="right").to("cpu").pixels.numpy() == dat[:, 1:]).all()
    assert images.factors["label"].tolist() == cat.tolist() and images.factors["class_name"][3] == "truck"
    assert images.factors["instance"].tolist() == info[:, 0].tolist()
    assert sorted(set(images.factors["elevation"])) == list(range(30, 71, 5))
    assert sorted(set(images.factors["azimuth"])) == list(range(0, 341, 20))
    assert sorted(set(images.factors["lighting"])) == list(range(6))
    both = wb.small_norb("all")
    assert len(both) == 56 and (both.at([40, 3, 36]).numpy() == np.stack([test[4, :1], dat[3, :1], test[0, :1]])).all()
    again = build(json.loads(json.dumps(describe(both))))
    assert torch.equal(again.to("cpu").pixels, both.to("cpu").pixels)
    assert (home / "unpacked").exists() == packed


def test_a_wrong_file_of_small_norb_is_refused(home):
    write_norb(home, "train", 36, packed=False)
    files = {kind: home / f"{NORB['train']}-{kind}.mat" for kind in ("dat", "cat", "info")}
    whole = {kind: file.read_bytes() for kind, file in files.items()}
    for kind, content, text in (
        ("cat", whole["cat"][:-4], r"promises \(36,\) values, but has 140 bytes"),
        ("cat", b"\0" * 40, "no matrix of bytes or integers"),
        ("cat", b"", "it begins with b''"),
        ("cat", matrix(np.zeros(35, np.int32)), "cat and info do not fit"),
        ("cat", matrix(np.full(36, 5, np.int32)), "cat and info do not fit"),
        ("dat", matrix(np.zeros((36, 6, 6), np.uint8)), r"\(scenes, 2, 96, 96\) of bytes is wanted"),
    ):
        files[kind].write_bytes(content)
        with pytest.raises(ValueError, match=text):
            wb.small_norb()
        files[kind].write_bytes(whole[kind])
    files["dat"].unlink()
    (home / f"{files['dat'].name}.gz").write_bytes(gzip.compress(whole["dat"])[:-30])
    with pytest.raises(ValueError, match="dat.mat.gz is damaged.*fetch it again"):
        wb.small_norb()
    for wrong, text in (({"split": "val"}, "'train', 'test' and 'all'"), ({"camera": "top"}, "'left' and 'right'")):
        with pytest.raises(ValueError, match=text):
            wb.small_norb(**wrong)
