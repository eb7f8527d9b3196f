import math
import pickle
import warnings

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from workbench.models.building import backbone, backbones, build_encoder
from workbench.models.checkpoints import load_weights, read_checkpoint
from workbench.models.convnet import ConvNet
from workbench.models.encoder import Encoder, Projector, layer_widths, layers, main_layers
from workbench.models.pretrained import Timm
from workbench.models.resnet import ResNet18
from workbench.models.tokens import TokenViT
from workbench.spec import build, describe, without_weights

BACKBONES = {
    "convnet": (lambda: ConvNet(4), 32),
    "convnet-residual": (lambda: ConvNet(4, residual_last=True), 32),
    "convnet-deep": (lambda: ConvNet(2, depth=6, channels=1), 64),
    "resnet18": (lambda: ResNet18(width=4), 32),
    "resnet18-imagenet": (lambda: ResNet18(stem="imagenet", width=4, channels=1, zero_init=True), 64),
    "vit": (lambda: TokenViT(16, 4, 16, 3, 2), 16),
    "vit-learned": (lambda: TokenViT(16, 4, 16, 3, 2, positions="learned", pool="cls", channels=1), 24),
    "vit-patches": (lambda: TokenViT(16, 4, 16, 3, 2, class_token=False, mlp_ratio=2), 16),
    "timm-resnet": (lambda: Timm("test_resnet"), 64),
    "timm-grey": (lambda: Timm("test_resnet", channels=1), 64),
    "timm-vit": (lambda: Timm("test_vit", image_size=64), 64),
    "timm-resized": (lambda: Timm("test_vit", image_size=64, resize=True), 48),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=BACKBONES)
def body(request):
    make, size = BACKBONES[request.param]
    net = make()
    return net, torch.rand(4, net.channels, size, size)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


# ---- every backbone ------------------------------------------------------------------------------------------------------


def test_backbone_gives_out_and_every_parameter_a_gradient(body):
    net, x = body
    h = net(x)
    assert h.shape == (4, net.out)
    (h * torch.randn_like(h)).sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


def test_backbone_is_described_and_built_again(body):
    net, x = body
    again = build(describe(net))
    assert describe(again) == describe(net)
    again.load_state_dict(net.state_dict())
    same(again.eval()(x), net.eval()(x))


def test_main_layers_are_layers_from_pixels_to_embedding(body):
    net, _ = body
    model = Encoder(net, Projector([net.out, 16, 8]))
    main = main_layers(model)
    assert set(main) <= set(layers(model))
    assert main[-3:] == ["backbone", "projector.0", "projector"]
    assert len(main) >= 6
    table = layer_widths(model)
    assert list(table["layer"]) == main
    assert list(table["width"])[-3:] == [net.out, 16, 8]


def test_the_row_of_an_image_does_not_depend_on_its_batch_in_evaluation(body):
    net, x = body
    net.eval()
    same(net(x)[2:3], net(x[2:3]))


# ---- our own -------------------------------------------------------------------------------------------------------------


def test_convnet_widths_double_and_the_map_halves():
    table = layer_widths(ConvNet(8, depth=3), image_size=32)
    assert list(table["shape"]) == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    assert ConvNet(8, depth=3).out == 32 and ConvNet(8, depth=3, last=5)(torch.ones(1, 3, 32, 32)).shape == (1, 5)


def test_convnet_first_stage_is_the_convolution_written_out():
    net = ConvNet(2, depth=1, channels=1).double().eval()
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    kernel = net.stage1[0].weight
    expected = torch.zeros(2)
    for k in range(2):
        for i in range(0, 4, 2):
            for j in range(0, 4, 2):
                total = 0.0
                for a in range(3):
                    for b in range(3):
                        if 0 <= i + a - 1 < 4 and 0 <= j + b - 1 < 4:
                            total += kernel[k, 0, a, b].item() * x[0, 0, i + a - 1, j + b - 1].item()
                expected[k] += max(total / math.sqrt(1 + 1e-5), 0) / 4  # the normalisation at its start: mean 0, variance 1
    same(net(x)[0].float(), expected)


