"""Example test cases: which are chosen, and their saliency maps."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import make_run, predictions
from torch import nn

from hydrakit.models.body import attach_head
from hydrakit.plan.grey import PER_PATIENT
from hydrakit.runs.example_cases import choose_examples, integrated_gradients, output_score


class LinearHead(nn.Module):
    """A linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, features):
        return self.linear(features)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 2))
def test_a_map_sums_to_the_change_of_the_score(seed, output):
    """The completeness of integrated gradients (Sundararajan 2017, proposition 1)."""
    from hydrakit.models.body import PaperBody
    from hydrakit.plan import BodySpec

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = PaperBody(
            BodySpec(channels=(4, 8), features=8, patch=16), in_channels=1, dropout=0.0
        )
        model = attach_head(body.eval(), LinearHead())
    canvases = np.random.default_rng(seed).normal(size=(2, 1, 44, 44)).astype(np.float32)

    patches, maps = integrated_gradients(
        model, canvases, [output, output], target="d", grey=PER_PATIENT
    )

    assert patches.shape == maps.shape == (2, 1, 16, 16)
    with torch.no_grad():
        here = output_score(model(torch.from_numpy(patches)), output)
        there = output_score(model(torch.zeros(1, 1, 16, 16)), output)
    np.testing.assert_allclose(
        maps.sum(axis=(1, 2, 3)), (here - there).numpy(), rtol=0.05, atol=0.02
    )


def test_a_group_contains_one_image_of_a_finding(tmp_path):
    test = predictions(12, 30, shift=0.7)
    names = tuple(f"f{label}{number % 4}" for number, label in enumerate(test.labels))
    rundir = make_run(tmp_path / "run", test=replace(test, findings=names))
    keys, chosen = choose_examples(rundir)
    with (rundir.path / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    for group in ("right", "wrong"):
        inside = {}  # of each finding, how sure each image's answer is
        for row in rows:
            if (row["label"] == row["predicted"]) == (group == "right"):
                sure = float(row[f"p_{row['predicted']}"])
                inside.setdefault(row["finding"], {})[row["key"]] = sure
        expected = {max(of, key=of.get) for of in inside.values()}
        shown = [k for k, each in zip(keys, chosen, strict=True) if each.group == group]
        assert len(shown) == len(set(shown)) == len(expected)
        assert set(shown) == expected


def test_right_and_wrong_cases_are_sorted_by_confidence(tmp_path):
    rundir = make_run(tmp_path / "run", test=predictions(12, 30, shift=0.7))
    keys, chosen = choose_examples(rundir)
    with (rundir.path / "predictions.csv").open() as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert len(keys) == len(chosen) == 16
    for key, each in zip(keys, chosen, strict=True):
        row = rows[key]
        assert (each.group == "right") == (row["label"] == row["predicted"])
        assert each.label == row["label"]
    for group in ("right", "wrong"):
        sure = [
            float(rows[key][f"p_{rows[key]['predicted']}"])
            for key, each in zip(keys, chosen, strict=True)
            if each.group == group
        ]
        assert sure == sorted(sure, reverse=True)
        rest = [
            float(row[f"p_{row['predicted']}"])
            for row in rows.values()
            if row["split"] == "test" and (row["label"] == row["predicted"]) == (group == "right")
        ]
        assert sure == sorted(rest, reverse=True)[:8]


def rewrite(rundir, task, header, lines):
    """Replace the task and the predictions of a run's test split."""
    path = rundir.results_path
    results = json.loads(path.read_text())
    results["test"]["task"] = task
    path.write_text(json.dumps(results), encoding="utf-8")
    text = "\n".join([header, *(f"prostatex,test,{line}" for line in lines)]) + "\n"
    (rundir.path / "predictions.csv").write_text(text, encoding="utf-8")


def test_a_regression_shows_the_largest_and_smallest_errors(tmp_path):
    rundir = make_run(tmp_path / "run")
    errors = [0.5, 3.0, 0.1, 2.0, 9.0]
    lines = [f"k{place},k{place},10,{10 + error}" for place, error in enumerate(errors)]
    rewrite(rundir, "regression", "dataset,split,key,finding,label,predicted", lines)
    keys, chosen = choose_examples(rundir)
    assert keys == ["k4", "k1", "k3", "k2", "k0"]
    assert [each.group for each in chosen] == ["far"] * 3 + ["near"] * 2
    assert chosen[0].label == "10"
    assert chosen[0].said == "19"


def test_several_labels_are_described_by_the_most_confident_wrong_one(tmp_path):
    rundir = make_run(tmp_path / "run")
    lines = ["k0,k0,a;b,a,0.9,0.2,0.4", "k1,k1,,,0.1,0.3,0.2", "k2,k2,c,b;c,0.4,0.6,0.95"]
    lines.append("k3,k3,a?,a,0.99,0.2,0.3")  # an unknown label is neither right nor wrong
    header = "dataset,split,key,finding,label,predicted,p_a,p_b,p_c"
    rewrite(rundir, "multilabel", header, lines)
    keys, chosen = choose_examples(rundir)
    assert keys == ["k0", "k2", "k1", "k3"]
    assert [(each.group, each.output, each.said) for each in chosen] == [
        ("wrong", 1, "b 0.20"),
        ("wrong", 1, "b 0.60"),
        ("right", 0, "a 0.10"),
        ("right", 1, "b 0.20"),
    ]
    assert chosen[2].label == "none"
    assert chosen[3].label == "a?"
