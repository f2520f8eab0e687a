"""Several copies of the paper's network that are trained in one step: a prototype.

Runs of one plan with other seeds or folds have networks of one shape. Their weights lie beside each
other: convolutions become grouped ones, dense layers batched products. Each copy learns what it
learns alone. hydrakit does not use it: `benchmarks/gpu.sh` measures whether it is worth it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hydrakit.models.body import Block, BodyWithHead, PaperBody, channels_last
from hydrakit.models.layers import Dropout


class StackedLinear(nn.Module):
    """Linear layers side by side: ``(copies, batch, inputs)`` to ``(copies, batch, outputs)``."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = _stacked([layer.weight for layer in layers])
        self.bias = _stacked([layer.bias for layer in layers])

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the outputs of every copy."""
        return torch.baddbmm(self.bias[:, None], inputs, self.weight.mT)


class StackedNetwork(nn.Module):
    """Copies of a network of the paper's body and the head `mlp`, in training mode only.

    Args:
        networks: The networks, of one shape, with batch norm; their weights are copied.
    """

    def __init__(self, networks: Sequence[BodyWithHead]) -> None:
        super().__init__()
        self.copies = len(networks)
        bodies = [network.body for network in networks if isinstance(network.body, PaperBody)]
        assert len(bodies) == len(networks)
        self.blocks = nn.Sequential(
            *(
                _stacked_block(blocks)
                for blocks in zip(*(body.blocks for body in bodies), strict=True)
            )
        )
        self.dense = StackedLinear([body.dense for body in bodies])
        self.dropout = Dropout(bodies[0].dropout.p)
        self.head = nn.Sequential(
            *(
                StackedLinear(layers) if isinstance(layers[0], nn.Linear) else layers[0]
                for layers in zip(*(network.head.children() for network in networks), strict=True)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``(copies, batch, channels, side, side)`` into logits of every copy."""
        maps = self.blocks(channels_last(images.transpose(0, 1).flatten(1, 2)))
        own = maps.unflatten(1, (self.copies, -1)).transpose(0, 1).flatten(start_dim=2)
        logits: Tensor = self.head(self.dropout(functional.elu(self.dense(own))))
        return logits


def stacked_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the mean losses of all copies, so that each gets the gradients that it gets alone.

    Args:
        logits: ``(copies, batch, classes)``.
        labels: ``(copies, batch)``.
    """
    each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return each / labels.shape[1]


def _stacked(tensors: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack([each.detach() for each in tensors]))


def _stacked_block(blocks: Sequence[Block]) -> Block:
    """A block whose convolutions have a group for each copy, and whose norms have its channels."""
    first, copies = blocks[0], len(blocks)
    outputs = first.conv1.out_channels
    layers = dict[str, nn.Module]()
    for name in ("conv1", "conv2", "conv3"):
        own = [getattr(block, name) for block in blocks]
        conv = nn.Conv2d(
            copies * own[0].in_channels,
            copies * outputs,
            own[0].kernel_size,
            groups=copies,
            device=own[0].weight.device,
        )
        _take(conv, own)
        layers[name] = conv
    for name in ("norm1", "norm2", "norm3"):
        norms = [getattr(block, name) for block in blocks]
        norm = nn.BatchNorm2d(copies * outputs, device=norms[0].weight.device)
        _take(norm, norms)
        layers[name] = norm
    stacked = Block.__new__(Block)
    nn.Module.__init__(stacked)
    for name, module in layers.items():
        stacked.add_module(name, module)
    stacked.dropout = Dropout(first.dropout.p)
    return stacked


def _take(layer: nn.Module, layers: Sequence[nn.Module]) -> None:
    """Give a layer the tensors of several, one after the other along their first axis."""
    states = [each.state_dict() for each in layers]
    joined = {
        name: torch.cat([state[name] for state in states]) if tensor.ndim else tensor
        for name, tensor in states[0].items()
    }
    layer.load_state_dict(joined)
    for parameter in layer.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
