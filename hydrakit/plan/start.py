"""Weights that a run begins with, as a plan has them: their files with digests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer

from hydrakit.errors import PlanError
from hydrakit.schema import Frozen, Name, PathText
from hydrakit.storage.digests import cached_digest
from hydrakit.storage.files import reason

Channels = Annotated[int, Field(gt=0, le=1024)]


class StartWeights(Frozen):
    """Weights that a body begins with, in place of random ones.

    Attributes:
        file: Path of their file, as the user gave it.
        sha256: SHA-256 of the file.
        channels: Number of channels that the body must take, since its weights are used as they
            are; None if they may be converted to that of the data.
    """

    file: PathText
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    channels: Channels | None = None

    @model_serializer(mode="wrap")
    def _omit_none(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer fields with their defaults: older plans stay as they are."""
        content: dict[str, Any] = serialise(self)
        if self.channels is None:
            content.pop("channels", None)
        return content

    @property
    def facts(self) -> Any:
        """What decides results, wherever the file is."""
        return self.sha256 if self.channels is None else [self.sha256, self.channels]

    @classmethod
    def of(cls, given: Any) -> Any:
        """Compute the digest of a file that is given by its path; return anything else as it is.

        Raises:
            PlanError: The file cannot be read.
        """
        if not isinstance(given, str | Path):
            return given
        try:
            digest = cached_digest(Path(given))
        except (OSError, ValueError) as error:
            raise PlanError(
                f"{given}: cannot be read ({reason(error)}): name a file of weights"
            ) from None
        return cls(file=str(given), sha256=digest.sha256)


class NetworkWeights(Frozen):
    """Weights that a network begins with: its body and some of its heads.

    Attributes:
        body: Weights of the body.
        heads: Files of heads, by the name of the head in the plan.
    """

    body: StartWeights
    heads: dict[Name, StartWeights] = Field(default_factory=dict)


def facts_of(weights: Mapping[str, StartWeights]) -> dict[str, Any]:
    """What decides results of given weights of heads, by the name of the head."""
    return {name: each.facts for name, each in weights.items()}