def test_residual_last_block_adds_its_input():
    net = ConvNet(4, residual_last=True).eval()
    block = net.stage5
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, block.width, 2, 2)
    same(block(x), x)
    assert net.out == block.width == 32


def test_residual_connection_brings_the_loss_to_every_channel():
    """DirectCLR's point: a loss on the first channels alone moves the others' weights too, through the last block."""
    net = ConvNet(4, residual_last=True)
    net(torch.rand(8, 3, 32, 32))[:, :4].square().sum().backward()
    before = net.stage4[0].weight.grad.flatten(1).norm(dim=1)
    assert (before > 0).all()
    plain = ConvNet(4)
    plain(torch.rand(8, 3, 32, 32))[:, :4].square().sum().backward()
    assert (plain.stage4[0].weight.grad.flatten(1).norm(dim=1)[4:] == 0).all()


def test_convnet_says_what_is_wrong():
    with pytest.raises(ValueError, match="a width, a depth and a last width of at least 1, but got width=16, depth=0, last=None"):
        ConvNet(depth=0)


def test_resnet18_is_torchvisions():
    theirs = torchvision.models.resnet18(num_classes=3).eval()
    ours = ResNet18(stem="imagenet").eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    theirs.fc = nn.Identity()
    x = torch.rand(2, 3, 96, 80)
    same(ours(x), theirs(x))


def test_resnet18_cifar_is_torchvisions_with_another_stem():
    theirs = torchvision.models.resnet18(num_classes=3).eval()
    theirs.conv1, theirs.maxpool, theirs.fc = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity(), nn.Identity()
    ours = ResNet18(stem="cifar").eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 32, 32)
    same(ours(x), theirs(x))


def test_resnet18_zero_init_starts_as_the_shortcuts_alone():
    net = ResNet18(width=4, zero_init=True).eval()
    x = torch.rand(2, 4, 8, 8)
    same(net.layer1(x), x)
    assert not torch.allclose(ResNet18(width=4).eval().layer1(x), x)


def test_resnet18_unknown_stem():
    with pytest.raises(ValueError, match="stem must be 'cifar' .* or 'imagenet', but got 'small'"):
        ResNet18(stem="small")


# ---- encoder -------------------------------------------------------------------------------------------------------------


def test_encoder_normalises_each_channel():
    mean, std = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
    model = Encoder(nn.Flatten(), Projector([12]), mean=mean, std=std)
    x = torch.rand(5, 3, 2, 2)
    expected = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    same(model(x).h, expected.flatten(1))
    same(model(x).z, model(x).h)


def test_encoder_repeats_grey_images():
    net = Timm("test_resnet").eval()
    model = Encoder(net, Projector([net.out]), mean=net.mean, std=net.std).eval()
    x = torch.rand(2, 1, 64, 64)
    same(model(x).h, model(x.expand(-1, 3, -1, -1)).h)


def test_encoder_keeps_channels_last():
    seen = []
    net = ConvNet(8)
    net.stage1[0].register_forward_hook(lambda m, i, o: seen.append(i[0].is_contiguous(memory_format=torch.channels_last)))
    Encoder(net, Projector([net.out]))(torch.rand(2, 3, 32, 32))
    assert seen == [True]


def test_encoder_rejects_bytes_and_wrong_channels():
    model = build_encoder("convnet", None, width=2, mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    with pytest.raises(TypeError, match=r"takes images in \[0, 1\], but got torch.uint8; write images.float\(\) / 255"):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"an encoder of 3 channels takes images \(B, C, H, W\), but got \(2, 4, 32, 32\)"):
        model(torch.zeros(2, 4, 32, 32))
    with pytest.raises(ValueError, match=r"but got \(3, 32, 32\)"):
        model(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"as many means as stds, and these above 0, but got mean=\(0.5,\), std=\(0,\)"):
        Encoder(nn.Flatten(), Projector([4]), std=(0,))


