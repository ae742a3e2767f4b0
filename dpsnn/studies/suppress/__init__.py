"""MindSpore Armour's tutorial: LeNet-5 with silent weights, attacked at every cut."""

from functools import partial

from dpsnn.runner.offers import group_options
from dpsnn.runner.study import Command, Study

STUDY = Study(
    order=3,
    commands=(
        Command(
            name="suppress",
            action="dpsnn.studies.suppress.study:run_suppress",
            experiments="dpsnn.studies.suppress.study:suppress_experiments",
            # Batches of 32 for so small a network keep no second core busy, hence two jobs.
            options=partial(group_options, attacker=["steps", "restarts"], jobs=2, dataset="mnist"),
        ),
    ),
    figures="dpsnn.studies.suppress.figures:FIGURES",
    title="Suppress-privacy on {dataset}",
    ledger="dpsnn.studies.suppress.ledger:section",
)
