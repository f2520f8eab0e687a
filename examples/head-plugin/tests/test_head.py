"""Tests of the head."""

import pytest
import torch
from hydrakit.testing import check_head

from hydrakit_cosine.head import HEAD, Options


def test_it_follows_the_rules_of_heads() -> None:
    check_head(HEAD)


def test_the_length_of_the_features_does_not_count() -> None:
    head = HEAD.build(6, 3, Options()).eval()
    features = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(7 * features), head(features))


def test_features_along_a_direction_have_the_scale_as_their_logit() -> None:
    head = HEAD.build(6, 2, Options(scale=20.0)).eval()
    logits = head(head.directions)
    torch.testing.assert_close(logits.diagonal(), torch.tensor([20.0, 20.0]))


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scale is 0\.0: it must be above 0 and at most 100"):
        Options(scale=0.0)