def test_grey_images_are_repeated_to_the_channels_of_the_backbone():
    model = build_encoder("convnet", None, width=2).eval()  # one mean for all channels
    grey = torch.rand(2, 1, 16, 16)
    assert torch.equal(model(grey).h, model(grey.repeat(1, 3, 1, 1)).h)
    with pytest.raises(ValueError, match=r"an encoder of 3 channels takes images \(B, C, H, W\), but got \(2, 4, 16, 16\)"):
        model(torch.rand(2, 4, 16, 16))
    with pytest.raises(ValueError, match=r"an encoder of 1 channel takes images \(B, C, H, W\), but got \(2, 3, 16, 16\)"):
        build_encoder("convnet", None, width=2, channels=1)(torch.rand(2, 3, 16, 16))


def test_encoder_wants_pooled_representations():
    with pytest.raises(ValueError, match=r"gives representations \(B, D\), but this one gives \(2, 4, 15, 15\); pool them"):
        Encoder(nn.Conv2d(3, 4, 2), Projector([4]))(torch.rand(2, 3, 16, 16))


def test_frozen_encoder_trains_its_projector_alone():
    model = build_encoder("convnet", "16-8", width=2, frozen=True).train()
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.rand(4, 3, 32, 32)).z.square().sum().backward()
    optimiser.step()
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert all(p.grad is not None for p in model.projector.parameters())
    assert all(p.grad is None for p in model.backbone.parameters())


def test_projector_is_linear_normalise_relu():
    net = Projector([3, 5, 2]).double()
    x = torch.randn(7, 3, dtype=torch.float64)
    inner = x @ net[0][0].weight.T
    inner = ((inner - inner.mean(0)) / (inner.var(0, unbiased=False) + 1e-5).sqrt()).clamp(min=0)
    same(net(x), inner @ net[1].weight.T)
    last = Projector([3, 5, 2], norm_last=True).double()(x)
    same(last.mean(0), torch.zeros(2, dtype=torch.float64))


# ---- layers --------------------------------------------------------------------------------------------------------------


def test_main_layers_of_a_transformer_are_its_blocks():
    model = build_encoder("timm:test_vit", [8], image_size=64)
    assert main_layers(model) == [f"backbone.model.blocks.{i}" for i in range(6)] + ["backbone", "projector"]
    table = layer_widths(model).set_index("layer")
    assert table["shape"]["backbone.model.blocks.5"] == (17, 64)  # 4 x 4 patches of 16 pixels and a class token
    assert table["width"]["backbone.model.blocks.5"] == 64


def test_widths_of_maps_with_the_channels_last():
    model = build_encoder("timm:swin_tiny_patch4_window7_224", [8], image_size=64)
    table = layer_widths(model)
    assert list(table["width"])[:4] == [96, 192, 384, 768]
    assert table["shape"][0] == (16, 16, 96)


def test_main_layers_without_projector_and_of_other_modules():
    assert main_layers(build_encoder("convnet", None, depth=2)) == ["backbone.stage1", "backbone.stage2", "backbone"]
    assert main_layers(Encoder(ConvNet(depth=1), nn.Linear(16, 4))) == ["backbone.stage1", "backbone", "projector"]
    assert main_layers(Encoder(ConvNet(depth=1), nn.Identity())) == ["backbone.stage1", "backbone"]
    assert main_layers(timm.create_model("test_resnet"))[-1] == "layer4"
    assert main_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == ["0", "2"]


def test_layer_widths_leaves_the_model_as_it_was():
    model = build_encoder("convnet", "8", width=2).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    table = layer_widths(model, only=["projector", "backbone.stage1.0"])
    assert list(table["layer"]) == ["projector", "backbone.stage1.0"]
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.projector._forward_hooks
    assert table["parameters"].sum() == 16 * 8 + 3 * 2 * 9
    with pytest.raises(KeyError, match="the model has no layer 'head'; main_layers"):
        layer_widths(model, only=["head"])


