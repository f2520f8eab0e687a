"""Patches taken one batch at a time are those that are z-scored as a whole."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers import load_dataset, prepared_dataset

from hydrakit.data.augment import Views, central_view


def test_views_are_those_of_z_scored_patches(data: Path, cache: Path, device: str) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache, device=device)
    train, patch = loaded.train, loaded.patch
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(train), (40,), generator=generator).to(train.device)
    views = Views.draw(40, generator).to(train.device)
    prepared = prepared_dataset("alpha", data=data, cache=cache)
    rows = [n for n, c in enumerate(prepared.index.cases) if loaded.splits[c.key] == "train"]
    whole = torch.from_numpy(prepared.rows(rows))[chosen.cpu()].to(train.device)
    near = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(train.views(chosen, views, patch), views.of(whole, patch), **near)
    torch.testing.assert_close(train.views(chosen, None, patch), central_view(whole, patch), **near)
    torch.testing.assert_close(train.unaugmented(patch)[chosen], central_view(whole, patch), **near)
