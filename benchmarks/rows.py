"""What is compared: the contenders of each measurement, and the rows of the table it gives."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import ge, le
from statistics import median

from benchmarks.harness import Samples, Spread, in_turns, once, worker_command
from benchmarks.settings import Settings
from benchmarks.table import Row, quartiles, shown

PAPER_EPOCHS = 2000
LIGHTNING = {"c": ("lightning", "monai")}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Contenders that work in turns, and the rows that their times give.

    Attributes:
        name: As given to ``--only``.
        contenders: By a short name, the class within this package.
        rows: From the times to rows.
        repeats: Which of the settings says how often.
        before: Contenders that do one unit before the others begin.
        needs: Packages of the extra ``bench`` that a contender imports, by its short name; it is
            left out where they are not installed.
    """

    name: str
    contenders: Mapping[str, str]
    rows: Callable[[Samples, Settings], list[Row]]
    repeats: str = "repeats"
    before: tuple[str, ...] = field(default=())
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def missing(self, contender: str) -> list[str]:
        """Names of the packages that a contender needs and that are not installed."""
        names = self.needs.get(contender, ())
        return [name for name in names if importlib.util.find_spec(name) is None]

    def take(self, settings: Settings) -> Samples:
        """Do it."""
        for contender in self.before:
            once(contender, settings)
        commands = {}
        for name, contender in self.contenders.items():
            if missing := self.missing(name):
                print(
                    f"{self.name}: without contender {name!r}, which needs {', '.join(missing)}: "
                    "`pip install -e '.[bench]'`",
                    file=sys.stderr,
                )
            else:
                commands[name] = worker_command(contender, settings)
        repeats: int = getattr(settings, self.repeats)
        return in_turns(commands, repeats=repeats, threads=settings.threads)


def row(what: str, target: str, found: Spread, times: str, note: str, *, most: bool = False) -> Row:
    """A row about a ratio.

    Args:
        what: Is compared.
        target: A number that the ratio is to reach, or none.
        found: The ratio.
        times: Of both sides.
        note: How it was measured.
        most: The target is the most that the ratio may be.
    """
    met = (le if most else ge)(found.median, float(target)) if target else None
    aim = f"{'at most ' * most}{target} times" if target else ""
    return Row(what=what, target=aim, measured=quartiles(found), met=met, times=times, note=note)


def _pair(samples: Samples, slow: str, fast: str) -> str:
    return f"{shown(samples.median(slow))}; {shown(samples.median(fast))}"


def head(samples: Samples, settings: Settings) -> list[Row]:
    """Of head rounds."""
    size = f"{settings.train} patches, {settings.val} to validate on, batches of {settings.batch}"
    both = list(zip(samples.answers["a"], samples.answers["ours"], strict=True))
    whole = [
        (PAPER_EPOCHS * a.seconds, ours.facts["before"] + PAPER_EPOCHS * ours.seconds)
        for a, ours in both
    ]
    slow, fast = (median(side) for side in zip(*whole, strict=True))
    return [
        row(
            "head round, per epoch, against (a)",
            "600",
            samples.ratio("a", "ours"),
            _pair(samples, "a", "ours"),
            size,
        ),
        row(
            "head round of 2,000 epochs, features included, against (a)",
            "500",
            Spread.of([a / ours for a, ours in whole]),
            f"{shown(slow)}; {shown(fast)}",
            "computed: the measured pass over all images and 2,000 times the measured epoch",
        ),
    ]


def epoch(samples: Samples, settings: Settings) -> list[Row]:
    """Of rounds that train body and head."""
    size = f"{settings.train} patches, {settings.val} to validate on, batches of {settings.batch}"
    return [
        row(
            "end-to-end epoch with train, validation and reference figures, against (a)",
            "3",
            samples.ratio("a", "ours"),
            _pair(samples, "a", "ours"),
            f"{size}; training figures are those of the training pass, of the reference set the "
            "validation split is looked at; views are drawn anew, those of (a) lie on disk",
        ),
        row(
            "the same, with all four sets of (a) looked at in a pass each",
            "",
            samples.ratio("a", "four"),
            _pair(samples, "a", "four"),
            "not how hydrakit runs: for comparison",
        ),
        row(
            "end-to-end epoch with `--precision bfloat16`, against (a)",
            "",
            samples.ratio("a", "quick"),
            _pair(samples, "a", "quick"),
            "as the first of these; not the default on a CPU",
        ),
    ]


def lightning(samples: Samples, settings: Settings) -> list[Row]:
    """Of rounds that train body and head, against what a user would write."""
    if "c" not in samples.answers:
        return []
    size = f"{settings.train} patches, {settings.val} to validate on, batches of"
    return [
        row(
            "end-to-end epoch with train and validation figures, against (c)",
            "2",
            samples.ratio("c", "ours"),
            _pair(samples, "c", "ours"),
            f"{size} {settings.small_batch}; both draw a view of each patch anew, in the process "
            "itself; start-up of Lightning's `fit` is not counted",
        ),
        row(
            "the same with `--precision bfloat16`, against (c) in float32",
            "",
            samples.ratio("c", "quick"),
            _pair(samples, "c", "quick"),
            "not the default on a CPU",
        ),
    ]


