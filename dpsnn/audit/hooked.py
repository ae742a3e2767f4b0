"""Cuts of a model that cannot be traced, found by trial.

The client is the model, stopped where the layer has answered. The server is the model shown black images, with what was
sent in the place of the layer's answer: if it answers as the whole model does, that tensor alone crosses. It does the
client's work once more for nothing, which is said.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from dpsnn.audit.places import Found, Halves, Place, Whole, is_pointwise, shown
from dpsnn.audit.trial import Trial
from dpsnn.training import seeded

NOTE = "found by trial: the model cannot be traced, and its server repeats the client's work"


class _Reached(BaseException):
    """The layer has answered; no Exception, which a model might catch."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer


class Until(nn.Module):
    """Images → what a layer of a model gives for them."""

    def __init__(self, model: nn.Module, path: str) -> None:
        super().__init__()
        self.model, self.path = model, path

    def forward(self, images: Tensor) -> Tensor:
        def stop(layer: nn.Module, given: Any, answer: Tensor) -> None:
            raise _Reached(answer)

        hook = self.model.get_submodule(self.path).register_forward_hook(stop)
        try:
            self.model(images.clone())
        except _Reached as reached:
            return reached.answer
        finally:
            hook.remove()
        raise RuntimeError(f"the model did not call its layer {self.path}")


class After(nn.Module):
    """What a layer gave → what the model makes of it."""

    def __init__(self, model: nn.Module, path: str, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.path, self.image_shape = model, path, image_shape

    def forward(self, smashed: Tensor) -> Tensor:
        def put(layer: nn.Module, given: Any, answer: Any) -> Tensor:
            return smashed.clone()

        hook = self.model.get_submodule(self.path).register_forward_hook(put)
        try:
            shape = (len(smashed), *self.image_shape)
            found: Tensor = self.model(torch.zeros(shape, device=smashed.device))
            return found
        finally:
            hook.remove()


class _Calls:
    """Which modules were called, in which order, with what they were given and gave."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.images = images
        self.count: dict[str, int] = {}
        self.answers: dict[str, Any] = {}
        self.given: dict[str, Any] = {}
        self._before: dict[str, list[nn.Parameter]] = {}
        self._loose = [
            weight
            for module in model.modules()
            if any(True for _ in module.children())
            for weight in module.parameters(recurse=False)
        ]
        """Of modules around others: they are used somewhere among those."""
        begun: list[nn.Parameter] = []
        hooks = []
        for path, module in model.named_modules():
            if not path or not shown(path):
                continue

            def begin(module: nn.Module, given: Any, path: str = path) -> None:
                self.given[path] = given[0] if given else None
                own = module.parameters(recurse=False)
                begun.extend(w for w in own if all(w is not each for each in self._loose))

            def end(module: nn.Module, given: Any, answer: Any, path: str = path) -> None:
                self.count[path] = self.count.get(path, 0) + 1
                self.answers[path] = answer
                self._before[path] = list(begun)

            hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
        followed = [(weight, weight.requires_grad) for weight in self._loose]
        try:
            for weight in self._loose:
                weight.requires_grad_(weight.is_floating_point())
            with torch.set_grad_enabled(bool(self._loose)), seeded(0):
                self.answer = model(images.clone())
        finally:
            for hook in hooks:
                hook.remove()
            for weight, was in followed:
                weight.requires_grad_(was)
        self.paths = list(self.answers)

    def before(self, path: str) -> list[nn.Parameter]:
        """The weights that what a layer gives has come from."""
        used = _leaves(self.answers[path]) if self._loose else set()
        return [*self._before[path], *(weight for weight in self._loose if id(weight) in used)]


def _leaves(answer: Tensor) -> set[int]:
    """Identities of all that a tensor was computed from and that has a gradient."""
    found: set[int] = set()
    seen: set[object] = set()
    left: list[Any] = [answer.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(id(getattr(node, "variable", None)))
        left += [each for each, _ in node.next_functions]
    return found


def hooked_places(model: Whole, images: Tensor) -> Found:
    """Every place of a model behind a module that is called once, and why its other modules are none."""
    calls, found, trial = _Calls(model, images), Found(), Trial(model, images)
    longer = _Calls(model, torch.cat([images, images[:1]]))
    shape = tuple(images.shape[1:])
    layers = dict(model.named_modules())
    every = [*model.parameters()]
    taken: dict[int, Place] = {}
    paths: list[str] = []
    for path in calls.paths:
        name, answer = shown(path), calls.answers[path]
        if reason := _unfit(calls, longer, path):
            found.refused[name] = reason
            continue
        if id(answer) in taken and id(calls.given[path]) != id(answer):
            # What a module gives is what its last one gave: the same place, under the shorter name.
            place = taken[id(answer)]
            place.aliases, place.name = (*place.aliases, place.name), name
            continue
        client, server = Until(model, path), After(model, path, shape)
        if not trial.tells:
            found.refused[name] = (
                "the model answers all images alike, so it does not show what crosses"
            )
            continue
        if trial.wrong(client, server):
            found.refused[name] = "a branch or skip connection crosses beside it"
            continue
        own = calls.before(path)
        rest = [p for p in every if all(p is not o for o in own)]
        layer = layers[path]
        halves = Halves(client, server, own, rest)
        made = functools.partial(_given, halves)
        place = Place(name, type(layer).__name__, made, layer, notes=(NOTE,))
        found.places.append(place)
        taken[id(answer)] = place
        paths.append(path)
    for place, path, following in zip(found.places, paths, paths[1:]):
        handed_on = calls.given[following] is calls.answers[path]
        place.inner = handed_on and is_pointwise(layers[following])
    return found


def _given(halves: Halves) -> Halves:
    return halves


def _unfit(calls: _Calls, longer: _Calls, path: str) -> str:
    """Why a layer's output cannot be what is sent, by what it gave for some images, and for one more."""
    answer, more = calls.answers[path], longer.answers.get(path)
    if calls.count[path] > 1:
        return f"it is called {calls.count[path]} times; name the module around it"
    if not isinstance(answer, Tensor) or not answer.is_floating_point():
        return "its output is not one tensor"
    counts = len(calls.images), len(longer.images)
    if answer.dim() < 2 or not isinstance(more, Tensor) or (len(answer), len(more)) != counts:
        return "its output has no row for each image"
    if answer is calls.answer:
        return "it is the whole model, and nothing is left to the server"
    return ""
