"""MI-FACE against classifiers of people with and without DP-SGD, on the AT&T faces: as AIJack's tutorial, and fairly.

As published, all images are trained on and none is held out, the step size is ten times as large with privacy as
without, and one person's face is shown. Fairly, step sizes are tuned alike for all and all people are scored.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpsnn import checkpoints
from dpsnn.attacks import MIFace
from dpsnn.checkpoints import CLASSIFIER
from dpsnn.data import DATASETS, Faces
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.evaluation.report import save_figure
from dpsnn.runner import beforehand, run
from dpsnn.runner.beforehand import check_file
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.progress import GroupFailed, note
from dpsnn.runner.train import Folders, train_classifier
from dpsnn.runner.tuning import tuned
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain, replace
from dpsnn.studies.faces.figures import people
from dpsnn.studies.faces.measures import (
    Judged,
    Target,
    inversion_row,
    invert,
    load_judged,
    load_target,
)
from dpsnn.tensors import Number


class Published(NamedTuple):
    """A target of the tutorial."""

    noise_multiplier: Number
    epsilon: Number | None
    accuracy: Number
    """On training images, in percent."""
    learning_rate: Number
    batch_size: int


PUBLISHED = (Published(0.0, None, 87.25, 0.005, 4), Published(0.5, 35.15, 91.75, 0.05, 40))
"""Both by SGD with momentum 0.9 for ten epochs."""

MOMENTUM = 0.9
EPOCHS = 20
"""Of all targets in the fair protocol."""

LOT = 40
NOISES = (0.5, 1.0, 2.0)
EPSILONS = (8.0, 1.0)
RATES = (0.002, 0.01, 0.05, 0.25)
"""Step sizes that every target of the fair protocol tries."""

TARGETS = ("softmax_regression", "perceptron", "faces_cnn")
"""Networks under attack; the first, the published one, with every seed, the others with the first seed only."""

SEEDS = 5

ATTACKS = {
    "paper": MIFace(),
    "documented": MIFace(step_size=0.03, iterations=100),
    "smoothed": MIFace(smoothing=2.0),
}
"""Fredrikson, Jha & Ristenpart's settings, those of AIJack's documentation, and the first with blurred steps, which
noise in the weights hardly survives while faces do."""

STEPS = {"perceptron": 1000, "faces_cnn": 1000}
"""Steps at most against larger networks, three and ten times as slow."""

KEY = ("Model", "Attack", "Judge")
PERSON_KEY = (*KEY, "Person")


def faces_experiments(
    base: ClassifierSpec,
    attacker: AttackerSpec,
    epochs: int | None = None,
    first_seed: int | None = None,
) -> list[Experiment]:
    """Classifiers of people with and without DP-SGD, as published and fairly, whose training faces MI-FACE rebuilds.

    Args:
        base: Its data set and seed count.
        attacker: Of no effect: MI-FACE is not trained.
        epochs: Limit of all trainings; None leaves the protocols theirs.
        first_seed: The seed with which all networks are trained, not only the first; None: this one.

    Raises:
        UsageError: If the data set is none of faces.
    """
    if not issubclass(DATASETS[base.dataset], Faces):
        raise UsageError(
            f"the group needs images of people, not {base.dataset}; use --dataset faces, with your own folder if"
            " you like: --data_dir FOLDER"
        )
    limit = epochs or 10**6
    # In full precision, as DP-SGD needs it: for all alike.
    base = replace(base, precision="32", sgd_momentum=MOMENTUM, constant_rate=True)
    specs = [*as_published(base, limit)]
    networks = TARGETS if first_seed in (None, base.seed) else TARGETS[:1]
    for network in networks:
        specs += fair(replace(base, network=network), limit)
    return [Experiment(spec, ()) for spec in specs]


def as_published(base: ClassifierSpec, limit: int) -> list[ClassifierSpec]:
    """The tutorial's two targets, without its second softmax."""
    return [
        replace(
            base,
            dataset=f"{base.dataset}_all",
            network=TARGETS[0],
            dp_noise_multiplier=row.noise_multiplier,
            repeatable_noise=bool(row.noise_multiplier),
            learning_rate=row.learning_rate,
            batch_size=row.batch_size,
            max_epochs=min(10, limit),
        )
        for row in PUBLISHED
    ]


