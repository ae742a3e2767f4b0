"""Weights & Biases: a mirror of the local logs, never the source. Offline where there is no account."""

import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from dpsnn.evaluation import tables


def has_account() -> bool:
    """Whether W&B would find credentials on this machine."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def make_loggers(
    results_dir: Path,
    name: str,
    *,
    wandb: bool,
    group: str,
    tags: list[str],
    config: dict[str, Any],
) -> list[Logger]:
    """CSV always, under `results_dir/logs/NAME/version_N`; W&B where asked for, under `results_dir/wandb`.

    `WANDB_MODE` is respected; without it a run is offline unless there is an account.
    """
    loggers: list[Logger] = [CSVLogger(results_dir / "logs", name=name)]
    if wandb:
        results_dir.mkdir(parents=True, exist_ok=True)
        loggers.append(
            WandbLogger(
                name=name,
                save_dir=results_dir,
                project=_project(),
                group=group or None,
                tags=tags,
                config=config,
                settings=_settings(),
                reinit="create_new",
            )
        )
    return loggers


def _project() -> str:
    return os.environ.get("WANDB_PROJECT", "dpsnn")


def _settings() -> Any:
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if has_account() else "offline")
    # Its console capture and banners would mix with what the command prints.
    return wandb.Settings(mode=mode, console="off", silent=True)  # type: ignore[arg-type]


def finish(loggers: list[Logger], summary: dict[str, Any], pictures: dict[str, Figure]) -> None:
    """Hand the outcome and the pictures to W&B, if it is among the loggers, and close its run."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb  # takes a second, and is for those who asked for it

            run = logger.experiment
            run.log({key: wandb.Image(figure) for key, figure in pictures.items()})
            run.summary.update(summary)
            run.finish()
    for figure in pictures.values():
        plt.close(figure)


def summarise(group: str, dataset: str, results_dir: Path, figures: Sequence[Path]) -> None:
    """One W&B run for a whole group: its tables with the rows of the data set, and its figures.

    Args:
        group: Name of the group; trainings are grouped under it too.
        dataset: Rows of other data sets are left out.
        results_dir: Where the tables lie and the run is kept.
        figures: Pictures to log, by their file names.
    """
    import wandb

    results_dir.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=_project(),
        dir=results_dir,
        name=f"{group}_{dataset}_summary",
        group=group,
        job_type="summary",
        tags=["summary", dataset],
        settings=_settings(),
        reinit="create_new",
    )
    for table in (tables.models_table(results_dir), tables.attackers_table(results_dir)):
        if rows := [row for row in tables.read(table) if row["Dataset"] == dataset]:
            content = wandb.Table(columns=[*rows[0]], data=[[*row.values()] for row in rows])
            run.log({table.stem: content})
    run.log({path.stem: wandb.Image(str(path)) for path in figures})
    run.finish()