# ---- timm ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "mobilenetv3_small_050"])
def test_timm_is_timms(name):
    net = Timm(name).eval()
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(net.model.state_dict())
    x = torch.rand(2, 3, net.size, net.size)
    same(net(x), theirs(x))
    assert net.out == theirs(x).shape[1]
    assert set(net.stages) <= set(layers(net))


def test_timm_other_sizes():
    assert Timm("test_resnet")(torch.rand(2, 3, 40, 56)).shape == (2, 96)
    assert Timm("test_vit")(torch.rand(2, 3, 96, 96)).shape == (2, 64)  # crops of another size than the grid's
    net = Timm("test_vit", image_size=48, resize=True).eval()
    assert net.size == 48
    assert net.model.pos_embed.shape[1] == 9 + 1
    x = torch.rand(1, 3, 96, 96)
    small = nn.functional.interpolate(x, (48, 48), mode="bilinear", antialias=True)
    same(net(x), net.model(small))


def test_timm_size_that_does_not_fit_the_patches():
    with pytest.raises(Exception, match="divisible by patch size|should be divisible"):
        Timm("test_vit", image_size=64)(torch.rand(1, 3, 60, 60))


def test_timm_unknown_names():
    with pytest.raises(ValueError, match=r"no architecture 'resnet_50'; near it are .*resnet.*; search with backbones"):
        Timm("resnet_50")
    with pytest.raises(ValueError, match=r"no weights 'dinosaur' of vit_small_patch16_224; it has .*dino"):
        Timm("vit_small_patch16_224.dinosaur")
    with pytest.raises(ValueError, match="give the architecture's name, and the weights as checkpoint="):
        Timm("hf_hub:somebody/something")
    with pytest.raises(ValueError, match="published weights or those of x.pth, not both"):
        Timm("test_vit", pretrained=True, checkpoint="x.pth")


def test_timm_without_internet(monkeypatch):
    def refuse(*arguments, **settings):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with pytest.raises(RuntimeError, match=r"weights of 'test_vit.r160_in1k' could not be had: no route.*say checkpoint="):
        Timm("test_vit.r160_in1k", pretrained=True)


# ---- checkpoints ---------------------------------------------------------------------------------------------------------


def state_of(name, **settings):
    torch.manual_seed(7)
    net = timm.create_model(name, **settings)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value))
    return net.state_dict()


def wrapped(state, prefix):
    return {f"{prefix}{k}": v for k, v in state.items()}


def save(state, path):
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_checkpoint_round_trip(name, file, tmp_path):
    state = state_of(name)
    net = Timm(name, checkpoint=save(state, tmp_path / file)).eval()
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict(state)
    theirs.reset_classifier(0)
    x = torch.rand(2, 3, 160, 160)
    same(net(x), theirs(x))
    needed = sum(not k.endswith("num_batches_tracked") for k in net.model.state_dict())
    head = "fc" if name == "test_resnet" else "head"
    said, unused = net.report.split("; not used: ")
    assert said == f"{file}: {needed} of the model's {needed} tensors found by name"
    assert sorted(unused.split(", ")) == [f"{head}.bias", f"{head}.weight"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: wrapped(s, "module."),
        lambda s: wrapped(s, "module.backbone."),
        lambda s: {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(())}}}, "state_dict": wrapped(s, "encoder.")},
        lambda s: {"model": s, "args": {"lr": 0.1}},
        lambda s: {"student": {k: torch.zeros_like(v) for k, v in s.items()}, "teacher": wrapped(s, "backbone.")},
        lambda s: wrapped({k: torch.zeros_like(v) for k, v in s.items()}, "a.") | wrapped(s, "ema_model."),
        lambda s: wrapped(s, "model.backbone.model.") | {"objective.centre": torch.zeros(3)},
    ],
)
def test_checkpoint_in_wrappings(wrap, tmp_path):
    state = state_of("test_resnet")
    net = Timm("test_resnet", checkpoint=save(wrap(state), tmp_path / "w.pt"))
    assert all(torch.equal(v, state[k]) for k, v in net.model.state_dict().items())