def step(samples: Samples, settings: Settings) -> list[Row]:
    """Of training steps."""
    note = f"one batch of {settings.batch} in memory; dropout 0.3; float32"
    found = samples.ratio("floor", "ours")
    quick = samples.ratio("floor", "quick")
    times = _pair(samples, "floor", "quick")
    return [
        row("training step, against (b)", "2.3", found, _pair(samples, "floor", "ours"), note),
        row("the same with `--precision bfloat16`", "", quick, times, "not the default on a CPU"),
    ]


def evaluation(samples: Samples, settings: Settings) -> list[Row]:
    """Of evaluation."""
    return [
        row(
            "evaluation, images per second, against eager",
            "2",
            samples.ratio("floor", "ours"),
            per_second(samples, "floor", "ours"),
            f"{settings.evaluated} images, eager in batches of 64",
        )
    ]


def prediction(samples: Samples, settings: Settings) -> list[Row]:
    """Of `hydrakit predict`."""
    return [
        row(
            "`hydrakit predict` from files, images per second, against its network alone",
            "0.5",
            samples.ratio("bare", "ours"),
            per_second(samples, "bare", "ours"),
            f"{settings.evaluated} grey PNG files of 256 pixels, on disk cache; reading, cropping "
            "and writing of the CSV included; below 1 is the cost of these",
        )
    ]


def per_second(samples: Samples, slow: str, fast: str) -> str:
    """Items per second of both."""
    rates = (f"{1 / samples.median(name):,.0f}/s" for name in (slow, fast))
    return "; ".join(rates)


def random_starts(samples: Samples, settings: Settings) -> list[Row]:
    """Of random starts."""
    plain, every, halved = (samples.answers[name] for name in ("floor", "ours", "halving"))
    differences, same = [], 0
    for one, other, third in zip(plain, every, halved, strict=True):
        aucs = one.facts["aucs"]
        differences += [abs(a - b) for a, b in zip(aucs, other.facts["aucs"], strict=False)]
        same += other.facts["chosen"] == third.facts["chosen"]
    what = f"{settings.starts} bootstrap starts"
    return [
        row(
            f"{what}, against one by one",
            "2.9",
            samples.ratio("floor", "ours"),
            _pair(samples, "floor", "ours"),
            f"on {settings.start_cases} cases; the AUCs of both differ by {max(differences):.1g} "
            f"at most; eager looks at 1 of {settings.start_share}, its time is multiplied",
        ),
        row(
            f"{what} where hopeless ones are dropped early (`halving`), against one by one",
            "8",
            samples.ratio("floor", "halving"),
            _pair(samples, "floor", "halving"),
            f"the winner of all in {same} of {len(plain)}; labels are random here, so starts "
            "differ by chance alone",
        ),
    ]


def augmentation(samples: Samples, settings: Settings) -> list[Row]:
    """Of augmented views."""
    difference = samples.warm["ours"].facts["difference"]
    return [
        row(
            "augmentation on the fly, images per second, against Pillow as the authors did it",
            "27",
            samples.ratio("pillow", "ours"),
            per_second(samples, "pillow", "ours"),
            "Pillow turns the whole crop of 200 mm, bicubic, halves by Lanczos; mean difference of "
            f"ours from SciPy's cubic views {difference:.4f} of the image's standard deviation, on "
            "smooth images (target: under 0.01)",
        ),
        row(
            "the same, against the thriftiest Pillow",
            "",
            samples.ratio("thrifty", "ours"),
            per_second(samples, "thrifty", "ours"),
            "170 pixels of the image, bilinear, halved by 2 x 2 means",
        ),
    ]


def heads(samples: Samples, settings: Settings) -> list[Row]:
    """Of heads that are trained together."""
    return [
        row(
            f"{settings.heads} heads trained together on cached features, per head and epoch, "
            "against one by one",
            "4",
            samples.ratio("alone", "together"),
            _pair(samples, "alone", "together"),
            f"{settings.train} patches, {settings.val} to validate on, batches of "
            f"{settings.small_batch}, a learning rate each",
        ),
        row(
            f"the same in batches of {settings.batch}",
            "",
            samples.ratio("large alone", "large together"),
            _pair(samples, "large alone", "large together"),
            "bound by arithmetic, not by calls",
        ),
    ]


def start(samples: Samples, settings: Settings) -> list[Row]:
    """Of what a run does before it trains."""
    return [
        row(
            "start of a run on prepared data, against reading files",
            "70",
            samples.ratio("files", "prepared"),
            _pair(samples, "files", "prepared"),
            f"{settings.files} grey PNG files of 256 pixels, on disk cache; until the splits are "
            "loaded; importing torch is not counted",
        )
    ]


