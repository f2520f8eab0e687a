"""Two bodies for hook API 1: a module of its own, and a network in a `NetworkBody`."""

from dataclasses import dataclass

from hydrakit.hooks import BodyFactory, InputNeeds, hookimpl

HYDRAKIT_API = 1


@dataclass(frozen=True)
class Options:
    patch: int = 16
    width: int = 4


def build_scaled(in_channels, options, datasets):
    """A convolution, pooled, with a scale for each dataset."""
    import torch
    from torch import nn

    class Scaled(nn.Module):
        by_dataset = True

        def __init__(self):
            super().__init__()
            self.in_channels, self.features, self.patch = in_channels, options.width, options.patch
            self.net = pooled(in_channels, options.width)
            self.scales = nn.ParameterDict({each: torch.ones(1) for each in datasets})
            self.dataset = None

        def forward(self, images):
            features = self.net(images)
            return features if self.dataset is None else features * self.scales[self.dataset]

        def use(self, dataset):
            if dataset not in self.scales:
                raise ValueError(f"the body was not built for {dataset!r}")
            self.dataset = dataset

    return Scaled()


def build_pooled(in_channels, options, datasets):
    """The same without scales."""
    from hydrakit.models.body import NetworkBody

    return NetworkBody(
        pooled(in_channels, options.width),
        features=options.width,
        in_channels=in_channels,
        patch=options.patch,
    )


def pooled(in_channels, width):
    """A network that turns images into features."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(in_channels, width, kernel_size=5, stride=2),
        nn.GroupNorm(1, width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


@hookimpl
def hydrakit_body_factories():
    yield BodyFactory(
        name="golden-scaled",
        summary="One convolution, with a scale for each dataset",
        build=build_scaled,
        options=Options,
    )
    yield BodyFactory(
        name="golden-pooled",
        summary="One convolution",
        build=build_pooled,
        options=Options,
        needs=InputNeeds(patch=8, channels=(1, 3), normalise=("patient", "image", "window")),
    )
