"""A comparison finds help that is there by design, and none where there is none to find.

Phantom brain images share one cue whatever their seed. A target of 100 images is too little to
learn it from; two supports of 400 show it plainly. In the other comparison the supports' labels are
chance (`--difficulty 1`). `classical-long` trains on the target as often as `hydra` does, so that
the supports alone make the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hydrakit.compare.design import make_design
from hydrakit.compare.engine import compare
from hydrakit_phantom.write import write_phantom

DECLARED = """
name = "{name}"
classes = ["healthy", "tumour"]
licence = "synthetic"
citation = "hydrakit phantom"
field_of_view = {{ share = 1.0 }}
pattern = "{{label}}/*"

[labels]
no = "healthy"
yes = "tumour"
"""


def write(folder: Path, *, difficulty: float) -> Path:
    """The data of a comparison, whose supports are as difficult as that."""
    made = (("brain", 100, 7, 0.4), ("one", 400, 4, difficulty), ("two", 400, 14, difficulty))
    data = folder / "data"
    data.mkdir(parents=True)
    for name, patients, seed, how_difficult in made:
        write_phantom(
            folder / name,
            patients=patients,
            seed=seed,
            datasets=["brain"],
            difficulty=how_difficult,
        )
        (folder / name / "brain").rename(data / name)
        if name != "brain":
            (data / name / "dataset.toml").write_text(DECLARED.format(name=name))
    return data


@pytest.mark.slow
@pytest.mark.parametrize("cue", [True, False])
def test_supports_help_where_they_share_the_cue_alone(cue: bool, tmp_path: Path) -> None:
    design = make_design(
        baselines=(),
        strategies=["hydra", "classical-long", "classical"],
        datasets=["brain", "one", "two", "brain"],
        seeds=2,
        folds=2,
        repeats=1,
        settings={"profile": "recommended-0.1", "body_channels": [8, 16, 32]},
    )
    data = write(tmp_path, difficulty=0.3 if cue else 1.0)
    found = compare(design, out=tmp_path / "out", data=data, cache=tmp_path / "cache")
    assert found.comparison is not None
    assert not found.failed
    print(found.comparison.verdict)
    verdicts = {pair.against: pair.verdict for pair in found.comparison.pairs}
    expected = "better" if cue else "cannot tell"
    assert verdicts["classical-long"] == expected
    if cue:
        assert verdicts["classical"] == "better"
