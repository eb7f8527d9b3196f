"""What a representation still knows: the data, the reader and the numbers of the paper's reproduction."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import workbench as wb
from workbench.papers import rcdm


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rcdm.train("SimCLR", "sprites", tmp_path_factory.mktemp("runs") / "run", scale="smoke", progress=False)


@pytest.fixture(scope="module")
def table(run):
    return rcdm.judged(run, "backbone", data="sprites", scale="smoke")


def of(table, **settings):
    for name, value in settings.items():
        table = table[table[name] == value]
    return table


def test_what_is_held_out_was_not_trained_on():
    for data in ("sprites", "garments"):
        images, held = rcdm.images_of(data, scale="smoke")
        assert len(images) == 512 and len(held) == 256 and images.pixels.shape[-1] == 16
        drawn = [set(map(bytes, x.at(range(len(x))).flatten(1).numpy())) for x in (images, held)]
        assert not drawn[0] & drawn[1]


def test_factors_become_whole_numbers_of_known_range():
    _, held = rcdm.images_of("sprites", scale="smoke")
    found = rcdm.classes(held, "sprites")
    assert found.max().to_dict() == {"label": 2, "scale": 3, "x": 5, "y": 5, "hue": 7, "background_hue": 7}
    places = np.unique(held.factors["x"])
    assert (places[found["x"]] == held.factors["x"]).all()
    assert (found["hue"] == np.floor(held.factors["hue"] * 8 + 1e-6)).all()
    _, held = rcdm.images_of("garments", scale="smoke")
    found = rcdm.classes(held, "garments")
    edges = np.linspace(-30, 30, 5)
    assert (found["rotation"] == pd.cut(held.factors["rotation"], edges, labels=False)).all()
    assert found["label"].nunique() == 10 and found.drop(columns="label").max().max() == 3


def test_principal_components_are_those_of_the_pixels():
    from sklearn.decomposition import PCA

    images, _ = rcdm.images_of("sprites", scale="smoke")
    x = images.at(range(len(images)))
    got = wb.represent(rcdm.principal(images, 8).eval(), images, "backbone").values
    wanted = PCA(8, svd_solver="full").fit_transform(x.flatten(1).double() / 255)
    np.testing.assert_allclose(np.abs(got), np.abs(wanted), atol=1e-4)


def test_a_reader_reads_what_it_learned_and_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    rcdm.reader_of.cache_clear()
    reader = rcdm.reader_of("sprites", scale="smoke")
    assert torch.equal(before, torch.get_rng_state())
    _, held = rcdm.images_of("sprites", scale="smoke")
    x = held.at(range(len(held))).float() / 255
    read, truth = reader.read(x), rcdm.classes(held, "sprites")
    assert list(read) == list(truth) and reader.code(x).shape == (len(held), 128)
    assert (read["background_hue"] == truth["background_hue"]).mean() > 0.5  # of 8


def test_layers_and_names_that_are_not_there(tmp_path):
    assert rcdm.layers_of("SimCLR") == ("backbone", "projector")
    assert rcdm.layers_of("supervised") == ("backbone",)
    with pytest.raises(KeyError, match="SimCLR"):
        rcdm.train("SimClr", "sprites", tmp_path, scale="smoke", progress=False)


def test_a_training_is_opened_again(run):
    again = rcdm.train("SimCLR", "sprites", run.path, scale="smoke", progress=False)
    assert again.path == run.path and list(wb.denoisers(again)) == ["backbone", "projector"]
    assert all(one.finished for one in wb.denoisers(again).values())


def test_every_analysis_gives_its_numbers(table):
    assert list(table) == ["analysis", "setting", "factor", "measure", "value", "chance"]
    asked = {"samples", "probe", "invariance", "views", "manipulation", "between", "attack"}
    assert set(table["analysis"]) == asked and table["value"].notna().all()
    shares = table[table["measure"].isin(["kept", "shared", "accuracy", "changed", "MRR", "as moved", "as it was"])]
    assert shares["value"].between(0, 1).all()
    assert set(of(table, analysis="invariance")["setting"]) == set(wb.MOVES)


def test_shuffled_conditions_are_at_chance(table):
    ranks = of(table, analysis="samples", setting="shuffled", measure="mean rank").iloc[0]
    assert ranks["chance"] == (256 + 1) / 2
    assert abs(ranks["value"] - ranks["chance"]) < 3 * 256 / (12 * 24) ** 0.5
    kept = of(table, analysis="samples", setting="shuffled", measure="kept")
    assert (kept["value"] - kept["chance"]).abs().mean() < 0.1


def test_no_attack_moves_nothing_and_gives_the_source_the_first_rank(table):
    for kind in ("FGSM 0", "PGD 0"):
        found = of(table, analysis="attack", setting=kind).set_index("measure")["value"]
        assert found["moved"] < 1e-9 and found["rank"] == 1
    accuracy = of(table, analysis="attack", measure="probe accuracy").set_index("setting")["value"]
    assert accuracy["FGSM 8"] <= accuracy["FGSM 0"] and accuracy["PGD 8"] <= accuracy["PGD 1"]


def test_the_reader_is_judged_on_real_images(table):
    _, held = rcdm.images_of("sprites", scale="smoke")
    order = np.random.default_rng(0).permutation(256)[:24]
    read = rcdm.reader_of("sprites", scale="smoke").read(held.at(order).float() / 255)
    wanted = (read == rcdm.classes(held, "sprites").iloc[order].reset_index(drop=True)).mean()
    kept = of(table, analysis="samples", setting="the image itself", measure="kept").set_index("factor")["value"]
    assert kept.to_dict() == pytest.approx(wanted.to_dict())


def test_ends_of_a_line_are_the_plain_samples(table):
    line = of(table, analysis="between").pivot(index="setting", columns="measure", values="value")
    assert line.loc["0", "first"] >= line.loc["1", "first"] and line.loc["1", "second"] >= line.loc["0", "second"]


def test_a_folder_of_images_is_asked_what_it_can_be_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    for i in range(96):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    images, held = rcdm.images_of(str(tmp_path), scale="smoke")
    assert (len(images), len(held)) == (77, 19)
    monkeypatch.setitem(rcdm.SCALES, "smoke", rcdm.SCALES["smoke"]._replace(sources=8))
    run = rcdm.train("PCA of pixels", str(tmp_path), tmp_path / "run", scale="smoke", progress=False)
    found = rcdm.judged(run, "backbone", data=str(tmp_path), scale="smoke")
    assert set(found["analysis"]) == {"samples", "invariance"} and found["value"].notna().all()


def test_a_small_folder_is_trained_on_for_as_many_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    for i in range(60):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png")
    photos = str(tmp_path / "photos")
    run = rcdm.train("SimCLR", photos, tmp_path / "run", scale="smoke", progress=False)
    assert run.spec["trainer"]["batch_size"] == 48 and run.steps[-1] == 8
    assert [one.steps[-1] for one in wb.denoisers(run).values()] == [8, 8]
    found = rcdm.judged(run, "backbone", data=photos, scale="smoke")
    assert set(found["analysis"]) == {"samples", "probe", "invariance", "manipulation", "between", "attack"}
    assert found["value"].notna().all() and "Fréchet distance" in set(found["measure"])
    s = rcdm.SCALES["cpu"]
    assert rcdm._fitted(s.encoder, s.images, s.images, 0) == s.encoder
    assert rcdm._fitted(s.denoiser, s.images, 1_000, 1).epochs == 45


def test_without_labels_nothing_is_trained_by_them(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    s = rcdm.SCALES["smoke"]
    monkeypatch.setitem(rcdm.SCALES, "smoke", s._replace(sources=4, encoders={"garments": ("supervised", "PCA of pixels")}))
    for i in range(40):
        Image.fromarray(np.full((16, 16, 3), 6 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    table = rcdm.reproduce(tmp_path / "out", data=str(tmp_path), scale="smoke", seeds=[0], progress=False)
    assert set(table["encoder"]) == {"PCA of pixels"}
