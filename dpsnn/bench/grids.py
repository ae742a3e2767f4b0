"""How long a grid takes: classifiers trained side by side, from nothing to their checkpoints."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dpsnn.folders import Folders
from dpsnn.runner.ahead import work_off
from dpsnn.runner.engines import Where
from dpsnn.runner.engines.base import Job
from dpsnn.runner.train import train_classifier
from dpsnn.specs import ClassifierSpec


def _trained(spec: ClassifierSpec, folders: Folders) -> str:
    return train_classifier(spec, folders).name


def seconds(specs: Sequence[ClassifierSpec], jobs: int, data_dir: Path = Path("data")) -> float:
    """Seconds until all are trained, by so many processes of one thread each, the start of these included.

    Args:
        specs: Different ones.
        jobs: Processes.
        data_dir: Where the images are.

    Raises:
        RuntimeError: If one was not trained.
    """
    with tempfile.TemporaryDirectory() as place:
        folders = Folders(
            data_dir=str(data_dir), models_dir=f"{place}/models", results_dir=f"{place}/results"
        )
        start = time.perf_counter()
        with Where(jobs=jobs, threads=1).start(place) as engine:
            waiting = [Job(f"{spec.seed}", _trained, (spec, folders)) for spec in specs]
            work_off({job: set() for job in waiting}, engine, "grid")
        took = time.perf_counter() - start
        made = len([*folders.classifiers.glob("*.ckpt")])
        if made < len(specs):
            raise RuntimeError(f"{len(specs) - made} of {len(specs)} classifiers were not trained")
    return took
