"""A small whole audit, as `dpsnn audit` writes it: a cut that leaks, one that does not, and a failed attack."""

from typing import Any

from dpsnn.audit.result import SCHEMA, AuditResult

BLACK = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADElEQVR4nGNgoA4AAABIAAEuuDx+AAAAAElF"
    "TkSuQmCC"
)
WHITE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGP8zwABTAwUMQBJQQEPeWDz+AAA"
    "AABJRU5ErkJggg=="
)


def estimate(value: float, half: float) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "over": "victims"}


def attack(key: str, label: str, mse: float, ssim: float) -> dict[str, Any]:
    return {
        "attack": key,
        "label": label,
        "settings": {"seed": 0},
        "status": "ok",
        "reason": None,
        "cause": None,
        "learns": key == "ridge",
        "victims": 40,
        "measures": {"MSE": estimate(mse, 0.002), "SSIM": estimate(ssim, 0.02)},
        "seconds": 1.5,
        "own_error": mse,
        "own_floor": 0.07,
        "doubling": None,
        "diverged": False,
    }


def _cut(name: str, order: int, mse: float, ssim: float, level: str) -> dict[str, Any]:
    failed = {**attack("inversion", "inversion", 0, 0), "status": "failed", "victims": 0}
    failed |= {"cause": "failed"}
    failed |= {"reason": "the client has no gradient", "measures": {}, "own_error": None}
    chosen = {"by": ["ridge"], "tried": 2, "best_of_each": mse, "victims": 40}
    pictures = {"best": BLACK, "median": BLACK, "worst": WHITE}
    return {
        "name": name,
        "order": order,
        "kind": "Conv2d",
        "shape": [4, 8, 8],
        "values": 256,
        "bytes": 1024,
        "weights_share": 0.1 + 0.4 * order,
        "flops_share": 0.2 + 0.5 * order,
        "notes": [],
        "accuracy": {"value": 92.5, "low": 79.6, "high": 98.4, "floor": 12.5},
        "dcorr": {"value": 0.9 - 0.8 * order, "floor": 0.01},
        "attacks": [
            attack("ridge", "ridge regression", mse, ssim),
            attack("nearest", "nearest own image", mse + 0.01, ssim - 0.1),
            failed,
        ],
        "strongest": {
            "MSE": {**estimate(mse, 0.003), **chosen},
            "SSIM": {**estimate(ssim, 0.03), **chosen, "best_of_each": ssim},
        },
        "gains": {
            "MSE": {
                "value": 1 - mse / 0.07,
                "low": None,
                "high": None,
                "victims": 40,
                "floor": 0.07,
            }
        },
        "reidentified": {"value": 0.9 - 0.8 * order, "low": 0.05, "high": 0.98, "candidates": 40},
        "distribution": {
            "column": "MSE",
            "quantiles": {
                q: mse * (0.5 + float(q))
                for q in ("0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99")
            },
            "worst_one_percent": mse / 2,
            "worst_one_percent_floor": 0.03,
            "one_percent": {"value": mse * 0.51, "low": None, "high": mse * 0.7},
            "fare_worse": 0.07,
            "worst_victim": 7,
        },
        "by_class": [
            {
                "class": "0",
                "victims": 20,
                "MSE": mse,
                "SSIM": ssim,
                "low": {"MSE": 0.8 * mse, "SSIM": 0.8 * ssim},
                "high": {"MSE": 1.2 * mse, "SSIM": min(1.0, 1.2 * ssim)},
                "floor": {"MSE": 0.07, "SSIM": 0.1},
            },
            {"class": "1 <b>", "victims": 20, "MSE": mse, "SSIM": None},
        ],
        "guarantees": {
            "set": "not limited",
            "epsilon": None,
            "delta": None,
            "naming": 1.0,
            "candidates": 40,
            "dfil": None,
            "words": "no guarantee: no noise crosses the wire",
            "with_clip": None,
        },
        "bounds": None,
        "flags": [
            {
                "raised": "it was scored on 40 victims",
                "why": "with fewer than 500 the intervals are wide",
                "do": "give more images",
            }
        ],
        "verdict": {"level": level, "sentence": f"{name}: a sentence that says {level}."},
        "pictures": {
            "truth": pictures,
            "guess": {**pictures, "worst": BLACK},
            "victims": {"best": 3, "median": 5, "worst": 7},
            "scores": {which: {"MSE": mse, "SSIM": ssim} for which in ("best", "median", "worst")},
        },
    }


def content() -> dict[str, Any]:
    """As it stands in the file."""
    return {
        "schema": SCHEMA,
        "made": {
            "date": "2026-01-31T12:00:00+00:00",
            "dpsnn": "0.1.0",
            "torch": "2.11.0",
            "python": "3.11.9",
            "machine": "Linux x86_64, 2 cores",
            "command": "dpsnn audit --model net.py:make --data pictures",
            "seconds": 12.5,
        },
        "model": {
            "name": "net.py:make",
            "source": "net.py:make",
            "parameters": 1234,
            "image_shape": [1, 8, 8],
            "attacked_shape": [1, 8, 8],
            "classes": 2,
            "notes": [],
            "no_cuts": [{"name": "block.0", "reason": "a branch crosses beside it"}],
        },
        "data": {
            "name": "pictures",
            "images": 100,
            "own": 50,
            "own_validation": 10,
            "victims": 40,
            "surrogate": None,
            "groups": None,
            "near_duplicates": 0,
            "overlap_with_training": None,
            "notes": ["left out: broken.png"],
        },
        "settings": {
            "budget": "quick",
            "seeds": [0],
            "queries": 1,
            "defences": [],
            "victims_scored": 40,
        },
        "measures": [
            {
                "column": "MSE",
                "label": "mean squared error (lower: leaks more)",
                "lower_leaks": True,
                "floor": 0.07,
                "class_floor": 0.05,
                "perfect": 0,
            },
            {
                "column": "SSIM",
                "label": "SSIM (higher: leaks more)",
                "lower_leaks": False,
                "floor": 0.1,
                "class_floor": 0.2,
                "perfect": 1,
            },
        ],
        "cuts": [_cut("conv1", 0, 0.005, 0.9, "leaks"), _cut("conv2", 1, 0.069, 0.1, "floor")],
        "curve": None,
        "curve_cut": None,
        "recommended": {"cut": "conv2", "reason": "the first cut at which nothing is seen"},
        "reproduce": "dpsnn audit --model net.py:make --data pictures",
    }


def example() -> AuditResult:
    """The same, checked."""
    return AuditResult.of(content())


def whole() -> dict[str, Any]:
    """The same, less the attack that failed."""
    made = content()
    for cut in made["cuts"]:
        cut["attacks"] = [each for each in cut["attacks"] if each["status"] == "ok"]
    return made


RIDGE, NEAREST = 0, 1
"""Of its attacks the one that learns, and the one that does not."""


def left_out(made: dict[str, Any], at: int, **why: Any) -> dict[str, Any]:
    """With an attack of the second cut that gave nothing."""
    made["cuts"][1]["attacks"][at] |= {"status": "skipped", "measures": {}, **why}
    return made


def changed(column: str, value: float, half: float, cut: int = 1) -> dict[str, Any]:
    """With another value of the strongest attack, half of whose interval is so wide."""
    made = whole()
    here = made["cuts"][cut]
    here["strongest"][column] |= {**estimate(value, half), "best_of_each": value}
    for row, less in zip(here["attacks"], (0.0, {"MSE": 0.01, "SSIM": -0.1}[column])):
        row["measures"][column] = estimate(value + less, half)
    return made