def fair(base: ClassifierSpec, limit: int) -> list[ClassifierSpec]:
    """A network without DP-SGD, with three noises, and for two budgets; step sizes are tuned before training."""
    alike = replace(base, batch_size=LOT, max_epochs=min(EPOCHS, limit))
    # Public pictures: the study can be repeated.
    private: list[dict[str, Any]] = [
        *({"dp_noise_multiplier": noise} for noise in NOISES),
        *({"dp_target_epsilon": epsilon} for epsilon in EPSILONS),
    ]
    return [alike, *(replace(alike, **chosen, repeatable_noise=True) for chosen in private)]


def judges(judge: ClassifierSpec, dataset: str, epochs: int | None = None) -> list[ClassifierSpec]:
    """A validator trained on pictures that the fair targets never saw, and one trained on all there are.

    The published targets train on every picture, so that each of their judges shares some with them.
    """
    alike = replace(
        judge,
        validator=True,
        batch_size=10,
        precision="32",
        seed=0,
        max_epochs=min(60, epochs or 60),
    )
    return [replace(alike, dataset=f"{dataset}_{kind}") for kind in ("others", "all")]


# ---------------------------------------------------------------- tables


def by_person_table(results_dir: str | Path) -> Path:
    return tables.inversions_table(results_dir).with_name("mi_face_by_person.csv")


def faces(
    experiments: Sequence[Experiment],
    judge: ClassifierSpec,
    folders: Folders,
    iterations: int | None = None,
) -> Path:
    """Tune, train and attack what is missing, then bring tables and figure up to date.

    Args:
        experiments: Of `faces_experiments`, also for several seeds.
        judge: The first of `judges`.
        folders: Where to read and write.
        iterations: Limit of the attacks; None leaves them theirs.

    Returns:
        The table of attacks.

    Raises:
        UsageError: If data cannot be reached, or a name is taken by other arguments.
        GroupFailed: If a member failed; all others are attacked.
    """
    dataset = dataset_of(judge)
    check(experiments, judge, folders)
    ready = settled(experiments, judge, folders)
    failed = None
    try:
        run.run(ready, judge, folders, "faces")
    except GroupFailed as error:
        failed = error
    specs = finished(ready, folders)
    judged = [
        load_judged(train_classifier(spec, folders, "faces"))
        for spec in judges(judge, dataset, judge.max_epochs)
    ]
    attacks = limited(iterations)
    table = attack(specs, judged, attacks, folders)
    if shown := [spec for spec in specs if spec.dataset == dataset and spec.network == TARGETS[0]]:
        judge_name = judged[0].stored.stem
        by_judge = [row for row in tables.read(table, KEY) if row["Judge"] == judge_name]
        figure = people(_seeds(shown, folders), attacks, by_judge)
        save_figure(figure, figure_path(folders, dataset))
    if failed:
        raise failed
    return table


def dataset_of(judge: ClassifierSpec) -> str:
    """Of the fair targets, that the first of `judges` is not trained on."""
    return judge.dataset.removesuffix("_others")


def check(experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders) -> None:
    """What would fail late, before anything is trained.

    Raises:
        UsageError: For the first thing that could not work.
    """
    dataset = dataset_of(judge)
    own = [
        (tables.inversions_table(folders.results_dir), KEY),
        (by_person_table(folders.results_dir), PERSON_KEY),
    ]
    beforehand.check(experiments, judge, folders, own)
    check_file(figure_path(folders, dataset))
    rows = len(DATASETS[f"{dataset}_tuning"](folders.data_dir).rows("train"))
    if rows < LOT:
        raise UsageError(
            f"step sizes are tuned on {rows} of the pictures, too few for lots of {LOT}; add pictures or people"
        )


def settled(
    experiments: Sequence[Experiment], judge: ClassifierSpec, folders: Folders
) -> list[Experiment]:
    """Each classifier once, the fair ones with their step size, which is tried out where it was not yet."""
    dataset = dataset_of(judge)
    return [
        (
            replace(e, classifier=tuned(e.classifier, f"{dataset}_tuning", RATES, folders))
            if e.classifier.dataset == dataset
            else e
        )
        for e in run.merge(experiments)
    ]


