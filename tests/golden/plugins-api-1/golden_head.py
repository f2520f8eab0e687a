"""A head for hook API 1."""

from dataclasses import dataclass, field

from hydrakit.hooks import HeadFactory, hookimpl

HYDRAKIT_API = 1


@dataclass(frozen=True)
class Options:
    hidden: tuple[int, ...] = field(default=(8,), metadata={"help": "units of each hidden layer"})


def build(features, outputs, options):
    """Turn features ``(batch, features)`` into logits ``(batch, outputs)``."""
    from torch import nn

    layers = []
    for units in options.hidden:
        layers += [nn.Linear(features, units), nn.ELU(), nn.Dropout()]
        features = units
    return nn.Sequential(*layers, nn.Linear(features, outputs))


@hookimpl
def hydrakit_head_factories():
    yield HeadFactory(
        name="golden-layers",
        summary="Hidden layers with dropout, then one dense layer",
        build=build,
        options=Options,
        tasks=("classification", "regression", "multilabel"),
    )
