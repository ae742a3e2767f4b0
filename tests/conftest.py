"""Shared by all tests: an environment of their own, checkpoints without training, the real data sets.

What brings torch is imported where it is used: the process that only hands out the tests reads this file too.
"""

import gc
import importlib._bootstrap_external
import importlib.util
import os
import random
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from jaxtyping import _import_hook, install_import_hook

REAL_DATA = os.environ.get("DPSNN_DATA_MIRROR", "")


def shaped() -> list[str]:
    """Modules of dpsnn that speak of tensors' shapes."""
    root = Path(__file__).parent.parent
    found = sorted((root / "dpsnn").rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in found}
    return [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path, text in texts.items()
        if path.name != "__init__.py" and ("jaxtyping" in text or "dpsnn.tensors" in text)
    ]


def own_code_only(loader: type[Any]) -> None:
    """Let jaxtyping look for the code of the modules it checks under a name of its own, and for no others' code.

    It keeps that name as long as such a module runs: whatever this is the first to import, torch and 2,500 modules
    more, is not found and compiled anew, in every process and for 10 seconds.
    """
    found, usual = loader.get_code, importlib.util.cache_from_source

    def get_code(self: Any, fullname: str) -> CodeType | None:
        code: CodeType | None = found(self, fullname)
        setattr(importlib._bootstrap_external, "cache_from_source", usual)
        return code

    loader.get_code = get_code


own_code_only(_import_hook._JaxtypingLoader)
# Types are checked at run time where they say what mypy cannot know; everywhere it would take a third of all time.
install_import_hook(shaped(), "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first: begun last, one process would wait for them while the other has nothing left to do."""
    items.sort(key=lambda item: -minutes(item))


def minutes(item: pytest.Item) -> float:
    """What `@pytest.mark.slow(minutes=…)` says that a test takes, about, on one core; 0 where it says nothing."""
    slow = item.get_closest_marker("slow")
    return slow.kwargs.get("minutes", 0.0) if slow else 0.0


def pytest_collection_finish() -> None:
    """All modules are there to stay: the garbage collector need not look through them again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Some libraries complain of what is left when Python ends."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before the fixtures too: what a test draws depends on the test alone, not on which one its process ran before."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Once more: fixtures of a module are made before one of its tests and not before the others."""
    _seed()


def _seed() -> None:
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    # `torch.manual_seed` also writes down, for a GPU that is not in use yet, from where it was called: a millisecond.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """pytest runs in two processes; more threads than cores would only wait for one another.

    Before every test: libraries that tests import set the number anew, and sums of another number of parts differ in
    the last bit.
    """
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No real data unless the test asks for `mirror`; W&B never online."""
    if "mirror" in request.fixturenames:
        monkeypatch.setenv("DPSNN_DATA_MIRROR", REAL_DATA)
    else:
        monkeypatch.delenv("DPSNN_DATA_MIRROR", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder with the real data sets."""
    if not REAL_DATA:
        pytest.skip("needs the real data sets: set DPSNN_DATA_MIRROR")
    return Path(REAL_DATA)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: data, models and results of the command line end up in it."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attackers take few steps and look for no step size: for what asks whether they are made, not how well."""
    from dpsnn.attacks import decoder

    monkeypatch.setattr(decoder, "LEAST_STEPS", 1)
    monkeypatch.setattr(decoder.DecoderAttack, "_best_rate", lambda *_: 1e-3)


@pytest.fixture
def few(offer: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the digits the first fifth of each role, and a bound at one of them: as `quick`, for whatever is trained."""
    from dpsnn.data import Digits, Pool
    from dpsnn.evaluation import bounds

    class Few(Digits):
        def roles(self, pool: Pool) -> dict[str, range]:
            return {role: rows[: len(rows) // 5] for role, rows in super().roles(pool).items()}

    offer("digits", Few)
    monkeypatch.setattr(bounds, "PICTURES", 1)


@pytest.fixture(scope="session")
def classifier_file() -> Callable[..., Path]:
    """Save an untrained classifier as `train_model` would: `classifier_file(models_dir, epoch=0, **spec)`."""

    from dpsnn import building, checkpoints
    from dpsnn.specs import ClassifierSpec, plain

    def make(models_dir: Path, epoch: int = 0, **arguments: Any) -> Path:
        spec = ClassifierSpec(**arguments)
        name = f"{checkpoints.classifier_name(spec)}_epoch={epoch:02d}.ckpt"
        path = checkpoints.classifiers_dir(models_dir) / name
        weights = building.build_classifier(spec).state_dict()
        record = {"epoch": epoch, "precision": "32-true"}
        checkpoints.save(path, checkpoints.CLASSIFIER, plain(spec), record, weights)
        return path

    return make


@pytest.fixture(scope="session")
def attacker_file() -> Callable[..., Path]:
    """Save an untrained attacker of a classifier's file: `attacker_file(models_dir, target, **spec)`."""

    import torch

    from dpsnn import building, checkpoints
    from dpsnn.specs import AttackerSpec
    from dpsnn.target import Target

    def make(models_dir: Path, target: Path, **arguments: Any) -> Path:
        classifier, target_spec, stored = checkpoints.load_classifier(target)
        spec = AttackerSpec(**{"surrogate": target_spec.dataset, **arguments, "model": stored.stem})
        path = checkpoints.attackers_dir(models_dir) / f"{checkpoints.attacker_name(spec)}.ckpt"
        record = {
            "epoch": 0,
            "precision": "32-true",
            "mean_image": torch.full(classifier.network.image_shape, 0.5),
            "surrogate_source": "none: untrained",
            "surrogate_images": 0,
        }
        checkpoints.save(
            path,
            checkpoints.ATTACKER,
            checkpoints.attacker_arguments(spec, stored),
            record,
            building.build_attack(spec, Target.of(classifier)).state_dict(),
        )
        return path

    return make


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a data set be known by a name, in the place of another or beside all: `offer(name, dataset)`."""
    from dpsnn import registry

    find, declared = registry.find, registry.declared
    own: dict[str, Any] = {}

    def offered(kind: str) -> list[registry.Declared]:
        there = declared(kind)
        names = own if kind == "dataset" else {}
        new = names.keys() - {each.key for each in there}
        return [*there, *(there[0]._replace(key=name) for name in sorted(new))]

    def found(kind: str, key: str) -> Any:
        return own[key] if kind == "dataset" and key in own else find(kind, key)

    monkeypatch.setattr(registry, "declared", offered)
    monkeypatch.setattr(registry, "find", found)
    return own.__setitem__
