"""Objectives matter: one network for every objective, every part of it compared with all other networks, and the controls."""

import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F

from workbench.cutting import keep_model
from workbench.data.posed import STILL, posed_garments
from workbench.data.wardrobe import garments
from workbench.features import extract
from workbench.measures.similarity import cka
from workbench.models.building import build_encoder
from workbench.models.encoder import Encoder, sublayers
from workbench.models.tokens import TokenViT
from workbench.papers import objectives_matter as om
from workbench.run import Run

SETTINGS = {"scale": "smoke", "seeds": [0, 1], "conditions": ["SimCLR", "MAE"], "workers": 0, "progress": False}
PLACES = ["b.blocks.0.norm1", "b.blocks.0.attn", "b.blocks.0.norm2", "b.blocks.0.mlp", "b.blocks.0", "b"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("objectives")
    return out, *om.reproduce(out, **SETTINGS)


def run_of(out, condition, seed=0):
    return Run(out / "runs" / f"condition={condition},seed={seed}")


@pytest.fixture(scope="module")
def nets():
    return [om.fresh(scale="smoke", seed=seed).eval() for seed in (0, 1)]


# What is compared


def test_every_part_of_every_block_is_named_in_the_order_it_runs():
    model = build_encoder("vit-tiny", None, depth=2)
    names = [f"backbone.blocks.{i}{part}" for i in range(2) for part in (".norm1", ".attn", ".norm2", ".mlp", "")]
    assert sublayers(model) == [*names, "backbone"]
    ran = []
    for name in sublayers(model):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    model(torch.zeros(1, 3, 32, 32))
    assert ran == sublayers(model)


def test_parts_are_those_that_a_block_adds_up():
    model, x = build_encoder("vit-tiny", None, depth=1).eval(), torch.rand(3, 3, 32, 32)
    kept = {}
    for name in sublayers(model):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: kept.update({name: output}))
    first = model.backbone.enter(model.normalise(x))
    model(x)
    whole = first + kept["backbone.blocks.0.attn"] + kept["backbone.blocks.0.mlp"]
    torch.testing.assert_close(whole, kept["backbone.blocks.0"])


def test_parts_of_timm_s_transformers_have_the_same_names():
    body = timm.create_model("test_vit", num_classes=0)
    assert sublayers(body)[:5] == ["blocks.0.norm1", "blocks.0.attn", "blocks.0.norm2", "blocks.0.mlp", "blocks.0"]
    assert len(sublayers(body)) == 5 * len(body.blocks)


def test_what_has_no_transformer_blocks_says_so():
    with pytest.raises(ValueError, match=r"ConvNet has no transformer blocks .*; main_layers\(model\) gives its stages"):
        sublayers(build_encoder("convnet"))


def test_blocks_and_parts_are_read_from_names():
    layers = ["backbone.blocks.0.norm1", "backbone.blocks.1.attn", "backbone.blocks.1", "backbone"]
    table = om.by_part(pd.DataFrame({"layer": layers, "condition": "MAE", "other": ["MAE", "SimMIM", "SimCLR", "untrained"]}))
    assert table["depth"].tolist() == [1, 2, 2, 3]
    assert table["part"].tolist() == ["norm1", "attn", "block", "output"]
    assert table["kind"].tolist() == ["same objective", "reconstructions", "other family", "untrained"]


def test_the_other_layer_of_a_map_is_read_too():
    table = om.by_part(pd.DataFrame({"layer": ["b.blocks.0.attn", "b"], "other_layer": ["b.blocks.1", "b.blocks.0.mlp"]}))
    assert table["depth"].tolist() == [1, 2]
    assert table["other_depth"].tolist() == [2, 1]
    assert table["other_part"].tolist() == ["block", "mlp"]
    assert "kind" not in table


# The images


def test_posed_garments_are_garments_of_which_the_pose_alone_is_left():
    images, coloured = posed_garments(30), garments(30, size=24)
    assert images.pixels.shape == (30, 1, 24, 24)
    assert images.factors.equals(coloured.factors[list(images.factors)])
    again = coloured.renderer(
        {k: torch.tensor(v.to_numpy()) for k, v in coloured.factors.assign(**STILL).select_dtypes("number").items()}
    )
    assert (again.mean(1, keepdim=True).mul(255) - images.pixels).abs().max() < 1.01
    assert again.std(1).max() < 0.1, "hardly any colour was lost"
    corner = images.pixels[:, 0, 0, 0].float()
    assert corner.median() < 80
    assert corner.std() < 40, "an even ground, but where a garment reaches the corner"


