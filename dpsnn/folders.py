"""Where a run reads and writes."""

from dataclasses import dataclass
from pathlib import Path

from dpsnn.parts import option


@dataclass(frozen=True, kw_only=True)
class Folders:
    """The folders of a run, as given; none of them need be there yet."""

    data_dir: str = option("data", "where data sets lie or are downloaded to")
    models_dir: str = option("models", "where checkpoints are kept")
    results_dir: str = option("results", "where tables, figures and logs are written")
    wandb: bool = option(False, "log to Weights & Biases as well (offline without an account)")

    @property
    def classifiers(self) -> Path:
        return Path(self.models_dir) / "classifiers"

    @property
    def attackers(self) -> Path:
        return Path(self.models_dir) / "attackers"
