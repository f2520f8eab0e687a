from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hydrakit.compute.modules import count_parameters, freeze, output_of, set_dropout
from hydrakit.models.bodies import SmallOptions, build_small
from hydrakit.models.body import PaperBody, attach_head
from hydrakit.models.heads import build_linear, build_mlp
from hydrakit.models.intensity import first_order
from hydrakit.models.small import SmallBody
from hydrakit.plan import BodySpec

SMALL = BodySpec(channels=(3, 5), features=7, patch=20)


def small_body(*, in_channels: int = 2, dropout: float = 0.5) -> PaperBody:
    torch.manual_seed(1)
    return PaperBody(SMALL, in_channels=in_channels, dropout=dropout)


def test_the_papers_network_has_851570_parameters() -> None:
    body = PaperBody(BodySpec(), in_channels=1, dropout=0.5)
    assert count_parameters(attach_head(body, build_mlp(256, 2))) == 851_570
    assert body.dense.in_features == 2048
    freeze(body)
    assert count_parameters(attach_head(body, build_mlp(256, 2))) == 851_570


def test_images_become_features_and_logits() -> None:
    body = PaperBody(BodySpec(), in_channels=1, dropout=0.5)
    images = torch.zeros(3, 1, 65, 65)
    assert body(images).shape == (3, 256)
    assert attach_head(body, build_mlp(256, 4))(images).shape == (3, 4)


def test_every_block_is_conv_norm_elu_three_times_dropout_pool() -> None:
    body = small_body(dropout=0.0)
    images = torch.randn(4, 2, 20, 20, generator=torch.Generator().manual_seed(2))
    maps = images
    for block in body.blocks:
        for i in (1, 2, 3):
            conv, norm = getattr(block, f"conv{i}"), getattr(block, f"norm{i}")
            maps = nn.functional.conv2d(maps, conv.weight, conv.bias)
            maps = nn.functional.batch_norm(
                maps, None, None, norm.weight, norm.bias, training=True, eps=1e-5
            )
            maps = nn.functional.elu(maps)
        maps = nn.functional.max_pool2d(maps, 2)
    expected = nn.functional.elu(maps.flatten(1) @ body.dense.weight.T + body.dense.bias)
    torch.testing.assert_close(body(images), expected)


def test_initial_weights_are_pytorchs_uniform_ones() -> None:
    body = PaperBody(BodySpec(), in_channels=1, dropout=0.5)
    bound = 2048**-0.5
    weight = body.dense.weight
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_names_of_the_tensors_can_be_read() -> None:
    names = set(small_body().state_dict())
    assert {"blocks.0.conv1.weight", "blocks.1.norm3.running_var", "dense.bias"} <= names
    assert {name.split(".")[0] for name in names} == {"blocks", "dense"}


def test_dropout_acts_in_training_alone() -> None:
    body = small_body()
    images = torch.randn(4, 2, 20, 20)
    assert not torch.equal(body(images), body(images))
    body.eval()
    torch.testing.assert_close(body(images), body(images), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(4, 1, 20, 20), (4, 2, 21, 20), (4, 2, 20, 21), (2, 20, 20)])
def test_wrong_images_are_refused_by_name_of_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 2, 20, 20\), got") as caught:
        small_body()(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_a_frozen_body_stays_as_it_is_while_the_head_is_trained() -> None:
    body = small_body()
    head = build_mlp(7, 2)
    model = attach_head(body, head)
    freeze(body)
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    images = torch.randn(8, 2, 20, 20)
    features = body(images)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        model.train()
        assert head.training
        assert not any(module.training for module in body.modules())
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in body.parameters())
    assert all(parameter.grad is not None for parameter in head.parameters())
    for name, tensor in body.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(body(images), features)


def test_a_freed_body_learns_again() -> None:
    body = small_body()
    freeze(body)
    freeze(body, False)
    assert all(module.training for module in body.modules())
    before = body.blocks[0].norm1.running_mean.clone()
    body(torch.randn(8, 2, 20, 20)).sum().backward()
    assert all(parameter.grad is not None for parameter in body.parameters())
    assert not torch.equal(body.blocks[0].norm1.running_mean, before)


def test_a_body_that_is_not_frozen_follows_train_and_eval() -> None:
    model = attach_head(small_body(), build_linear(7, 2))
    assert all(module.training for module in model.train().modules())
    assert not any(module.training for module in model.eval().modules())


def test_set_dropout_reaches_every_dropout_layer() -> None:
    model = attach_head(small_body(), nn.Sequential(nn.AlphaDropout(0.5), build_mlp(7, 2)))
    set_dropout(model, 0.25)
    layers = [m for m in model.modules() if isinstance(m, nn.Dropout | nn.AlphaDropout)]
    assert len(layers) == 2 + 1 + 2
    assert {layer.p for layer in layers} == {0.25}


def test_joining_refuses_a_head_for_other_features() -> None:
    with pytest.raises(ValueError, match="does not take the body's 7 features"):
        attach_head(small_body(), build_linear(8, 2))


def test_joining_refuses_a_head_without_logits() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 7, 1\)"):
        attach_head(small_body(), nn.Unflatten(1, (7, 1)))


def test_joining_shares_the_modules() -> None:
    body, head = small_body(), build_linear(7, 2)
    model = attach_head(body, head)
    assert model.body is body
    assert model.head is head


