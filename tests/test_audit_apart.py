"""Attacks of an audit made elsewhere, job by job: the audit is the same, and makes nothing of it again."""

import json
from pathlib import Path
from typing import Any

import audit_models as models
import numpy as np
import pytest
from sklearn.datasets import load_digits
from unsteady import Unsteady

from dpsnn.audit import attacking, plan
from dpsnn.audit.plan import NEAREST, RIDGE, Budget
from dpsnn.audit.run import PARTS
from dpsnn.cli import main
from dpsnn.runner.engines import Where


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, quick: None, place: Path) -> list[str]:
    """An audit of a few digits at two cuts, with two seeds."""
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 1e-3, (RIDGE, NEAREST)))
    found = load_digits()
    images = (found.images[:150] / 16).astype(np.float32)[:, None]
    np.savez("digits.npz", images=images, labels=found.target[:150])
    model = f"{models.__file__}:residual"
    more = "--data digits.npz --seeds 0 1 --noise 0.5 --cuts stem pool+flatten".split()
    return ["audit", "--model", model, *more]


def cuts(folder: str) -> Any:
    """What the result says of them, but for how long it took."""
    text = Path(folder, "audit.json").read_text(encoding="utf-8")
    found = json.loads(text, object_hook=lambda each: each.pop("seconds", None) and None or each)
    return found["cuts"]


def test_attacks_made_elsewhere_are_taken_and_what_was_lost_is_made(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    attacked = attacking._attacked

    def counted(*arguments: Any) -> Any:
        made.append(arguments[1].label)
        return attacked(*arguments)

    monkeypatch.setattr(attacking, "_attacked", counted)
    assert main([*words, "--out", "one"]) == 0
    count = len(made)
    capsys.readouterr()
    # In this process, where the budget is known; half of the jobs are lost, before or after they were done.
    made.clear()
    engine = Unsteady(2, 3, lost=0.5)
    monkeypatch.setattr(Where, "start", lambda self, logs: engine)
    assert main([*words, "--out", "two", "--jobs", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == "two/audit.json\n"
    assert "[audit: 4 of 4 ahead] " in err and "was lost (gone" in err and engine.closed == 1
    assert cuts("two") == cuts("one") and len(cuts("two")) == 2
    kept = [sorted(path.name for path in Path(each, PARTS).iterdir()) for each in ("one", "two")]
    assert kept[0] == kept[1] and len(kept[0]) == count == len(made), "none made twice"
    assert "--jobs" not in json.loads(Path("two/audit.json").read_text())["reproduce"]
    assert any(Path("two/logs/jobs").iterdir())


@pytest.mark.parametrize(
    "more, said",
    [
        (["--jobs", "0"], "jobs is 0; it must be a whole number, 1 or greater"),
        (["--engine", "rays"], "unknown engine 'rays'"),
        (["--gpus_per_job", "0.5"], "gpus_per_job says nothing about the engine local"),
        (["--jobs", "2", "--data", "nowhere"], "there is no data nowhere in "),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(
    more: list[str], said: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", "one", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not Path("one/audit.json").exists()
