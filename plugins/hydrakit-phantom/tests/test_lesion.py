"""The lesions and random fields that the organs share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from hydrakit_phantom.lesion import draw_lesion, smooth_noise
from hydrakit_phantom.settings import Settings

PIXEL = 0.25


def grid(half: float = 12.0):
    steps = np.arange(-half, half, PIXEL)
    return np.meshgrid(steps, steps, indexing="ij")


@given(seed=st.integers(0, 10**6), separation=st.floats(0, 8))
def test_only_the_two_cues_know_the_class(seed, separation):
    pair = [
        draw_lesion(np.random.default_rng(seed), positive, separation=separation, radius=(3, 5))
        for positive in (False, True)
    ]
    negative, positive = pair
    assert negative.radius == positive.radius
    assert negative.contrast == positive.contrast
    np.testing.assert_array_equal(negative.waves, positive.waves)
    assert negative.ragged <= positive.ragged
    assert negative.fine <= positive.fine


@given(seed=st.integers(0, 10**6), positive=st.booleans())
def test_area_mean_and_variance_do_not_know_the_class(seed, positive):
    rng = np.random.default_rng(seed)
    lesion = draw_lesion(rng, positive, separation=6, radius=(3, 5))
    down, right = grid()
    opacity = lesion.opacity(down, right, blur=PIXEL)
    area = opacity.sum() * PIXEL**2
    assert area == pytest.approx(np.pi * lesion.radius**2, rel=0.03)
    shade = lesion.shade(rng, opacity, pixel=PIXEL)
    assert shade.sum() / opacity.sum() == pytest.approx(lesion.contrast, rel=1e-6)
    seen = opacity > 0
    relative = shade[seen] / opacity[seen] / lesion.contrast
    spread = np.average((relative - 1) ** 2, weights=opacity[seen])
    assert np.sqrt(spread) == pytest.approx(0.4, rel=1e-6)


@pytest.mark.parametrize("height", [-0.6, 0.6])
def test_a_plane_off_the_middle_cuts_a_smaller_disc(height):
    lesion = draw_lesion(np.random.default_rng(1), True, separation=4, radius=(4, 4))
    down, right = grid()
    whole = lesion.opacity(down, right, blur=PIXEL).sum()
    cut = lesion.opacity(down, right, blur=PIXEL, height=height).sum()
    assert cut / whole == pytest.approx(1 - height**2, rel=0.02)


@pytest.mark.parametrize("height", [-1.0, 1.0, 3.0])
def test_a_plane_beside_the_lesion_cuts_nothing(height):
    lesion = draw_lesion(np.random.default_rng(1), True, separation=4, radius=(4, 4))
    assert not lesion.opacity(*grid(), blur=PIXEL, height=height).any()


@pytest.mark.parametrize("difficulty", [1.0, 0.6, 0.3])
def test_the_classes_overlap_as_the_difficulty_says(difficulty):
    separation = Settings(patients=12, seed=0, difficulty=difficulty).separation
    rng = np.random.default_rng(0)
    labels = np.arange(6000) % 2
    scores = []
    for label in labels:
        lesion = draw_lesion(rng, bool(label), separation=separation, radius=(3, 5))
        cues = np.array([lesion.ragged, lesion.fine])
        scores.append(np.log(cues / (1 - cues)).sum())
    # The best possible classifier of two normal distributions that lie d apart.
    expected = norm.cdf(separation / np.sqrt(2))
    assert roc_auc_score(labels, scores) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("shape", [(256, 256), (255, 301)])
def test_noise_has_unit_variance_and_the_correlation_of_smoothed_white_noise(shape):
    grain = 4
    field = smooth_noise(np.random.default_rng(2), shape, grain=grain)
    field = np.concatenate(
        [field, smooth_noise(np.random.default_rng(3), shape, grain=grain)], axis=0
    )
    assert field.var() == pytest.approx(1, abs=0.15)
    # Gaussian smoothing of width g gives the autocorrelation exp(-lag^2 / (4 g^2)).
    for lag in (2, 4, 8):
        found = (field[:, lag:] * field[:, :-lag]).mean() / field.var()
        assert found == pytest.approx(np.exp(-(lag**2) / (4 * grain**2)), abs=0.07)