def test_checkpoint_prefix_is_chosen_by_name(tmp_path):
    state = state_of("test_resnet")
    both = {"student": {k: v + 1 for k, v in state.items()}, "teacher": state}
    path = save(both, tmp_path / "w.pth")
    net = Timm("test_resnet", checkpoint=path, prefix="student.")
    assert torch.equal(net.model.bn1.weight, state["bn1.weight"] + 1)
    assert "('student.' would fit as well; choose with prefix=)" in Timm("test_resnet", checkpoint=path).report


def test_checkpoint_by_order(tmp_path):
    state = state_of("test_resnet")
    renamed = {f"layer{i}": v for i, v in enumerate(v for k, v in state.items() if "num_batches" not in k)}
    path = save(renamed, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="0 of the model's 75 tensors found by name.*match='order' where the same network"):
        Timm("test_resnet", checkpoint=path)
    net = Timm("test_resnet", checkpoint=path, match="order")
    assert all(torch.equal(v, state[k]) for k, v in net.model.state_dict().items() if "num_batches" not in k)
    with pytest.raises(ValueError, match=r"w.pth: tensor 0 of the model is .* of shape .*, but the file has layer0 of shape"):
        Timm("test_efficientnet", checkpoint=path, match="order")
    with pytest.raises(ValueError, match="w.safetensors keeps its tensors sorted by name, so they cannot be matched by order"):
        Timm("test_resnet", checkpoint=save(renamed, tmp_path / "w.safetensors"), match="order")


def test_checkpoint_of_another_architecture(tmp_path):
    path = save(state_of("test_resnet"), tmp_path / "resnet.safetensors")
    with pytest.raises(
        ValueError, match=r"resnet.safetensors: \d+ of the model's \d+ tensors found.*Is it the same architecture"
    ):
        Timm("test_vit", checkpoint=path)


def test_checkpoint_with_tensors_missing(tmp_path):
    state = state_of("test_resnet")
    del state["bn1.weight"]
    state["conv1.0.weight"] = torch.zeros(1, 3, 3, 3)
    path = save(state, tmp_path / "w.safetensors")
    message = (
        r"73 of the model's 75 tensors.*missing: bn1.weight; conv1.0.weight has the shape \(1, 3, 3, 3\), but the model needs"
    )
    with pytest.raises(ValueError, match=message):
        Timm("test_resnet", checkpoint=path)
    with pytest.warns(UserWarning, match="missing: bn1.weight.*keep their random values"):
        net = Timm("test_resnet", checkpoint=path, partial=True)
    assert torch.equal(net.model.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])


