"""Replaying: what the tables say is what the measures say of each snapshot, and nothing is measured twice."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
import workbench.replaying


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    model = wb.build_encoder("convnet", "32-16", width=4)
    trainer = wb.Trainer(epochs=2, batch_size=64, device="cpu", precision="fp32")
    return trainer.fit(
        model, wb.SimCLR(), wb.garments(256), wb.Augment(), out=tmp_path_factory.mktemp("runs") / "a", progress=False
    )


def test_the_tables_hold_every_step_and_layer_and_agree_with_the_measures(run):
    tables = wb.replay(run, n=128, progress=False)
    layers = wb.main_layers(run.model())
    measures, spectrum = tables["measures"], tables["spectrum"]
    assert set(measures["step"]) == set(run.steps) and set(measures["layer"]) == set(layers)
    assert set(measures["measure"]) == {"rankme", "knn", "normalised_std"}
    assert spectrum["rank"].dtype.kind == "i" and spectrum["step"].is_monotonic_increasing
    held_out, bank = wb.garments(256, split="test")[:128], wb.garments(256)[:128]
    step = run.steps[2]
    seen, known = (wb.extract(run.model(step), x, layers, progress=False) for x in (held_out, bank))
    rows = measures[measures["step"] == step].set_index(["layer", "measure"])["value"]
    for layer in layers:
        assert rows[layer, "rankme"] == pytest.approx(float(wb.rankme(seen[layer])), rel=1e-6)
        probe = wb.KNNProbe().fit(known[layer], known.factors["label"].to_numpy())
        assert rows[layer, "knn"] == probe.score(seen[layer], seen.factors["label"].to_numpy())
        kept = spectrum[(spectrum["step"] == step) & (spectrum["layer"] == layer)]
        unit = torch.nn.functional.normalize(seen[layer].double(), dim=1)
        want = torch.linalg.eigvalsh(unit.T.cov()).flip(0)
        torch.testing.assert_close(torch.tensor(kept["value"].to_numpy()), want, rtol=1e-4, atol=1e-9)


def test_what_was_measured_is_not_measured_again_and_new_layers_join(run, monkeypatch):
    first = wb.replay(run, n=128, progress=False)
    seen = []
    extract = workbench.replaying.extract
    monkeypatch.setattr(
        workbench.replaying, "extract", lambda m, i, layers, **k: seen.append(list(layers)) or extract(m, i, layers, **k)
    )
    again = wb.replay(run, n=128, progress=False)
    assert not seen and len(again["measures"]) == len(first["measures"])
    more = wb.replay(run, layers=["projector.0.0"], n=128, progress=False)
    assert len(seen) == 2 * len(run.steps) and all(layers == ["projector.0.0"] for layers in seen)
    assert set(more["measures"]["layer"]) == {*first["measures"]["layer"], "projector.0.0"}
    assert len(run.table("measures")) == len(more["measures"])


def test_a_stopped_replay_keeps_the_last_step_first(run, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(run.path, tmp_path / "copy", ignore=shutil.ignore_patterns("tables"))
    copy, calls = wb.Run(tmp_path / "copy"), []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return extract(*args, **kwargs)

    extract = workbench.replaying.extract
    monkeypatch.setattr(workbench.replaying, "extract", stopped)
    with pytest.raises(KeyboardInterrupt):
        wb.replay(copy, n=64, progress=False)
    assert set(copy.table("measures")["step"]) == {run.steps[-1]}


def test_own_images_are_halved(run):
    images = wb.garments(200, seed=9)
    tables = wb.replay(run, images, steps=[0], layers=["backbone"], n=64, progress=False)
    assert set(tables["measures"]["n"]) == {64} and set(tables["measures"]["step"]) == {0}


def test_another_factor_is_measured_anew(run):
    def knn(factor):
        table = wb.replay(run, layers=["backbone"], steps=[0], n=64, factor=factor, progress=False)["measures"]
        assert set(table["factor"]) == {factor}
        return table.set_index("measure").loc["knn", ["value", "convention"]].tolist()

    images = wb.garments(256, split="test")[:64], wb.garments(256)[:64]
    seen, known = (wb.extract(run.model(0), x, "backbone", progress=False) for x in images)
    for factor in ("label", "class_name", "garment"):
        probe = wb.KNNProbe().fit(known["backbone"], known.factors[factor])
        how = f"{factor}, by 20 nearest of 64 rows, cosine, weights exp(cos / 0.07)"
        assert knn(factor) == [probe.score(seen["backbone"], seen.factors[factor]), how]


@pytest.mark.parametrize(
    ("factor", "error", "said"),
    [
        ("genus", KeyError, "no factor 'genus'; they have label, class_name, garment"),
        ("rotation", ValueError, r"vote for classes, but the factor 'rotation' is of numbers \(float32\)"),
        ("gaps", ValueError, r"factor 'gaps' is missing in \d of 100 images"),
    ],
)
def test_a_factor_that_cannot_be_voted_for_is_an_error_and_the_tables_stay(run, factor, error, said):
    images = wb.garments(200)
    images.factors["gaps"] = ["boot"] * 198 + [None] * 2
    asked = {"steps": [0], "layers": ["backbone"], "progress": False}
    before = wb.replay(run, images, **asked)["measures"]
    assert "knn" in set(before["measure"])
    with pytest.raises(error, match=said):
        wb.replay(run, images, factor=factor, **asked)
    pd.testing.assert_frame_equal(run.table("measures"), before)


@pytest.mark.parametrize("label", [None, [0.5, 1.5], ["boot", None]], ids=["none", "numbers", "gaps"])
def test_without_a_label_to_vote_for_there_are_no_neighbours(run, label):
    images = wb.garments(100)
    factors = images.factors.drop(columns="label") if label is None else images.factors.assign(label=label * 50)
    images = wb.Images(images.pixels, factors, "mine")
    tables = wb.replay(run, images, steps=[0], layers=["backbone"], progress=False)
    assert set(tables["measures"]["measure"]) == {"rankme", "normalised_std"}


def test_other_images_replace_what_they_disagree_with_and_a_warning_says_so(run):
    asked = {"layers": ["backbone"], "progress": False}
    every = wb.replay(run, n=64, **asked)
    with pytest.warns(UserWarning, match=rf"replaced: measures at {len(run.steps)} steps\.") as caught:
        tables = wb.replay(run, n=64, steps=[0], factor="class_name", **asked)
    assert len([w for w in caught if "replaced" in str(w.message)]) == 1
    assert caught[0].filename == __file__
    pd.testing.assert_frame_equal(tables["spectrum"], every["spectrum"].sort_values("step", kind="stable", ignore_index=True))
    with pytest.warns(UserWarning, match=rf"replaced: spectrum at {len(run.steps)} steps, measures at 1 steps"):
        assert set(wb.replay(run, n=32, steps=[0], **asked)["spectrum"]["step"]) == {0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wb.replay(run, n=32, **asked)


def test_more_neighbours_are_measured_anew(run, monkeypatch):
    """Where fewer images are held out than ``n``, another ``n`` is another bank all the same."""
    held_out = wb.garments(20, split="test")
    monkeypatch.setattr(type(run), "held_out", lambda self: held_out)
    for n in (100, 200):
        table = wb.replay(run, layers=["backbone"], steps=[0], n=n, progress=False)["measures"].set_index("measure")
        assert f"of {n} rows" in table.loc["knn", "convention"]
        assert table.loc["knn", "n"] == 20


def test_every_number_says_what_it_was_taken_of_and_how(run):
    tables = wb.replay(run, n=64, steps=[0], layers=["backbone", "projector"], progress=False)
    for table in (*tables.values(), run.table("spectrum"), run.table("measures")):
        assert set(table["n"]) == {64}
        assert table.groupby("layer")["d"].first().to_dict() == {"backbone": run.model().backbone.out, "projector": 16}
        assert table["convention"].str.len().min() > 10
    seen = wb.extract(run.model(0), wb.garments(256, split="test")[:64], "backbone", progress=False)["backbone"]
    how = tables["measures"].set_index(["layer", "measure"])["convention"]
    assert how["backbone", "rankme"] == wb.rankme(seen).convention
    curve = tables["spectrum"][tables["spectrum"]["layer"] == "backbone"]
    assert set(curve["convention"]) == set(wb.spectrum(seen)["convention"])
    assert curve["floor"].tolist() == pytest.approx(wb.spectrum(seen)["floor"].tolist())


def test_tables_of_before_there_were_conventions_are_measured_anew(run):
    now = wb.replay(run, n=48, steps=[0], layers=["backbone"], progress=False)
    for name, table in now.items():
        run.write_table(name, table.drop(columns=["convention", "n"]).assign(value=-1.0))
    with pytest.warns(UserWarning, match="replaced: spectrum at 1 steps, measures at 1 steps"):
        again = wb.replay(run, n=48, steps=[0], layers=["backbone"], progress=False)
    for name, table in now.items():
        pd.testing.assert_frame_equal(again[name], table)


def test_images_that_come_class_by_class_are_halved_at_random(run):
    from workbench.replaying import halves

    images = wb.garments(90)
    images = images[np.argsort(images.factors["label"].to_numpy(), kind="stable")]
    bank, seen = halves(run, images, 1000)
    assert len(bank) == len(seen) == 45
    assert set(bank.factors["label"]) == set(seen.factors["label"]) == set(range(10))
    assert set(bank.factors["garment"]).isdisjoint(seen.factors["garment"])
    few, other = halves(run, images, 20)
    assert len(few) == len(other) == 20 and few.factors["label"].nunique() > 5
    again = halves(run, images, 20)
    assert again[0].factors.equals(few.factors) and again[1].factors.equals(other.factors)
    with pytest.raises(ValueError, match="has 1 images: one to learn from and another"):
        halves(run, images[:1], 20)