def limited(
    iterations: int | None, attacks: Mapping[str, MIFace] = ATTACKS
) -> Mapping[str, MIFace]:
    """The attacks, with at most so many steps each."""
    if iterations is None:
        return attacks
    return {
        name: replace(a, iterations=min(a.iterations, iterations)) for name, a in attacks.items()
    }


def finished(ready: Sequence[Experiment], folders: Folders) -> list[ClassifierSpec]:
    """Those that are there."""
    return [e.classifier for e in ready if _finished(e.classifier, folders)]


def _finished(spec: ClassifierSpec, folders: Folders) -> Path | None:
    name = checkpoints.classifier_name(spec)
    return checkpoints.already(folders.classifiers, name, CLASSIFIER, plain(spec))


def _targets(specs: Sequence[ClassifierSpec], folders: Folders) -> Iterator[Target]:
    for spec in specs:
        path = _finished(spec, folders)
        assert path is not None
        yield load_target(path, folders.data_dir)


def attack(
    specs: Sequence[ClassifierSpec],
    judged: Sequence[Judged],
    attacks: Mapping[str, MIFace],
    folders: Folders,
    lowest: int | None = None,
) -> Path:
    """Bring both tables up to date with these classifiers; people one by one for the lowest seed only.

    Args:
        specs: Of classifiers that are there.
        judged: Who judges.
        attacks: Name → attack.
        folders: Where to read and write.
        lowest: That seed, where these are not all classifiers.
    """
    table = tables.inversions_table(folders.results_dir)
    lowest = min((spec.seed for spec in specs), default=0) if lowest is None else lowest
    for target, name, chosen, due in unattacked(specs, judged, attacks, folders):
        note(f"inverting {target.stored.stem}: {name}")
        found = invert(target, chosen)
        for each in due:
            row, people = inversion_row(target, found, name, chosen, each)
            if target.spec.seed == lowest:
                tables.upsert(by_person_table(folders.results_dir), people, PERSON_KEY)
            tables.upsert(table, [row], KEY)
    return table


def unattacked(
    specs: Sequence[ClassifierSpec],
    judged: Sequence[Judged],
    attacks: Mapping[str, MIFace],
    folders: Folders,
) -> Iterator[tuple[Target, str, MIFace, list[Judged]]]:
    """Target, name of the attack, the attack as it is made on that target, and the judges whose row is missing."""
    table = tables.inversions_table(folders.results_dir)
    columns = (*KEY, "Digest", "JudgeDigest", "MaxIterations")
    known = {tuple(row.get(name) for name in columns) for row in tables.read(table, KEY)}
    for target in _targets(specs, folders):
        for name, chosen in limited(STEPS.get(target.spec.network), attacks).items():
            due = [
                each
                for each in judged
                if (
                    target.stored.stem, name, each.stored.stem, target.stored.digest,
                    each.stored.digest, str(chosen.iterations),
                ) not in known
            ]  # fmt: skip
            if due:
                yield target, name, chosen, due


# ---------------------------------------------------------------- the figure


def figure_path(folders: Folders, dataset: str) -> Path:
    return Path(folders.results_dir) / "figures" / f"people_by_epsilon_{dataset}.png"


def _seeds(
    specs: Sequence[ClassifierSpec], folders: Folders
) -> Iterator[tuple[Target, Collection[str]]]:
    """Each classifier of the lowest seed, with the names of all that are protected alike, whatever their seed."""
    lowest = min(spec.seed for spec in specs)
    first = [spec for spec in specs if spec.seed == lowest]
    names: dict[tuple[float, float], set[str]] = {}
    for spec in specs:
        if path := _finished(spec, folders):
            names.setdefault((spec.dp_noise_multiplier, spec.dp_target_epsilon), set()).add(
                path.stem
            )
    for spec, target in zip(first, _targets(first, folders)):
        yield target, names[spec.dp_noise_multiplier, spec.dp_target_epsilon]