def test_checkpoint_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint '.*gone.pth'"):
        read_checkpoint(tmp_path / "gone.pth")
    (tmp_path / "noise.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match="noise.safetensors cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "noise.safetensors")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="empty.pth holds no tensors; a state dict was expected, but it is a dict"):
        read_checkpoint(tmp_path / "empty.pth")
    whole = save(state_of("test_resnet"), tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half.pth .*(Is the file complete|no file of torch's)"):
        read_checkpoint(tmp_path / "half.pth")


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoint_with_code_is_not_executed(tmp_path, legacy):
    path = tmp_path / "hostile.pth"
    if legacy:
        path.write_bytes(pickle.dumps(Hostile(), protocol=2))
    else:
        torch.save({"state_dict": Hostile()}, path)
    with pytest.raises(ValueError, match="hostile.pth is no file of torch's, or holds Python objects .* could execute"):
        read_checkpoint(path)


def test_checkpoint_positions_are_interpolated(tmp_path):
    state = state_of("test_vit", img_size=160)
    net = Timm("test_vit", checkpoint=save(state, tmp_path / "w.pth"), image_size=80)
    grid = state["pos_embed"][:, 1:].reshape(1, 10, 10, 64).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, (5, 5), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 25, 64)
    same(net.model.pos_embed[:, 1:], expected)
    assert torch.equal(net.model.pos_embed[:, :1], state["pos_embed"][:, :1])


def test_checkpoint_first_convolution_is_summed_for_grey(tmp_path):
    path = save(state_of("test_resnet"), tmp_path / "w.pth")
    colour, grey = Timm("test_resnet", checkpoint=path).eval(), Timm("test_resnet", checkpoint=path, channels=1).eval()
    x = torch.rand(2, 1, 64, 64)
    same(grey(x), colour(x.expand(-1, 3, -1, -1)))
    assert grey.mean == pytest.approx((sum(colour.mean) / 3,))


def test_load_weights_into_a_module_of_ours(tmp_path):
    theirs = torchvision.models.resnet18()
    path = save(wrapped(theirs.state_dict(), "module.encoder_q."), tmp_path / "moco.pth")
    net = ResNet18(stem="imagenet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = load_weights(net, path)
    assert "100 of the model's 100 tensors found under the prefix 'module.encoder_q.'; not used: fc.weight, fc.bias" in report
    assert torch.equal(net.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_rebuilding_reads_no_weights(tmp_path, monkeypatch):
    path = save(state_of("test_vit"), tmp_path / "w.pth")
    model = build_encoder("timm:test_vit", [8], checkpoint=path, image_size=64, mean=(0.3,), std=(0.4,))
    path.unlink()
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: pytest.fail("weights were fetched"))
    with without_weights():
        again = build(describe(model))
        published = build(describe(model.backbone) | {"name": "test_vit.r160_in1k", "pretrained": True, "checkpoint": None})
    assert describe(again) == describe(model)
    assert again.backbone.checkpoint == str(path)
    assert published.pretrained is True
    again.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 64, 64)
    same(again.eval()(x).z, model.eval()(x).z)
    with pytest.raises(FileNotFoundError):
        build(describe(model))


# ---- by name -------------------------------------------------------------------------------------------------------------


def test_backbones_are_found_and_built():
    vits = ["vit-tiny", "vit-small", "vit-base"]
    assert backbones() == ["convnet", "convnet-residual", "resnet18", *vits, "locatello", "locatello-small"]
    for name in backbones():
        assert backbone(name, channels=1)(torch.rand(2, 1, 32, 32)).shape[0] == 2
    found = backbones("*vit_small_patch16_224*")
    assert {"timm:vit_small_patch16_224", "timm:vit_small_patch16_224.dino"} <= set(found)
    assert backbones("timm:test_vit") == ["timm:test_vit", "timm:test_vit.r160_in1k"]
    assert backbones("*resnet18")[:2] == ["resnet18", "timm:" + timm.list_models("*resnet18")[0]]
    with pytest.raises(
        ValueError,
        match="there is no backbone 'alexnet'; there are convnet, convnet-residual, resnet18, .*, and timm's, as 'timm:alexnet'",
    ):
        backbone("alexnet")


def test_backbone_settings_follow_the_images():
    assert backbone("resnet18", width=4).stem == "cifar"
    assert backbone("resnet18", width=4, image_size=224).stem == "imagenet"
    assert backbone("resnet18", width=4, image_size=224, stem="cifar").stem == "cifar"
    assert backbone("convnet-residual").residual_last
    assert [backbone("vit-tiny", image_size=size).grid for size in (28, 32, 64, 96)] == [(7, 7), (8, 8), (8, 8), (12, 12)]
    vit = backbone("vit-tiny", channels=1, image_size=28, patch=7, pool="cls")
    assert (vit.grid, vit.pool, vit.patch_embed.proj.in_channels) == ((4, 4), "cls", 1)
    assert backbone("timm:test_vit", image_size=32, resize=True).size == 160
    assert backbone("timm:test_vit", image_size=32).model.pos_embed.shape[1] == 4 + 1


def test_a_tag_means_published_weights(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "timm.models._builder.load_pretrained", lambda model, pretrained_cfg, **k: asked.append(pretrained_cfg["tag"])
    )
    assert backbone("timm:test_vit.r160_in1k").pretrained
    assert asked == ["r160_in1k"]
    assert not backbone("timm:test_vit").pretrained
    assert not backbone("timm:test_vit.r160_in1k", pretrained=False).pretrained
    assert asked == ["r160_in1k"]


def test_build_encoder_normalises_as_the_weights_expect(tmp_path):
    path = save(state_of("vit_tiny_patch16_224"), tmp_path / "w.pth")
    own = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    learned = build_encoder("timm:vit_tiny_patch16_224", None, checkpoint=path, image_size=32)
    assert (learned.mean, learned.std) == (own.mean, own.std) == ((0.5,) * 3, (0.5,) * 3)
    fresh = build_encoder("timm:vit_tiny_patch16_224", None, image_size=32)
    assert (fresh.mean, fresh.std) == ((0.5,), (0.25,))
    given = build_encoder("timm:vit_tiny_patch16_224", None, checkpoint=path, mean=(0.1,), std=(0.2,))
    assert (given.mean, given.std) == ((0.1,), (0.2,))
    x = torch.rand(2, 3, 32, 32)
    same(learned.eval()(x).h, learned.backbone.model((x - 0.5) / 0.5))


def test_build_encoder_takes_grey_images_for_colour_weights(tmp_path):
    path = save(state_of("test_resnet"), tmp_path / "w.pth")
    model = build_encoder("timm:test_resnet", "8", channels=1, checkpoint=path).eval()
    x = torch.rand(2, 1, 64, 64)
    same(model(x).z, model(x.expand(-1, 3, -1, -1)).z)
    assert build_encoder("timm:test_resnet", "8", channels=1).backbone.channels == 1


@pytest.mark.parametrize(
    ("given", "widths"), [("32-8", [16, 32, 8]), ([32, 8], [16, 32, 8]), ("8", [16, 8]), (None, [16]), ("", [16])]
)
def test_build_encoder_wires_the_projector(given, widths):
    model = build_encoder("convnet", given, width=2)
    assert model.projector.widths == widths
    assert model(torch.rand(2, 3, 32, 32)).z.shape == (2, widths[-1])
    assert describe(build(describe(model))) == describe(model)


@pytest.mark.parametrize("given", ["wide", "32-", [0], "-8"])
def test_build_encoder_says_what_a_projector_is(given):
    with pytest.raises(ValueError, match=r"a projector is widths such as '2048-2048-128' or \[2048, 2048, 128\], but got"):
        build_encoder("convnet", given)


def test_maps_of_one_pixel_get_the_right_gradient_in_half_precision():
    """The weights beside the centre see zeros alone, so their gradient is zero."""
    body, x = ConvNet(4, depth=4), torch.rand(32, 3, 4, 4)
    with torch.no_grad():
        plain = x
        for stage in (body.stage1, body.stage2, body.stage3, body.stage4):
            plain = stage(plain)
    torch.testing.assert_close(body(x), plain.mean((2, 3)))
    for _ in range(5):
        body.zero_grad()
        junk = [torch.full((200_000,), torch.nan) for _ in range(3)]
        del junk  # what memory may hold
        with torch.autocast("cpu", dtype=torch.bfloat16):
            body(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
        beside = body.stage4[0].weight.grad.clone()
        beside[:, :, 1, 1] = 0
        assert (beside == 0).all()


def test_processes_keep_the_same_dimensions_of_a_batch(monkeypatch):
    import workbench.models.fixed

    monkeypatch.setattr(workbench.models.fixed, "from_first", lambda x: torch.arange(len(x)).flip(0))  # what the first drew
    kept = workbench.models.fixed.FixedProjector(4, 2, kind="resampled").train()(torch.arange(4.0)[None])
    assert kept.tolist() == [[3, 2]]
