"""Two training sequences for hook API 1."""

from hydrakit.hooks import SequenceStrategy, hookimpl

HYDRAKIT_API = 1


def plan_together(datasets, settings):
    """All datasets at the same time, then the whole network and the head of the target."""
    from hydrakit.plan import Other, Round

    *supports, target = datasets
    names = [each for each in dict.fromkeys(supports) if each != target]
    rounds = [
        Round(
            dataset=target,
            train="all",
            head=target,
            hyperparameters=settings.hyperparameters("all", "first"),
            others=tuple(Other(dataset=name, head=name) for name in names),
            mix="epoch",
        )
    ]
    for train, position in (("norm", "middle"), ("all", "last"), ("head", "last")):
        rounds.append(
            Round(
                dataset=target,
                train=train,
                head=target,
                hyperparameters=settings.hyperparameters(train, position),
            )
        )
    return rounds


def plan_alone(datasets, settings):
    """The head of the target on a body that nothing trains."""
    from hydrakit.plan import Hyperparameters, Round

    values = settings.hyperparameters("head", "first")
    changed = Hyperparameters(
        learning_rate=values.learning_rate,
        dropout=0.0,
        batch_size=values.batch_size,
        epochs=values.epochs,
        patience=None,
        select="last",
    )
    target = datasets[-1]
    return [Round(dataset=target, train="head", head=target, hyperparameters=changed)]


@hookimpl
def hydrakit_sequence_strategies():
    yield SequenceStrategy(
        name="golden-together",
        summary="All datasets at once, then the target",
        plan=plan_together,
        bootstrap=1,
    )
    yield SequenceStrategy(
        name="golden-alone",
        summary="The head of the target on a random body",
        plan=plan_alone,
        body="golden-pooled",
        head="golden-layers",
        baseline=True,
    )
