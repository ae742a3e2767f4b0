"""Where a model can be cut: places at which one tensor alone crosses from client to server.

They are read off the traced graph of the model, or, where it cannot be traced, found by trial: the tensor of a layer is
put in its place while the model is shown other images, and if the answer stays, nothing else crosses.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from dpsnn.audit.hooked import hooked_places
from dpsnn.audit.places import Halves, Place, Whole
from dpsnn.audit.traced import traced_places
from dpsnn.audit.trial import ROUNDING, TOLERANCE, Trial, probes
from dpsnn.defences import DefenceList
from dpsnn.defences.values import Values
from dpsnn.errors import UsageError, meant
from dpsnn.target import Target
from dpsnn.tensors import Activation
from dpsnn.training import device

FEW = 250
"""Activations that are compared at a time."""


@dataclass(frozen=True)
class Cut:
    """A place where a model can be cut, and the halves."""

    name: str
    order: int
    kind: str
    """Of the layer that ends the client."""
    shape: tuple[int, ...]
    """Of one activation."""
    target: Target
    """The halves, with nothing on the wire, or what one of our models was trained with."""
    weights_share: float | None
    flops_share: float | None
    work: int | None
    """Operations of the client for one image."""
    notes: tuple[str, ...] = ()
    server: nn.Module | None = None
    """The server's half, for who goes on training it."""

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """On the wire for one image, in float32."""
        return 4 * self.values

    def defended(self, mechanism: DefenceList) -> Target:
        """The same with a mechanism on the wire; one without defences leaves what is there."""
        return replace(self.target, mechanism=mechanism) if len(mechanism) else self.target


class Cuts:
    """All places of a model where one tensor alone crosses; what is asked for is cut there.

    Args:
        model: Images in [0, 1] → scores of classes, in evaluation mode.
        image_shape: Of one image.
        name: Of the model.

    Raises:
        UsageError: If it has no cut.
    """

    def __init__(self, model: nn.Module, image_shape: tuple[int, ...], name: str = "") -> None:
        self.model = model if isinstance(model, Whole) else Whole(model)
        self.images, self.name = probes(image_shape), name
        self.trial = Trial(self.model, self.images)
        found = traced_places(self.model, self.images)
        if found is None or not found.places:
            hooked = hooked_places(self.model, self.images)
            found = hooked if found is None or hooked.places else found
        self.places, self.refused = found.places, found.refused
        """Name of a module that is no cut → why."""
        if not self.places:
            why = "; ".join(f"{n}: {r}" for n, r in [*self.refused.items()][:3])
            raise UsageError(
                "the model has no place where one tensor alone crosses"
                f" ({why or 'it is a single layer'}); split it by hand and give the client as the model"
            )

    @property
    def names(self) -> list[str]:
        """Of every place, in the order of the model."""
        return [place.name for place in self.places]

    def chosen(self, names: Sequence[str] = ("all",)) -> list[Cut]:
        """The model cut at each place asked for, in its order.

        `all` leaves out places between which and the next one only something is computed value by value: to cut there
        costs as much, and gives more away.

        Raises:
            UsageError: If one is not there, or is no cut.
        """
        aliases = {a: place.name for place in self.places for a in place.aliases}
        wanted = {aliases.get(name, name) for name in names}
        for name in wanted - {"all", *self.names}:
            if name in self.refused:
                raise UsageError(
                    f"{name} is no cut: {self.refused[name]}; choose from {self.names}"
                )
            hint = meant(name, [*self.names, *aliases])
            raise UsageError(f"the model has no cut {name!r}; choose from {self.names}{hint}")
        if "all" in wanted:
            outer = {place.name for place in self.places if not place.inner}
            wanted |= outer or {*self.names}
        total = _Total(
            sum(p.numel() for p in {*self.model.parameters()}), _flops(self.model, self.images[:1])
        )
        cuts = []
        for order, place in enumerate(self.places):
            if place.name not in wanted:
                continue
            halves = place.halves()
            if reason := self.trial.wrong(halves.client, halves.server):
                self.refused[place.name] = reason
                if "all" not in names:
                    raise UsageError(f"{place.name} is no cut: {reason}; choose from {self.names}")
                continue
            cuts.append(_cut(place, halves, order, self.images, total, self.name))
        if not cuts:
            raise UsageError(
                f"{self.name or 'the model'} has no cut: {[*self.refused.items()][:3]}"
            )
        return cuts


def within(target: Target, activations: Activation) -> Target:
    """The same; where any of these lies, by more than rounding, outside the set that is claimed, one of no set.

    Nothing is promised that what was seen denies. Values that are no finite numbers lie nowhere.
    """
    known, values = activations[activations.isfinite()], target.values
    if not len(known):
        return target
    low, high = float(known.min()), float(known.max())
    slack = ROUNDING * max(1.0, abs(low), abs(high))
    boxed = low >= values.low - slack and high <= values.high + slack
    if boxed and not _too_far(activations, values):
        return target
    return replace(target, values=Values(values.dimension))


