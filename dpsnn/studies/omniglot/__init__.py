"""The RStudio AI blog of May 2020: DP-SGD on Omniglot's alphabets, and characters rebuilt."""

from functools import partial

from dpsnn.runner.offers import group_options
from dpsnn.runner.study import Command, Study

STUDY = Study(
    order=2,
    commands=(
        Command(
            name="omniglot",
            action="dpsnn.studies.omniglot.study:run_omniglot",
            experiments="dpsnn.studies.omniglot.study:omniglot_experiments",
            options=partial(group_options, jobs=1, dataset="omniglot"),
        ),
    ),
    figures="dpsnn.studies.omniglot.figures:FIGURES",
    title="DP-SGD on Omniglot",
    ledger="dpsnn.studies.omniglot.ledger:section",
)
