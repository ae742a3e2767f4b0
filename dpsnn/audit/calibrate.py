"""Find the noise that keeps a promise to who sends images, and what it costs the server.

First of all stands what no server can get round: the accuracy that the promise itself leaves. Then the noise, found
from the bound or from attacks; the curve of noises around it; the accuracy; and whether the promise is kept on victims
that had no part in finding it.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dpsnn.attacks.base import Learn
from dpsnn.audit.calibrate_curve import (
    Attackers,
    Curve,
    Failed,
    Heard,
    Roles,
    estimated,
    falling,
    grid,
    measure_named,
    remembering,
    rising,
    shown,
)
from dpsnn.audit.calibrate_first import ANSWERS, look
from dpsnn.audit.calibrate_kept import FEW, checked
from dpsnn.audit.calibrate_noise import (
    BEST,
    KINDS,
    Goal,
    NoisyWire,
    at_most,
    noise_for_error,
    noise_for_naming,
)
from dpsnn.audit.calibrate_result import Calibration, Settings
from dpsnn.audit.calibrate_server import accuracy, finetuned
from dpsnn.audit.cuts import within
from dpsnn.batches import derived_seed, to_unit
from dpsnn.errors import UsageError
from dpsnn.metrics.base import mean
from dpsnn.metrics.ceiling import FURTHEST, candidates_for, largest_share
from dpsnn.metrics.floors import mean_image
from dpsnn.metrics.structural import ssim
from dpsnn.target import Target
from dpsnn.training import Fitted, fit, seeded

SHOWN = ("mse", "ssim")
"""Measures of the curve."""

STEPS, FACTOR = 3, 2.0
"""Noises to either side of the one that was found, and by which factor they differ."""

FAR_STEPS = 5
"""The same around the spread of what is sent, where the noise is found from attacks."""

ROOT = math.sqrt(2)

ALIKE = 1.0
"""Per cent: ceilings that differ by less do not decide between kinds of noise."""


def training(seed: int) -> Learn:
    """Train in the precision that is best here, and keep no progress."""

    def learn(module: Any, *, monitor: str, mode: str, max_epochs: int, trial: str = "") -> Fitted:
        return fit(
            module, monitor=monitor, mode=mode, max_epochs=max_epochs, seed=seed, title=trial
        )

    return learn


def calibrate(
    target: Target,
    pictures: Roles,
    goal: Goal,
    settings: Settings = Settings(),
    server: nn.Module | None = None,
    learn: Learn | None = None,
    attackers: Attackers | None = None,
) -> Calibration:
    """Find the noise for a promise.

    Args:
        target: Without noise.
        pictures: What attackers own, and victims, of whom one half finds the noise and the other checks it.
        goal: The promise.
        settings: How.
        server: What is trained with the noise on; by default the target's.
        learn: Trains; by default a training that keeps no progress.
        attackers: Make the attacks of an audit, under the noise that is named; by default nobody does.

    Raises:
        UsageError: If no noise does, or no server can then be as accurate as is asked for.
    """
    trained = learn or training(settings.seed)
    return _Search(target, pictures, goal, settings, server, trained, attackers).run()


class _Search:
    def __init__(
        self,
        target: Target,
        pictures: Roles,
        goal: Goal,
        settings: Settings,
        server: nn.Module | None,
        learn: Learn,
        attackers: Attackers | None = None,
    ) -> None:
        if len(pictures.victims) < 4:
            raise UsageError(
                f"{len(pictures.victims)} images of users cannot be halved and judged; give 4 or more"
            )
        self.start, self.failed = time.monotonic(), list[dict[str, Any]]()
        self.goal, self.settings, self.learn = goal, settings, learn
        self.attackers = attackers
        self.target = replace(target, client=remembering(target.client))
        self.server = server or target.server
        self.pictures = pictures
        codes = pictures.codes
        self.codes = self.target.encode(pictures.victims) if codes is None else codes
        self.notes = list[str]()
        self.judged, first, restless = look(
            target, self.codes, pictures, goal, settings, self.server
        )
        self._note(*first)
        # What a client answers next time may be nearer to the picture, or outside the set.
        with seeded(settings.seed, 47):
            again = pictures.again or (lambda: target.encode(pictures.victims))
            more = [again() for _ in range((ANSWERS - 1) * restless)]
        self.answers = [self.codes, *more]
        every = torch.cat(self.answers) if len(self.answers) > 1 else self.codes
        self.given = within(target, every)
        self.target = replace(self.target, values=self.given.values)
        order = torch.randperm(
            len(self.codes),
            generator=torch.Generator().manual_seed(derived_seed(settings.seed, 45)),
        )
        self.finding, self.fresh = order[: len(order) // 2], order[len(order) // 2 :]
        # Of what users send: a surrogate may have its classes in other shares.
        labels = pictures.own_labels if pictures.labels is None else pictures.labels
        self.largest = None if labels is None else largest_share(labels)
        if self.given is not target:
            self._note(
                "what the client sends lies outside the set in which its last layer should put it: nothing rests on it"
            )
        if len(self.fresh) < FEW:
            self._note(
                f"{len(self.fresh)} victims check the promise; fewer than {FEW} say too little to judge it"
            )

    def _note(self, *said: str) -> None:
        """Keep what is to be said of the result, and say it at once: it may be a reason to stop."""
        for each in said:
            self.notes.append(each)
            print(each, file=sys.stderr, flush=True)

    def run(self) -> Calibration:
        considered = self._considered()
        wire, noise = self._chosen(considered)
        curve = self._curve(wire, noise)
        if self.goal.measure == "ssim":
            noise = self._noise_for_ssim(curve)
        noise = self._audited(curve, noise)
        self._refuse(wire, noise)
        place = curve.noises.index(noise)
        self._note(*self._needless(wire, place, noise))
        seen, said = checked(
            curve, place, self.goal, self.fresh, self.given.client, SHOWN, self.answers
        )
        self._note(*said)
        return Calibration(
            goal={**self.goal._asdict(), "words": self.goal.words},
            kind=wire.kind,
            noise=noise,
            clip=wire.clip,
            queries=wire.queries,
            mechanism=", ".join(map(str, wire.at(noise).mechanism.mechanism())),
            ceiling=self._ceiling(wire, noise),
            largest_share=None if self.largest is None else 100 * self.largest,
            asked=self.settings.accuracy,
            accuracy=self._accuracy(wire, noise),
            considered=[each for _, each in considered],
            checked=seen,
            decoder=[
                {"noise": curve.noises[c.place], **c._asdict(), "passed": c.passed}
                for c in curve.checks
            ],
            curve=self._rows(curve),
            shown=shown(curve, place, [measure_named(key) for key in SHOWN]),
            failed=self.failed,
            notes=self.notes,
            seconds=time.monotonic() - self.start,
        )

    # ------------------------------------------------------------ the kind, and how much of it

    def _considered(self) -> list[tuple[NoisyWire, dict[str, Any]]]:
        """Every kind with the noise that it needs, or the reason why there is none."""
        kinds = [*KINDS] if self.settings.kind == BEST else [self.settings.kind]
        found = []
        for kind in kinds:
            wire = NoisyWire(self.target, kind, self.settings.clip, self.settings.queries)
            entry: dict[str, Any] = {"kind": kind, "noise": None, "ceiling": None, "reason": None}
            try:
                noise = self._noise(wire)
                entry |= {"noise": noise, "ceiling": self._ceiling(wire, noise)}
            except UsageError as error:
                if len(kinds) == 1:
                    raise
                entry["reason"] = str(error)
            found.append((wire, entry))
        return found

    def _noise(self, wire: NoisyWire) -> float:
        """Where it is found from attacks, what those find who train nothing: it can only become more."""
        images, codes = self.pictures.victims[self.finding], self.codes[self.finding]
        if self.goal.measure == "naming":
            return noise_for_naming(wire, self.goal, codes)
        if self.goal.measure == "mse":
            return max(
                noise_for_error(wire, self.goal, each[self.finding], images, self.settings.seed)
                for each in self.answers
            )
        guess = mean_image(self.pictures.own, len(images))
        least = mean(ssim(guess, images))
        if not least < self.goal.value:
            raise UsageError(
                f"no noise brings the SSIM down to {self.goal.value:g}: the mean of the attacker's own images, which"
                f" listens to nothing, has {least:.3g}; ask for more than that"
            )
        curve = self._between(wire, grid(wire.start(codes), FAR_STEPS, FACTOR))
        curve.untrained()
        self._say(curve, curve.failed)
        curve.ensured()
        return self._noise_for_ssim(curve)

    def _between(self, wire: NoisyWire, noises: list[float]) -> Curve:
        made = self.settings.decoder, self.settings.seed
        return Curve(wire, noises, self.pictures, self.learn, *made)

    def _audited(self, curve: Curve, noise: float) -> float:
        """Make every attack of an audit under a noise; and under more where these say that it takes more."""
        looked = set[int]()
        while self.attackers and (place := curve.noises.index(noise)) not in looked:
            looked.add(place)
            made = self.attackers(curve.targets[place])
            curve.audited[place] = {n: each for n, each in made.items() if isinstance(each, Heard)}
            lost = [Failed(place, n, each) for n, each in made.items() if isinstance(each, str)]
            curve.failed += lost
            self._say(curve, lost)
            if self.goal.measure == "ssim" and (more := self._noise_for_ssim(curve)) > noise:
                self._note(
                    f"attacks of an audit find more at noise {noise:g} than those that the curve is made of: it takes"
                    f" {more:g}"
                )
                noise = more
        return noise

    def _noise_for_ssim(self, curve: Curve) -> float:
        """The least noise of the curve from which on nobody surely has more: of two between which it lies the larger.

        Raises:
            UsageError: If there is none.
        """
        metric, found = measure_named("ssim"), None
        for place in reversed(range(len(curve.noises))):
            best = curve.strongest(place, metric, self.finding)
            # Of as many other victims both means scatter, as in `SURE`.
            if best is None or best.value + ROOT * (best.high - best.value) > self.goal.value:
                break
            if max(curve.sure(place, metric, self.finding).values(), default=0) > self.goal.value:
                break
            found = curve.noises[place]
        if found is None:
            raise UsageError(
                f"even {curve.wire.kind} noise of {curve.noises[-1]:g} leaves an attacker with an SSIM above"
                f" {self.goal.value:g}, as far as {len(self.finding)} victims tell; ask for more, or give more images"
            )
        return found

    def _needless(self, wire: NoisyWire, place: int, noise: float) -> list[str]:
        """What is to be said where the promise may be kept without noise as well."""
        if self.goal.measure == "mse" and noise * FURTHEST <= 4 * wire.start(self.codes):
            return [
                "the promise is kept without any noise: what is sent tells too little of a picture to break it"
            ]
        if self.goal.measure == "ssim" and place == 0:
            return [
                "the least noise that was tried keeps the promise: less may do, or none; an audit without noise tells"
            ]
        return []

    def _ceiling(self, wire: NoisyWire, noise: float) -> float | None:
        return None if self.largest is None else 100 * wire.ceiling(noise, self.largest)

    def _refuse(self, wire: NoisyWire, noise: float) -> None:
        """Where no server can be as accurate as is asked for."""
        asked, ceiling = self.settings.accuracy, self._ceiling(wire, noise)
        if asked is None or ceiling is None or ceiling >= asked:
            return
        assert self.largest is not None
        advice = [f"ask for at most {math.floor(10 * ceiling) / 10:.1f} %"]
        if self.goal.measure == "naming" and 100 * self.largest < asked < 100:
            among = candidates_for(asked / 100, self.goal.value, self.largest)
            if math.isfinite(among):
                # To two digits, upwards: the noise that is found is a little more than the least.
                step = 10 ** max(0, math.floor(math.log10(among)) - 1)
                among = step * math.ceil(1.01 * among / step)
                advice.append(f"promise naming={self.goal.value:g}@{among}")
        if self.goal.measure != "naming":
            advice.append("promise less, or try another --clip")
        raise UsageError(
            f"{self.goal.words} by {wire.kind} noise of {noise:g} leaves any server at most {ceiling:.1f} % of right"
            f" answers, and {asked:g} % are asked for; {' or '.join(advice)}"
        )

    def _chosen(
        self, considered: list[tuple[NoisyWire, dict[str, Any]]]
    ) -> tuple[NoisyWire, float]:
        """The kind that leaves most; of those that leave as much that under which the server at hand is best, as far as
        the victims tell whose accuracy is not reported.

        Raises:
            UsageError: If no kind does, or none leaves what is asked for.
        """
        able = [(wire, entry) for wire, entry in considered if entry["noise"] is not None]
        if not able:
            raise UsageError("; ".join(f"{e['kind']}: {e['reason']}" for _, e in considered))
        most = max(entry["ceiling"] or 0.0 for _, entry in able)
        alike = [pair for pair in able if (pair[1]["ceiling"] or 0.0) >= most - ALIKE]
        for wire, entry in alike:
            entry["accuracy"] = self._measured(wire.at(entry["noise"]), wire.queries, self.finding)
        wire, entry = max(alike, key=lambda pair: (pair[1]["accuracy"] or {}).get("value") or 0.0)
        if entry["ceiling"] is not None:
            print(
                f"{self.goal.words}: {wire.kind} noise of {entry['noise']:g}, which leaves any server at most"
                f" {at_most(entry['ceiling'])} % of right answers",
                file=sys.stderr,
            )
        self._refuse(wire, entry["noise"])
        return wire, entry["noise"]

    # ------------------------------------------------------------ the curve

    def _curve(self, wire: NoisyWire, noise: float) -> Curve:
        curve = self._between(wire, grid(noise, STEPS, FACTOR))
        self._note(*curve.limits())
        curve.untrained()
        curve.learned()
        curve.ensured()
        self._say(curve, curve.failed)
        if failed := [check for check in curve.checks if not check.passed]:
            at = ", ".join(f"{curve.noises[check.place]:g}" for check in failed)
            self._note(
                f"at noise {at} one decoder for all noises was more than 3 % worse than a dedicated one; around it"
                " each noise has a decoder of its own"
            )
        return curve

    def _say(self, curve: Curve, failed: Sequence[Failed]) -> None:
        """Which attackers failed, each with its reason once."""
        found: dict[str, list[str]] = {}
        for each in failed:
            noise = None if each.place is None else curve.noises[each.place]
            row = {"attack": each.name, "noise": noise, "reason": each.reason}
            self.failed.append({"kind": curve.wire.kind, **row})
            found.setdefault(str(each), []).append("all" if noise is None else f"{noise:g}")
        self._note(
            *(
                f"{said} at noise {', '.join(at)}: what it would have found is not known"
                for said, at in found.items()
            )
        )

    def _rows(self, curve: Curve) -> list[dict[str, Any]]:
        """What is reached at each noise, under it or under more."""
        everybody = torch.arange(len(self.codes))
        candidates = self.goal.candidates or len(self.codes)
        places = range(len(curve.noises))
        metrics = [measure_named(key) for key in SHOWN]
        # What was tried at every noise says whether too little was; attacks of an audit are made at one.
        alike, measured = (
            {
                metric.column: [
                    estimated(curve.strongest(at, metric, everybody, audited)) for at in places
                ]
                for metric in metrics
            }
            for audited in (False, True)
        )
        measured["accuracy"] = [self._as_it_is(curve.wire, noise) for noise in curve.noises]
        leaks = {metric.column: metric.leaks for metric in metrics}
        for name, values in {**measured, **alike}.items():
            if odd := rising(values, leaks.get(name, "higher")):
                at = ", ".join(f"{curve.noises[place]:g}" for place in odd)
                self._note(
                    f"{name}: surely more was reached at noise {at} than under less of it, where as much can be had;"
                    " take a larger --budget"
                )
        columns = {
            name: falling(each, leaks.get(name, "higher")) for name, each in measured.items()
        }
        rows = []
        for place, noise in enumerate(curve.noises):
            here = {name: values[place] for name, values in columns.items()}
            naming = curve.targets[place].naming(candidates, curve.wire.queries)
            rows.append(
                {
                    "noise": noise,
                    "kind": curve.wire.kind,
                    **{name: each and each["value"] for name, each in here.items()},
                    "naming": naming,
                    "candidates": candidates,
                    "ceiling": self._ceiling(curve.wire, noise),
                    "intervals": here,
                    "measured": {name: values[place] for name, values in measured.items()},
                    "pictures": None,
                }
            )
        return rows

    # ------------------------------------------------------------ what it costs, and whether it is kept

    def _as_it_is(self, wire: NoisyWire, noise: float) -> dict[str, Any] | None:
        return self._measured(wire.at(noise), wire.queries, self.fresh)

    def _measured(self, target: Target, queries: int, rows: Tensor) -> dict[str, Any] | None:
        labels = self.pictures.labels
        if not self.judged or labels is None:
            return None
        return accuracy(target, self.codes[rows], labels[rows], queries, self.settings.seed)

    def _accuracy(self, wire: NoisyWire, noise: float) -> dict[str, Any] | None:
        as_it_is = self._as_it_is(wire, noise)
        if as_it_is is None:
            return None
        epochs, own = self.settings.finetune_epochs, self.pictures.own_labels
        trained = None
        if epochs and own is not None:
            noisy = wire.at(noise)
            known = self.pictures.own_codes
            codes = self.target.encode(to_unit(self.pictures.own)) if known is None else known
            server = finetuned(
                self.server, noisy, codes, own, wire.queries, epochs, self.learn, self.settings.seed
            )
            trained = self._measured(replace(noisy, server=server), wire.queries, self.fresh)
        without = self._measured(self.target, 1, self.fresh)
        return {"without": without, "as_it_is": as_it_is, "finetuned": trained, "epochs": epochs}
