"""What is looked at before anything is trained: whether what is asked for can be answered at all."""

from typing import NamedTuple

import torch

from dpsnn.audit.calibrate_curve import Roles, measure_named
from dpsnn.audit.calibrate_noise import Goal
from dpsnn.audit.calibrate_result import Settings
from dpsnn.audit.calibrate_server import trainable, unscored
from dpsnn.batches import to_unit
from dpsnn.errors import UsageError
from dpsnn.evaluation.flags import restless
from dpsnn.target import Target
from dpsnn.tensors import Activation

LOOKED = 100
"""Own pictures at which the client is asked twice."""

ANSWERS = 5
"""Answers to each victim that a promise is looked at with, where they differ: the worst of them says what it takes."""

STANDS = {
    "naming": "the promise is for whatever it answers within the set",
    "mse": f"the promise is for the worst of {ANSWERS} answers",
    "ssim": "the promise is for the first answer alone",
}
"""What becomes of the promise then, by its measure."""


class Looked(NamedTuple):
    """What was seen."""

    judged: bool
    """Whether there is an accuracy to speak of."""
    notes: list[str]
    """What makes the answer uncertain, or leaves part of it out."""
    restless: bool = False
    """Whether the client answers otherwise when it is asked once more."""


def look(
    target: Target,
    codes: Activation,
    pictures: Roles,
    goal: Goal,
    settings: Settings,
    server: object,
) -> Looked:
    """Look at pictures, classes, client and server.

    Args:
        target: With the client as it is, which answers anew whenever it is asked.
        codes: Of the victims.
        pictures: Own ones and victims.
        goal: The promise.
        settings: What is asked for beside.
        server: What would be trained with the noise on.

    Raises:
        UsageError: If the promise means nothing for such pictures, or something that is asked for cannot be had.
    """
    _measurable(pictures, goal)
    if bad := int((~codes.flatten(1).isfinite().all(1)).sum()):
        raise UsageError(
            f"for {bad} of {len(codes)} pictures the client gives values that are no finite numbers; mend it"
        )
    notes = []
    why = unscored(target, codes, pictures.labels, pictures.own_labels)
    if why and target.server is not None:
        notes.append(f"no accuracy is measured: {why}")
    if settings.accuracy is not None and pictures.labels is None:
        raise UsageError("the pictures have no classes; give them, or leave out --accuracy")
    if settings.finetune_epochs:
        if why or pictures.own_labels is None:
            why = why or "the pictures to learn from do not have the classes of the victims"
            raise UsageError(f"{why}; leave out --finetune_epochs")
        trainable(server)
    with torch.no_grad():
        flag = restless(target, to_unit(pictures.own[:LOOKED]))
    if flag:
        if settings.queries > 1 and goal.measure != "naming":
            # Two answers may say of a picture what neither says by itself.
            raise UsageError(
                f"{flag.raised}: who hears {settings.queries} of them hears more than is measured here; {flag.do}"
            )
        notes.append(
            f"{flag.raised}: {flag.why}; here attackers hear its first answer to each picture, and"
            f" {STANDS[goal.measure]}; {flag.do}"
        )
    return Looked(not why, notes, flag is not None)


def _measurable(pictures: Roles, goal: Goal) -> None:
    if goal.measure == "naming":
        return
    sides, least = pictures.victims.shape[2:], measure_named(goal.measure).smallest
    if min(sides, default=least) < least:
        size = "×".join(map(str, sides))
        raise UsageError(
            f"{goal.measure} is not defined for pictures of {size} pixels, only from {least} on a side; promise"
            " mse=LEAST or naming=SHARE@AMONG"
        )
