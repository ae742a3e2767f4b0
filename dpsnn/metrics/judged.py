"""Whether an independent classifier sees in a reconstruction what is in the image."""

from dpsnn.metrics.accuracy import correct
from dpsnn.metrics.base import Metric, Scored, Values
from dpsnn.metrics.floors import majority_share


class Recognised(Metric):
    """Reconstructions that the judge recognises as their true class, in percent."""

    key = "recognised"
    column = "ValAccuracy"
    class_floor = "{}ClassFloor"
    floor_label = "floor: most frequent class"
    ceiling = "{}Ceiling"
    shuffled = "{}Shuffled"
    label = "recognised by the judge %"
    short = "recognised %"
    digits = 1
    percent = True
    shown = True
    order = 60

    def values(self, seen: Scored) -> Values:
        return None if seen.judged is None else 100.0 * correct(seen.judged, seen.labels)

    def least(self, nothing: Scored) -> float | None:
        """That of always naming the most frequent class."""
        return None if nothing.judged is None else majority_share(nothing.labels)


class Confidence(Metric):
    """The judge's probability of the true class, in percent."""

    key = "confidence"
    column = "ValConfidence"
    ceiling = "{}Ceiling"
    shuffled = "{}Shuffled"
    label = "the judge's confidence in the true class %"
    digits = 1
    order = 70

    def values(self, seen: Scored) -> Values:
        if seen.judged is None:
            return None
        return 100.0 * seen.judged.softmax(1).gather(1, seen.labels.unsqueeze(1)).squeeze(1)
