"""Two images of one class as a pair."""

import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.spec import build, describe


@pytest.fixture
def images():
    labels = [0] * 5 + [1] * 3 + [7]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist()
    factors = pd.DataFrame({"label": [labels[i] for i in order], "hue": [i / 10 for i in range(9)]})
    pixels = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 3, 8, 8).contiguous()  # every image shows its row
    return wb.Images(pixels, factors, "nine")


def test_the_second_view_shows_another_image_of_the_class_each_equally_often(images):
    maker = wb.Classmates(images, wb.Plain())
    torch.manual_seed(0)
    index = torch.arange(9)
    seen = []
    for _ in range(600):
        first, second = maker(images.at(index), index).images
        assert torch.equal((first[:, 0, 0, 0] * 255).round().long(), index)
        seen.append((second[:, 0, 0, 0] * 255).round().long())
    seen = torch.stack(seen)
    label = images.factors["label"].to_numpy()
    for row in range(9):
        mates = [j for j in range(9) if label[j] == label[row] and j != row] or [row]
        counts = torch.bincount(seen[:, row], minlength=9)
        assert counts[mates].sum() == 600
        assert (counts[mates] - 600 / len(mates)).abs().max() < 5 * (600 / len(mates)) ** 0.5


def test_recorded_actions_name_the_row(images):
    maker = wb.Classmates(images, wb.Augment(1, record=True))
    views = maker(images.at([3, 4]), torch.tensor([3, 4]))
    assert views.actions[0]["row"].tolist() == [3, 4] and "hue" in views.actions[1]
    label = images.factors["label"].to_numpy()
    assert (label[views.actions[1]["row"]] == label[[3, 4]]).all()


def test_it_trains_and_is_described():
    images = wb.garments(64)
    maker = wb.Classmates(images, wb.Augment(1), factor="class_name")
    again = build(describe(maker))
    torch.manual_seed(1)
    first = maker(images.at(range(8)), torch.arange(8))
    torch.manual_seed(1)
    torch.testing.assert_close(again(images.at(range(8)), torch.arange(8)).images, first.images)
    model = wb.build_encoder("convnet", "16", width=4)
    steps = list(wb.Trainer(epochs=1, batch_size=16, device="cpu").steps(model, wb.SimCLR(), images, maker))
    assert len(steps) == 4


def test_what_is_no_class_is_refused(images):
    with pytest.raises(KeyError, match="nine has no factor 'kind'; it has"):
        wb.Classmates(images, factor="kind")
    with pytest.raises(ValueError, match="share a class, but 'hue' of nine is continuous or missing somewhere"):
        wb.Classmates(images, factor="hue")