def test_output_of_leaves_the_head_alone() -> None:
    head = nn.Sequential(nn.BatchNorm1d(7), nn.Dropout(0.5), nn.Linear(7, 2))
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    first, second = (output_of(head, torch.ones(3, 7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert all(module.training for module in head.modules())
    assert all(torch.equal(t, before[name]) for name, t in head.state_dict().items())


def test_equal_seeds_give_equal_bodies() -> None:
    first, second = small_body(), small_body()
    pairs = itertools.zip_longest(first.state_dict().values(), second.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)


def plain_block(block: nn.Module, images: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """A block as the paper tells it: batch norm, ELU, dropout and max pooling one by one."""
    maps = images
    for i in (1, 2, 3):
        conv, norm = getattr(block, f"conv{i}"), getattr(block, f"norm{i}")
        maps = nn.functional.elu(norm(conv(maps)))
    if mask is not None:
        maps = maps * mask / (1 - block.dropout.p)
    return nn.functional.max_pool2d(maps, 2)


def test_a_block_with_elu_last_gives_what_the_order_of_the_paper_gives() -> None:
    body = small_body(dropout=0.4)
    block, twin = body.blocks[0], copy.deepcopy(body.blocks[0])
    images = torch.randn(4, 2, 20, 20, requires_grad=True)
    other = images.detach().clone().requires_grad_()
    torch.manual_seed(5)
    found = block(images)
    torch.manual_seed(5)
    mask = twin.dropout.mask(torch.empty_like(twin.conv3(twin.conv2(twin.conv1(other)))))
    expected = plain_block(twin, other, mask)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(images.grad, other.grad, atol=1e-5, rtol=1e-4)
    for (name, one), two in zip(block.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-4, rtol=1e-4, msg=name)
    assert torch.equal(block.norm3.running_var, twin.norm3.running_var)


@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_batch_norm_folded_into_convolutions_changes_nothing(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    body = small_body(dropout=0.4)
    for name, buffer in body.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * scale)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) * scale + 1e-3)
    images = torch.randn(3, 2, 20, 20, generator=generator) * scale
    body.eval()
    maps = images
    for block in body.blocks:
        maps = plain_block(block, maps, None)
    expected = nn.functional.elu(body.dense(maps.flatten(1)))
    size = float(expected.detach().abs().max())
    torch.testing.assert_close(body(images), expected, atol=1e-5 * size, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_every_map_is_in_channels_last_order(channels: int, training: bool, device: str) -> None:
    spec = BodySpec(patch=36, channels=(4, 6), features=5)
    body = PaperBody(spec, in_channels=channels, dropout=0.5).to(device).train(training)
    orders = []
    for module in body.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Sequential):
            module.register_forward_hook(
                lambda _, given, result: orders.extend(
                    maps.is_contiguous(memory_format=torch.channels_last)
                    for maps in (*given, result)
                )
            )
    whole = torch.randn(9, channels, 36, 36, device=device)
    for images in (whole, whole[2:5], whole[::2]):
        body(images)
    assert orders
    assert all(orders)


def test_an_evaluating_body_has_gradients_for_images_and_weights() -> None:
    body = small_body().eval()
    images = torch.randn(3, 2, 20, 20, requires_grad=True)
    body(images).sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is not None for parameter in body.parameters())


def small_of(in_channels: int = 2, **options: object) -> SmallBody:
    torch.manual_seed(3)
    return build_small(in_channels, SmallOptions(**options), ())  # type: ignore[arg-type]


def test_the_small_body_pools_its_maps_by_mean_and_by_maximum() -> None:
    body = small_of(channels=(8, 16)).eval()
    images = torch.randn(3, 2, 32, 32)
    pool = nn.MaxPool2d(2)
    maps = body.blocks[0](body.norm(pool(body.conv(images))).relu())
    maps = body.blocks[1](pool(maps))
    assert maps.shape == (3, 16, 8, 8)
    expected = torch.cat([maps.mean((2, 3)), maps.flatten(2).max(dim=2).values], dim=1)
    torch.testing.assert_close(body(images), expected)
    assert body.features == 32
    assert small_of(channels=(16,), features=9)(images).shape == (3, 9)
    assert body(torch.randn(2, 2, 49, 70)).shape == (2, 32)  # images of any size


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_features_of_the_small_body_do_not_depend_on_the_batch(norm: str) -> None:
    body = small_of(norm=norm, channels=(8, 16), intensities=True)
    set_dropout(body, 0.5)
    images = 3 + torch.randn(12, 2, 32, 32)
    body.train()(images)
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    body.eval()
    torch.testing.assert_close(body(images)[4:5], body(images[4:5]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in body.state_dict().items())
    assert body.train()(images[:1]).isfinite().all()  # the last batch of an epoch may be one image


def test_the_small_body_adds_intensities() -> None:
    body = small_of(intensities=True)
    images = 5 * torch.randn(64, 2, 32, 32) + 7
    torch.testing.assert_close(body.train()(images)[:, -22:], first_order(images))
    assert (body.features, body.intensities) == (128 + 22, 22)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": ()}, "channels has 0 blocks: 1 to 8"),
        ({"channels": (8, 2000)}, "channels has 2000: 1 to 1024"),
        ({"features": 0}, "features is 0: 1 to 16384 allowed, or none"),
        ({"patch": 7}, "a patch of 7 pixels is too small for 3 blocks: 8 pixels or more"),
    ],
)
def test_a_small_body_that_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SmallOptions(**options)  # type: ignore[arg-type]