# The networks


def test_all_conditions_of_a_seed_start_from_one_backbone(smoke):
    out, *_ = smoke
    starts = [run_of(out, c).model(0).backbone.state_dict() for c in ("SimCLR", "MAE", "untrained")]
    assert all(torch.equal(starts[0][k], other[k]) for other in starts[1:] for k in starts[0])
    ends = [run_of(out, c).model().backbone.state_dict() for c in ("SimCLR", "MAE", "untrained")]
    assert not any(
        torch.equal(ends[a]["blocks.0.attn.qkv.weight"], ends[b]["blocks.0.attn.qkv.weight"]) for a, b in [(0, 1), (1, 2)]
    )
    other = om.fresh(scale="smoke", seed=1).backbone.state_dict()
    assert not torch.equal(starts[0]["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


def test_unknown_conditions_and_scales_are_named(tmp_path):
    with pytest.raises(KeyError, match="there is no 'DINO'"):
        om.train("DINO", tmp_path, scale="smoke")
    with pytest.raises(KeyError, match="there is no 'tpu'"):
        om.fresh(scale="tpu")


# The tables


def test_reproduction_has_every_network_before_and_after_beside_its_controls(smoke):
    _, measures, *_ = smoke
    assert set(measures["condition"]) == {"SimCLR", "MAE", "untrained", "raw pixels"}
    asked = measures[measures["task"].notna()].groupby(["condition", "stage"])["task"].agg(set)
    assert set(asked.index.get_level_values("stage")) == {"pretrained", "fine-tuned"}
    assert all(tasks == {"label", *om.POSE} for tasks in asked)
    right = measures[measures["measure"] == "accuracy"]
    assert right["value"].between(0, 1).all()
    heads = measures[measures["layer"] == "head"]
    assert set(heads["condition"]) == {"SimCLR", "MAE", "untrained"}
    assert (heads["stage"] == "fine-tuned").all()


def test_the_number_of_a_pair_is_the_cka_of_its_features(smoke):
    out, _, similar, maps = smoke
    held_out = om._labelled("smoke")[1]
    a, b = (extract(run_of(out, c, s).model(), held_out, sublayers(run_of(out, c, s).model()), tokens="patches", progress=False)
            for c, s in (("SimCLR", 0), ("MAE", 1)))  # fmt: skip
    of = similar[(similar["condition"] == "SimCLR") & (similar["other"] == "MAE") & (similar["stage"] == "pretrained")]
    of = of[(of["seed"] == 0) & (of["other_seed"] == 1)].set_index("layer")["value"]
    assert list(of.index) == list(a)
    for layer in ("backbone.blocks.0.attn", "backbone.blocks.1", "backbone"):
        assert of[layer] == pytest.approx(float(cka(a[layer], b[layer])), abs=1e-6)
    across = maps[(maps["kind"] == "other family") & (maps["layer"] == "backbone") & (maps["other_layer"] == "backbone")]
    both = similar[(similar["stage"] == "pretrained") & (similar["condition"] == "SimCLR") & (similar["other"] == "MAE")]
    both = both[(both["seed"] != both["other_seed"]) & (both["layer"] == "backbone")]
    assert len(both) == 2
    assert across["value"].item() == pytest.approx(both["value"].mean())


def test_networks_are_compared_with_all_others_and_fine_tuned_ones_with_joint_embeddings(smoke):
    _, _, similar, maps = smoke
    pairs = similar[["stage", "condition", "seed", "other", "other_seed"]].drop_duplicates()
    assert pairs.groupby("stage").size().to_dict() == {"pretrained": 15, "fine-tuned": 12}
    assert set(pairs.loc[pairs["stage"] == "fine-tuned", "other"]) == {"SimCLR"}
    assert set(maps["kind"]) == {"same objective", "other family"}
    assert list(dict.fromkeys(maps["kind"])) == ["same objective", "other family"]
    assert (maps.groupby("kind").size() == 4 * 2**2 + 3**2).all()  # each of four parts by depth; and what leaves the blocks


def test_what_stands_is_not_made_again(smoke, monkeypatch):
    out, *tables = smoke
    for name in ("train", "similarity"):
        monkeypatch.setattr(om, name, lambda *_, **__: pytest.fail("made again"))
    for again, before in zip(om.reproduce(out, **SETTINGS), tables, strict=True):
        pd.testing.assert_frame_equal(again, before)


# Any two networks


def test_a_network_is_like_itself_and_unlike_shuffled_images(nets):
    images = posed_garments(64, size=16)
    same = om.similarity(nets[0], nets[0], images, permutations=50)
    diagonal = same[same["layer"] == same["other"]]
    assert diagonal["value"].to_numpy() == pytest.approx(1)
    assert (diagonal["knn"] == 1).all()
    assert same.loc[same["layer"] != same["other"], "knn"].isna().all()
    assert (diagonal["null"] < 0.3).all()
    shuffled = images[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    layer = "backbone.blocks.1"
    a, b = (extract(nets[0], x, layer, tokens="patches", progress=False)[layer] for x in (images, shuffled))
    assert abs(float(cka(a, b))) < 0.15 < diagonal.set_index("layer").loc[layer, "value"]


def test_tokens_choose_what_stands_for_an_image(nets):
    images, layer = posed_garments(64, size=16), ["backbone.blocks.0.attn"]
    values = {t: om.similarity(*nets, images, layers=layer, others=layer, tokens=t)["value"].item() for t in ("patches", "first")}
    for tokens, value in values.items():
        a, b = (extract(net, images, layer, tokens=tokens, progress=False)[layer[0]] for net in nets)
        assert value == pytest.approx(float(cka(a, b)), abs=1e-6)
    assert values["patches"] != pytest.approx(values["first"], abs=1e-3)


def test_networks_of_timm_get_the_same_maps(tmp_path, nets):
    """What a user with published weights does: a kept model of timm, of other depth and width, beside one of ours."""
    images = posed_garments(48, size=16)
    theirs = keep_model("timm:test_vit", tmp_path / "vit", images=images, resize=True)
    table = om.similarity(theirs, nets[0], images, permutations=20)
    names = sublayers(theirs.model())
    assert names[0] == "backbone.model.blocks.0.norm1"
    assert len(table) == len(names) * 11
    assert table["value"].between(-0.5, 1).all()
    assert table["knn"].isna().all(), "of other depth, no layers are in the same place"
    assert list(theirs.path.glob("features/*")), "features of runs are kept beside them"
    depth = om.tokens_by_depth(theirs, images)
    body = theirs.model().backbone.model
    assert set(depth["block"]) == set(range(1, len(body.blocks) + 1))


PUBLISHED = {  # how authors save the transformer that other people load
    "DINO": lambda state: {"student": wrapped(state, "module.backbone."), "teacher": wrapped(state, "backbone.")},
    "MoCo v3": lambda state: {
        "epoch": 9,
        "state_dict": wrapped(state | {"head.0.weight": torch.ones(2)}, "module.base_encoder."),
    },
    "MAE": lambda state: {"model": state},
}


def wrapped(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_of_the_paper_s_objectives_are_read_and_compared(name, tmp_path, nets):
    """Small random weights stand for those of the papers, saved as their authors save them."""
    images, body = posed_garments(32, size=16), timm.create_model("test_vit", num_classes=0)
    torch.save(PUBLISHED[name](body.state_dict()), tmp_path / "theirs.pth")
    theirs = build_encoder("timm:test_vit", None, checkpoint=str(tmp_path / "theirs.pth"), resize=True)
    layers = ["backbone.model.blocks.0.attn", "backbone.model.blocks.1.mlp"]
    table = om.similarity(theirs, nets[0], images, layers=layers, permutations=0)
    own = Encoder(body, torch.nn.Identity(), mean=theirs.mean, std=theirs.std)
    asked = F.interpolate(images.pixels.expand(-1, 3, -1, -1) / 255, (160, 160), mode="bilinear", antialias=True)
    seen = {}
    for layer in layers:
        module = own.get_submodule(layer.replace("model.", ""))
        module.register_forward_hook(lambda _m, _i, tokens, layer=layer: seen.update({layer: tokens[:, 1:].mean(1)}))
    with torch.no_grad():
        own.eval()(asked)
    other = extract(nets[0], images, ["backbone.blocks.0"], tokens="patches", progress=False)["backbone.blocks.0"]
    found = table[table["other"] == "backbone.blocks.0"].set_index("layer")["value"]
    assert found.to_dict() == pytest.approx({layer: float(cka(seen[layer], other)) for layer in layers}, abs=1e-4)


def test_beit_s_blocks_are_compared_too(nets):
    sizes = {"img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 0, "embed_dim": 16, "depth": 2, "num_heads": 2}
    beit = Encoder(timm.models.beit.Beit(**sizes, init_values=0.1, use_rel_pos_bias=True).eval(), torch.nn.Identity())
    table = om.similarity(beit, nets[0], posed_garments(48, size=16), permutations=20)
    assert table["layer"].drop_duplicates().tolist() == sublayers(nets[0])
    assert table["value"].between(-0.5, 1).all()
    assert table[table["layer"] == table["other"]]["knn"].between(0, 1).all()


def test_weights_from_a_file_are_those_that_are_compared(tmp_path, nets):
    from safetensors.torch import save_file

    body = timm.create_model("test_vit", num_classes=0)
    save_file(body.state_dict(), tmp_path / "vit.safetensors")
    images = posed_garments(32, size=16)
    run = keep_model("timm:test_vit", tmp_path / "vit", images=images, checkpoint=str(tmp_path / "vit.safetensors"), resize=True)
    kept = run.model().backbone.model.state_dict()
    assert torch.equal(kept["blocks.0.attn.qkv.weight"], body.state_dict()["blocks.0.attn.qkv.weight"])
    assert len(om.similarity(run, nets[0], images, permutations=0, layers=["backbone"], others=["backbone"])) == 1


# Depth


def test_tokens_by_depth_of_planted_attention(nets):
    """Even attention is as far as the mean distance of two patches; tokens that are all alike have no high frequencies."""
    images = posed_garments(40, size=16)
    model = build_encoder("vit-tiny", None, channels=1, image_size=16, patch=4, width=16, depth=1, heads=2)
    with torch.no_grad():
        model.backbone.blocks[0].attn.qkv.weight[:32].zero_()
    far = om.tokens_by_depth(model, images, batch_size=16).set_index("measure")["value"]["attention distance"]
    place = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) * 4
    assert far == pytest.approx(float(torch.cdist(place, place).mean()), rel=1e-5)
    whole = om.tokens_by_depth(nets[0], images, batch_size=40)
    parts = om.tokens_by_depth(nets[0], images, batch_size=7)
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-4)


def test_tokens_by_depth_are_of_plain_transformers():
    with pytest.raises(ValueError, match="those of a plain vision transformer, but got a ConvNet"):
        om.tokens_by_depth(build_encoder("convnet"), garments(4))


def test_tokens_of_timm_are_those_of_our_copy(tmp_path):
    images = garments(8, size=32)
    run = keep_model("timm:test_vit", tmp_path / "vit", images=images)
    model = run.model()
    ours = build_encoder("vit-tiny", None)
    ours.backbone = TokenViT.of(model.backbone.model)
    pd.testing.assert_frame_equal(om.tokens_by_depth(run, images), om.tokens_by_depth(ours, images), rtol=1e-3)


# Tables as figures draw them


def planted(value):
    """A table of similarity in which a pair's value is ``value(condition, stage, other)``, at a block's output."""
    rows = []
    nets = [(c, s) for c in ("SimCLR", "MoCo v3", "MAE", "SimMIM", "untrained") for s in (0, 1)]
    for stage in ("pretrained", "fine-tuned"):
        for i, (condition, seed) in enumerate(nets):
            for j, (other, other_seed) in enumerate(nets):
                if j > i if stage == "pretrained" else other in ("SimCLR", "MoCo v3"):
                    row = {"condition": condition, "stage": stage, "seed": seed, "other": other, "other_seed": other_seed}
                    rows += [row | {"layer": layer, "value": value(condition, stage, other)} for layer in PLACES]
    return pd.DataFrame(rows).assign(null=0.01, knn=0.5)


def test_pairs_are_of_other_seeds_unless_asked_otherwise():
    table = planted(lambda condition, stage, other: 0.5)
    apart, same = (om.alike_by_depth(table, same_start=flag) for flag in (False, True))
    counts = apart[apart["depth"] == 1].groupby("kind").size().to_dict()
    assert counts == {"same objective": 4, "joint embeddings": 2, "reconstructions": 2, "other family": 8, "untrained": 9}
    assert list(dict.fromkeys(apart["kind"])) == list(om.KINDS)
    counts = same[same["depth"] == 1].groupby("kind").size().to_dict()
    assert counts == {"joint embeddings": 2, "reconstructions": 2, "other family": 8, "untrained": 8}
    assert set(apart["depth"]) == {1, 2}
    assert not apart.duplicated(["kind", "seed", "depth"]).any()


def test_of_one_seed_alone_the_pairs_are_those_of_that_seed():
    table = planted(lambda condition, stage, other: 0.5)
    one = table[(table["seed"] == 0) & (table["other_seed"] == 0)]
    kinds = om.alike_by_depth(one)
    counts = kinds[kinds["depth"] == 1].groupby("kind").size().to_dict()
    assert counts == {"joint embeddings": 1, "reconstructions": 1, "other family": 4, "untrained": 4}
    found = om.to_joint_embedding(one).groupby(["network", "depth"]).size()
    assert found["reconstruction"].tolist() == found["reconstruction, fine-tuned"].tolist() == [4, 4]
    assert len(om.claims(probed(lambda c: 0.5, lambda c: 0.5), one)) == 13


def test_networks_are_held_against_joint_embeddings_of_other_seeds():
    family = {"SimCLR": 0.9, "MoCo v3": 0.9, "MAE": 0.3, "SimMIM": 0.3, "untrained": 0.1}
    moved = {"MAE": 0.7, "SimMIM": 0.7, "untrained": 0.6, "SimCLR": 0.8, "MoCo v3": 0.8}

    def value(condition, stage, other):
        return moved[condition] if stage == "fine-tuned" else min(family[condition], family[other])

    found = om.to_joint_embedding(planted(value))
    assert list(dict.fromkeys(found["network"])) == list(om.NETWORKS.values())
    means = found.groupby("network")["value"].agg(["mean", "std"])
    assert means["mean"].round(6).to_dict() == {
        "joint embedding": 0.9, "reconstruction": 0.3, "untrained": 0.1,
        "joint embedding, fine-tuned": 0.8, "reconstruction, fine-tuned": 0.7, "labels alone": 0.6,
    }  # fmt: skip
    assert (means["std"] < 1e-12).all()
    counts = found[found["depth"] == 1].groupby("network").size()
    assert counts["reconstruction"] == counts["reconstruction, fine-tuned"] == 8
    assert counts["untrained"] == counts["labels alone"] == 4


def probed(label, x):
    """A table of measures of one block in which label and place are read as ``label(condition)`` and ``x(condition)`` say."""
    rows = []
    for condition in (*om.CONDITIONS, "untrained"):
        for seed in (0, 1):
            row = {"condition": condition, "seed": seed, "stage": "pretrained", "layer": "b", "measure": "r2"}
            told = {"label": label(condition), **dict.fromkeys(("x", "y", "scale"), x(condition))}
            rows += [row | {"task": task, "probe": "RidgeProbe", "value": value + seed / 100} for task, value in told.items()]
    return pd.DataFrame(rows)


def test_claims_hold_of_tables_in_which_they_were_planted_and_not_of_others():
    family = {name: how.family for name, how in om.CONDITIONS.items()}
    joint = lambda condition: family.get(condition) == "joint embedding"  # noqa: E731

    def value(condition, stage, other):
        if stage == "fine-tuned":
            return 0.6 if condition == "untrained" else 0.8
        return 0.9 if family.get(condition) == family.get(other) else 0.4

    measures = probed(lambda c: 0.7 if joint(c) else 0.5, lambda c: 0.3 if joint(c) else 0.8)
    found = om.claims(measures, planted(value)).set_index("claim")
    assert found["holds"].all(), found
    for kind in ("joint embeddings", "reconstructions"):
        row = found.loc[f"1: {kind} are alike, families not"]
        assert (row["larger"], row["smaller"]) == pytest.approx((0.9, 0.4))
    row = found.loc["3: reconstruction tells x better (%)"]
    assert (row["larger"], row["smaller"]) == pytest.approx((80.5, 30.5))
    same = om.claims(probed(lambda c: 0.5, lambda c: 0.5), planted(lambda *_: 0.5))
    assert not same["holds"].any()


def test_a_row_a_block_holds_what_was_read_there(smoke):
    _, measures, *_ = smoke
    for stage in ("pretrained", "fine-tuned"):
        wide = om.by_depth(measures, stage=stage).set_index(["condition", "seed", "depth"])
        assert set(wide.index.get_level_values("depth")) == {1, 2, 3}
        assert {"label", "label, knn", *om.POSE, "attention distance", "high frequencies"} <= set(wide)
        of = measures[(measures["condition"] == "MAE") & (measures["seed"] == 1) & (measures["stage"] == stage)]
        of = of[of["layer"] == "backbone.blocks.1"]
        knn = of[of["probe"] == "KNNProbe"]["value"].item()
        assert wide.loc[("MAE", 1, 2), "label, knn"] == pytest.approx(100 * knn)
        far = of[of["measure"] == "attention distance"]["value"].item()
        assert wide.loc[("MAE", 1, 2), "attention distance"] == pytest.approx(far)
        assert wide["attention distance"].isna().groupby("depth").all().to_dict() == {1: False, 2: False, 3: True}
