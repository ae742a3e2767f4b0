"""Weights & Biases: a mirror of the local logs, never the source. Offline where there is no account."""

import netrc
import os
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger


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
        mode = os.environ.get("WANDB_MODE") or ("online" if has_account() else "offline")
        results_dir.mkdir(parents=True, exist_ok=True)
        loggers.append(
            WandbLogger(
                name=name,
                save_dir=results_dir,
                project=os.environ.get("WANDB_PROJECT", "dpsnn"),
                group=group or None,
                tags=tags,
                config=config,
                settings=_settings(mode),
                reinit="create_new",
            )
        )
    return loggers


def _settings(mode: str) -> Any:
    import wandb

    # Its console capture and banners would mix with what the command prints.
    return wandb.Settings(mode=mode, console="off", silent=True)  # type: ignore[arg-type]


def finish(loggers: list[Logger], summary: dict[str, Any], pictures: dict[str, Figure]) -> None:
    """Hand the outcome and the pictures to W&B, if it is among the loggers, and close its run."""
    import wandb

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            run = logger.experiment
            run.log({key: wandb.Image(figure) for key, figure in pictures.items()})
            run.summary.update(summary)
            run.finish()
    for figure in pictures.values():
        plt.close(figure)