def _too_far(activations: Activation, values: Values) -> bool:
    """Whether any is further from the first, in L1 or in L2, than two activations of this set can be."""
    rows = activations.flatten(1)
    rows = rows[rows.isfinite().all(1)]
    for order, most in ((1, values.l1), (2, values.l2)):
        if math.isfinite(most):
            parts = ((part - rows[:1]).double().norm(order, 1) for part in rows.split(FEW))
            if any(bool((each > most * (1 + TOLERANCE)).any()) for each in parts):
                return True
    return False


class _Total(NamedTuple):
    weights: int
    flops: int | None


def _flops(module: nn.Module, images: Tensor) -> int | None:
    """Of one image, in products of matrices and convolutions; None where they cannot be counted."""
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            module(images.clone())
    except Exception:  # a layer may do what the counter does not know
        return None
    return int(counter.get_total_flops())


def _settled(part: nn.Module, given: Tensor) -> nn.Module:
    """A copy where computations are made, in the memory layout in which it is fast if it takes that.

    Its layers stay in the mode in which the model puts them to be evaluated: some keep dropout on.
    """
    part = copy.deepcopy(part).requires_grad_(False).to(device())
    try:
        with torch.no_grad():
            # Not by a call, of which torch.fx prints the traceback where it fails.
            part.to(memory_format=torch.channels_last).forward(given.to(device()))
    except RuntimeError:  # a view of what does not lie in the usual order
        part.to(memory_format=torch.contiguous_format)
    return part


def _cut(place: Place, halves: Halves, order: int, images: Tensor, total: _Total, name: str) -> Cut:
    with torch.no_grad():
        activation = halves.client(images.clone()).contiguous()
    client, server = _settled(halves.client, images), _settled(halves.server, activation)
    kind = activation.dtype  # whatever it is, on the wire and for attackers it is float32
    target = Target.of_client(
        lambda given: client(given.to(device())).contiguous().float(),
        tuple(images.shape[1:]),
        server=lambda smashed: server(smashed.contiguous().to(kind)).float(),
        name=name,
    )
    # Dropout that is left on makes values larger, wherever it is.
    left_on = any(isinstance(each, _DropoutNd) and each.training for each in client.modules())
    limiting = place.layer if place.layer is not None and not left_on else nn.Identity()
    values = Values.behind(limiting, target.cut_shape)
    # Beyond them a layer gives more than its kind does, such as one with a hook that anyone put on it.
    target = within(replace(target, values=values, cut=place.name), activation.float())
    own, others = ({id(p): p for p in part} for part in (halves.weights, halves.others))
    weights = sum(each.numel() for each in own.values())
    flops = _flops(halves.client, images[:1])
    notes = list(place.notes)
    if shared := sum(own[key].numel() for key in own.keys() & others.keys()):
        notes.append(f"{shared:,} weights of the client are the server's as well: it knows them")
    return Cut(
        place.name,
        order,
        place.kind,
        target.cut_shape,
        target,
        weights / total.weights if total.weights else None,
        flops / total.flops if total.flops and flops is not None else None,
        flops,
        tuple(notes),
        server,
    )


def of_classifier(classifier: Any, name: str, names: Sequence[str] = ("all",)) -> list[Cut]:
    """The cuts of one of our classifiers: its own, with its defences, or all that it has names for.

    Args:
        classifier: A `SplitClassifier`.
        name: Of its checkpoint.
        names: Those that are asked for.

    Raises:
        UsageError: If it was trained with a defence on the wire at its own cut, and another is asked for.
    """
    from dpsnn.building import recut

    network = classifier.network
    own = network.cut or "cut"
    defended = any(part.place is not None for part in classifier.defences)
    known = [own] if defended or not network.cuts else list(network.cuts)
    asked = known if "all" in names else list(names)
    if missing := set(asked) - set(known):
        raise UsageError(f"{name} has no cut {min(missing)!r}; choose from {known}")
    images = probes(network.image_shape)[:1]
    weights = sum(p.numel() for p in {*network.parameters()})
    total = _Total(weights, _flops(copy.deepcopy(network).eval(), images))
    cuts = []
    for order, each in enumerate(known):
        if each not in asked:
            continue
        # One for each cut: a target goes on asking the classifier that it was made of.
        one = copy.deepcopy(classifier)
        if each != own:
            recut(one, each)
        target = replace(Target.of(one, name), cut=each)
        client = one.network.client
        flops = _flops(client, images)
        last = [*client.children()][-1] if [*client.children()] else client
        cuts.append(
            Cut(
                each,
                order,
                type(last).__name__,
                tuple(one.network.cut_shape),
                target,
                sum(p.numel() for p in {*client.parameters()}) / weights,
                flops / total.flops if total.flops and flops is not None else None,
                flops,
                server=one.network.server,
            )
        )
    return cuts