def _lengths(settings: Settings) -> str:
    """Epochs of the rounds of whole plans."""
    epochs = settings.plan_epochs
    return f"{epochs} epochs" if epochs else "the recommended 30 epochs, head rounds 100"


def plans(samples: Samples, settings: Settings) -> list[Row]:
    """Of whole plans."""
    size = f"{settings.plan_cases} cases each, {_lengths(settings)}, no early stop, 8 starts"
    rows = [
        row(
            "whole plan `hydra` on one, two, three, one, against `transfer`, same epochs",
            "1.05",
            samples.ratio("hydra", "transfer"),
            _pair(samples, "transfer", "hydra"),
            f"{size}; on prepared data, report and weight files included",
            most=True,
        ),
        row(
            "whole plan `hydra`, against (a), same epochs and figures",
            "5",
            samples.ratio("a", "hydra"),
            _pair(samples, "a", "hydra"),
            f"(a) does 1 of {settings.plan_share} epochs, its time is multiplied; it sees a patch "
            "once in an epoch, hydrakit's head rounds eight views of it",
        ),
    ]
    if "c" in samples.answers:
        rows.append(
            row(
                "whole plan `hydra`, against (c), same epochs",
                "5",
                samples.ratio("c", "hydra"),
                _pair(samples, "c", "hydra"),
                "as of (a); (c) trains and validates, without the reference; its views are drawn "
                "anew, and it sees a patch once in an epoch",
            )
        )
    return rows


def command_help(samples: Samples, settings: Settings) -> list[Row]:
    """Of the command's help."""
    pairs = zip(samples.seconds("help"), samples.seconds("bare"), strict=True)
    found = Spread.of([one - other for one, other in pairs])
    return [
        Row(
            what="`hydrakit --help`, processor time over bare Python",
            target="under 0.15 s",
            measured=f"{found.median:.3f} s ({found.low:.3f} to {found.high:.3f})",
            met=found.median < 0.15,
            times=_pair(samples, "bare", "help"),
            note=f"user and system time, {settings.calls} calls",
        )
    ]


MEASUREMENTS = (
    Measurement(
        name="head",
        contenders={"a": "authors.HeadEpoch", "ours": "ours.HeadEpoch"},
        rows=head,
    ),
    Measurement(
        name="epoch",
        contenders={
            "a": "authors.AllEpoch",
            "ours": "ours.AllEpoch",
            "four": "ours.AllEpochFour",
            "quick": "ours.AllEpochQuick",
        },
        rows=epoch,
    ),
    Measurement(
        name="lightning",
        contenders={
            "c": "lightning_loop.Epoch",
            "ours": "ours.SmallEpoch",
            "quick": "ours.SmallEpochQuick",
        },
        rows=lightning,
        needs=LIGHTNING,
    ),
    Measurement(
        name="step",
        contenders={"floor": "floor.Step", "ours": "ours.Step", "quick": "ours.StepQuick"},
        rows=step,
    ),
    Measurement(
        name="evaluation",
        contenders={"floor": "floor.Evaluate", "ours": "ours.Evaluate"},
        rows=evaluation,
    ),
    Measurement(
        name="prediction",
        contenders={"bare": "ours.Evaluate", "ours": "ours_parts.Predict"},
        rows=prediction,
    ),
    Measurement(
        name="starts",
        contenders={
            "floor": "floor.Starts",
            "ours": "ours_parts.Starts",
            "halving": "ours_parts.StartsHalving",
        },
        rows=random_starts,
        repeats="start_repeats",
        before=("ours_parts.ExportStarts",),
    ),
    Measurement(
        name="augmentation",
        contenders={
            "pillow": "authors.Augmentation",
            "thrifty": "authors.ThriftyAugmentation",
            "ours": "ours_parts.Augmentation",
        },
        rows=augmentation,
    ),
    Measurement(
        name="heads",
        contenders={
            "alone": "ours_parts.HeadsAlone",
            "together": "ours_parts.HeadsTogether",
            "large alone": "ours_parts.LargeHeadsAlone",
            "large together": "ours_parts.LargeHeadsTogether",
        },
        rows=heads,
    ),
    Measurement(
        name="start",
        contenders={"files": "ours_runs.StartFiles", "prepared": "ours_runs.StartPrepared"},
        rows=start,
    ),
    Measurement(
        name="plans",
        contenders={
            "a": "authors.Hydra",
            "hydra": "ours_runs.Hydra",
            "transfer": "ours_runs.Transfer",
            "c": "lightning_loop.Hydra",
        },
        rows=plans,
        needs=LIGHTNING,
        repeats="plan_repeats",
    ),
    Measurement(
        name="help",
        contenders={"bare": "command.Bare", "help": "command.Help"},
        rows=command_help,
        repeats="calls",
    ),
)
