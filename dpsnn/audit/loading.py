"""The model under audit: a function of the user's, a name of torchvision's or a checkpoint of ours, and its weights."""

import copy
import operator
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpsnn.audit.cuts import Cut, Cuts, of_classifier
from dpsnn.audit.places import Whole
from dpsnn.audit.sources import called, is_function, repeatable, unnamed
from dpsnn.errors import UsageError, meant, reading
from dpsnn.folders import Folders
from dpsnn.networks.split import Standardise

ANSWERS = ("logits", "out", "output", "scores", "pred", "prediction")
"""Names under which models give their answer beside others."""

SHOWN = 3
"""Names in a line."""


@dataclass(frozen=True)
class Model:
    """A model in evaluation mode, and what is to be said of it."""

    module: nn.Module
    name: str
    source: str
    notes: tuple[str, ...] = ()
    classifier: Any = None
    """Of ours, where it is one: it knows its cuts and its defences."""
    before: nn.Module | None = None
    """What is done to images first."""
    whole: Whole | None = None
    """It, with the one of its outputs that is its answer."""
    scores: int | None = None
    """Columns of the answer, where they are known."""

    def seeing(self, image_shape: tuple[int, ...], classes: int | None = None) -> "Model":
        """The same for such images, which says what is its answer.

        Args:
            image_shape: Of one image.
            classes: Of the data; the answer has a column for each, if any output has.

        Raises:
            UsageError: If it does not take them, or gives no row of scores for each.
        """
        if self.classifier is not None:
            return replace(self, scores=self.classifier.network.num_classes)
        found = _answering(self.module, image_shape, self.before, classes)
        columns = found.shape[1] if len(found.shape) == 2 else None
        notes = (*self.notes, *found.notes)
        return replace(self, whole=found.whole, scores=columns, notes=notes)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in {*self.module.parameters()})

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """Of one image, where the model itself says it."""
        return None if self.classifier is None else tuple(self.classifier.network.image_shape)

    @property
    def channels(self) -> int | None:
        """Grey or colour, where the first convolution tells."""
        if self.image_shape:
            return self.image_shape[0]
        for layer in self.module.modules():
            if isinstance(layer, nn.Conv2d):
                return layer.in_channels if layer.in_channels in (1, 3) else None
        return None

    def cuts(
        self, image_shape: tuple[int, ...], names: Sequence[str] = ("all",)
    ) -> tuple[list[Cut], dict[str, str]]:
        """It, cut at each place asked for; and modules that are no cut, with the reason.

        Raises:
            UsageError: If it does not take such images, or has no such cut.
        """
        if self.classifier is not None:
            return of_classifier(self.classifier, self.name, names), {}
        whole = self.whole or self.seeing(image_shape).whole
        assert whole is not None
        every = Cuts(whole, image_shape, self.name)
        return every.chosen(names), every.refused


def load_model(
    model: str | nn.Module | Callable[[], nn.Module], weights: str = "", classes: int | None = None
) -> Model:
    """Find a model, load its weights, and put it to evaluation.

    Args:
        model: FILE.py:FUNCTION, a name of torchvision's, a checkpoint of ours, or the module itself.
        weights: A file with the state dict; only tensors are read, and no code in it runs.
        classes: Classes of the data, for models that are made to measure.

    Raises:
        UsageError: If there is no such model, or the weights are not its own.
    """
    found = _found(model, weights, classes)
    if weights:
        if found.classifier is not None:
            raise UsageError("a checkpoint of ours has its weights; leave out --weights")
        _load(found.module, weights)
        found = replace(found, source=f"{found.source}, weights {weights}")
    found.module.eval()
    return found


def _own(module: nn.Module) -> nn.Module:
    """A copy where models are looked at: whoever brought the module finds it again as it was.

    Raises:
        UsageError: If it cannot be copied, or has no weights yet, or its layers cannot be looked into.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise UsageError(
            "the model is TorchScript, whose layers cannot be looked into; give the module that it was made of"
        )
    try:
        return copy.deepcopy(module).cpu()
    except Exception as error:  # whatever anyone's attributes may raise
        told = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{type(module).__name__} cannot be copied to the CPU: {told}; give a function that makes it there"
        ) from error


def _found(model: Any, weights: str, classes: int | None) -> Model:
    if isinstance(model, nn.Module):
        return Model(_own(model), type(model).__name__, "given as a module")
    if not isinstance(model, str):
        with repeatable():
            made = model()
        if not isinstance(made, nn.Module):
            raise UsageError(f"the model function gave {type(made).__name__}, no torch.nn.Module")
        return Model(_own(made), getattr(model, "__name__", "model"), "given as a function")
    if is_function(model):
        made = called(model, "a model")
        if not isinstance(made, nn.Module):
            raise UsageError(f"{model} gave {type(made).__name__}, no torch.nn.Module")
        return Model(_own(made), Path(model).name, model)
    if said := unnamed(model):
        raise UsageError(said)
    if Path(model).is_file():
        return _checkpoint(Path(model))
    if path := _kept(model.removesuffix(".ckpt")):
        return _checkpoint(path)
    if model.endswith(".ckpt"):
        raise UsageError(
            f"there is no checkpoint {model}, nor one of that name in {Folders().classifiers}; name the file"
        )
    return _of_torchvision(model, weights, classes)


def _kept(name: str) -> Path | None:
    """The checkpoint of ours that is called so, with or without its epoch; None where there is none.

    Raises:
        UsageError: If there are several.
    """
    from dpsnn.checkpoints import CLASSIFIER, find

    path = Path(name)
    folder = Folders().classifiers if path.parent == Path() else path.parent
    stem = escape(path.name)
    if any(True for end in ("", "_epoch=*") for _ in folder.glob(f"{stem}{end}.ckpt")):
        return find(folder, name, CLASSIFIER)
    return None


def _checkpoint(path: Path) -> Model:
    from dpsnn.checkpoints import load_classifier

    if path.suffix != ".ckpt":  # of the user's own, who must not be told to delete it
        raise UsageError(
            f"{path} is no checkpoint of ours; give the network as FILE.py:FUNCTION, and a state dict with --weights"
        )
    classifier, spec, stored = load_classifier(path)
    if spec.validator:
        raise UsageError(
            f"{path.name} is a validator: it judges reconstructions and is not audited"
        )
    return Model(classifier.network, stored.stem, str(path), classifier=classifier)


def _of_torchvision(name: str, weights: str, classes: int | None) -> Model:
    from torchvision.models import get_model, list_models

    known = [each for each in list_models() if "." not in each and "/" not in each]
    if name not in known:
        raise UsageError(
            f"there is no model {name!r}{meant(name, known)}; give FILE.py:FUNCTION, a checkpoint of ours, or a name of"
            " torchvision's, such as resnet18"
        )
    notes = [
        "images are normalised by the mean and spread of ImageNet, as torchvision's models are"
    ]
    if weights:
        classes = _outputs(_state(weights)) or classes
    else:
        notes.append(
            "no --weights: the model is untrained, and what it sends is not what users would send"
        )
    more = {} if classes is None else {"num_classes": classes}
    try:
        with repeatable():
            made = get_model(name, weights=None, **more)
    except Exception as error:  # some need what others lack
        raise UsageError(
            f"torchvision cannot make {name}: {error}; give FILE.py:FUNCTION"
        ) from error
    return Model(made, name, f"torchvision {name}", tuple(notes), before=_normalisation())


def _normalisation() -> Standardise:
    """By the mean and spread of ImageNet, channel by channel."""
    made = Standardise(0.0, 1.0)
    for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
        delattr(made, name)
        made.register_buffer(name, torch.tensor(values).view(3, 1, 1))
    return made


# ---------------------------------------------------------------- weights


def _state(path: str) -> dict[str, Tensor]:
    """The tensors in a file, by name; whatever else would have to be run is refused.

    Raises:
        UsageError: If it holds anything but tensors, or none.
    """
    remedy = "save model.state_dict() with torch.save"
    with reading(path, "a file of weights", remedy), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds of tensors that are refused below
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # PyTorch's own advice is to run what is in it
            why = "it is no file of torch.save, or holds more than tensors, such as a whole model"
            raise ValueError(why) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds {type(content).__name__}, no state dict; {remedy}")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        there = ", ".join(list(map(str, content))[:SHOWN]) or "nothing"
        raise UsageError(f"{path} holds no tensors at its top, only {there}; {remedy}")
    for name, value in tensors.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            kinds = "sparse, quantised or without values"
            raise UsageError(f"{path} has {name}, a tensor that is {kinds}; save plain ones")
    return tensors


def _outputs(state: Mapping[str, Tensor]) -> int | None:
    """Classes of a classifier: as many as its last bias has values."""
    last = [value for value in state.values() if value.dim() == 1]
    return len(last[-1]) if last else None


def _load(module: nn.Module, path: str) -> None:
    """Load weights, all of them, whatever stands in front of their names.

    Raises:
        UsageError: If some are missing, strangers, or of another shape.
    """
    state, wanted = _state(path), module.state_dict()
    for prefix in ("module.", "model.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state) and not wanted.keys() & state.keys():
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    # A count of batches that older files lack, and evaluation does not use.
    idle = {name for name in wanted if name.endswith("num_batches_tracked")}
    state |= {name: wanted[name] for name in idle - state.keys()}
    said = _differences(wanted, state)
    if said:
        raise UsageError(
            f"{path} does not fit the model: {said}; give the weights of this very model"
        )
    module.load_state_dict(dict(state))


def _differences(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What does not fit, in a line; empty where all does."""

    def some(names: list[str]) -> str:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{', '.join(names[:SHOWN])}{more}"

    missing = [name for name in wanted if name not in state]
    strange = [name for name in state if name not in wanted]
    shapes = [
        f"{n} is {tuple(state[n].shape)}, not {tuple(wanted[n].shape)}"
        for n in wanted
        if n in state and state[n].shape != wanted[n].shape
    ]
    both = [n for n in wanted if n in state]
    # What rounds to them would be loaded without a word, such as an integer that stands for a weight.
    kinds = [
        f"{n} is {state[n].dtype}, not {wanted[n].dtype}"
        for n in both
        if wanted[n].is_floating_point() and not state[n].is_floating_point()
    ]
    sound = both if not kinds else []
    bad = [n for n in sound if not bool(state[n].to(wanted[n].dtype).isfinite().all())]
    parts = (
        ("it lacks ", missing),
        ("it has besides ", strange),
        ("", shapes),
        ("", kinds),
        ("not finite: ", bad),
    )
    return "; ".join(f"{said}{some(names)}" for said, names in parts if names)


# ---------------------------------------------------------------- answers


class _Answering(NamedTuple):
    """A model as one that gives a row of scores for each image."""

    whole: Whole
    shape: tuple[int, ...]
    """Of its answer to two images."""
    notes: tuple[str, ...]


def _answering(
    module: nn.Module,
    image_shape: tuple[int, ...],
    before: nn.Module | None = None,
    classes: int | None = None,
) -> _Answering:
    """The output of a model that is its answer: by its columns and its name, else by either, else the first.

    Raises:
        UsageError: If it does not take such images, or gives nothing of the kind.
    """
    given, notes = _given(module, torch.rand(2, *image_shape), before)
    if isinstance(given, Tensor):
        pick = _row if given.dim() == 1 else _same
        whole = Whole(module, pick, before).eval()
        return _Answering(whole, tuple(pick(given).shape), notes)
    outputs = _outputs_of(given)
    if not outputs:
        raise UsageError(
            f"the model gives {type(given).__name__} without a row of scores for each image; wrap it in a module that"
            " returns them"
        )
    fitting = [each for each in outputs if classes and each.value.shape[1:] == (classes,)]
    named = [each for key in ANSWERS for each in outputs if each.name == key]
    # A name such as `output` may be that of features, beside scores of another name. Two classes may have one score.
    both = [each for each in named if each in fitting]
    scores = [each for each in named if each.name in ("logits", "scores")]
    both += [each for each in scores if classes == 2 and each.value.shape[1:] == (1,)]
    chosen = (both or fitting or named or outputs)[0]
    if len(outputs) > 1:
        shape = tuple(chosen.value.shape[1:])
        notes = (
            *notes,
            f"of the model's {len(outputs)} outputs {chosen.name}, of shape {shape} for each image, is taken for its"
            " answer",
        )
    whole = Whole(module, chosen.pick, before).eval()
    return _Answering(whole, tuple(chosen.value.shape), notes)


def _given(
    module: nn.Module, images: Tensor, before: nn.Module | None
) -> tuple[Any, tuple[str, ...]]:
    """What a model gives for images, and what is to be said: one that takes no float32 is audited in float32."""

    def ask() -> Any:
        with torch.no_grad():
            return module(before(images) if before else images)

    kinds = {weight.dtype for weight in module.parameters() if weight.is_floating_point()}
    others = kinds - {torch.float32}
    try:
        return ask(), ()
    except Exception as error:  # whatever anyone's layers may raise
        first = error
    try:
        if others:
            module.float()
            said = f"its weights are {', '.join(map(str, others))}: it is audited in float32"
            return ask(), (said,)
    except Exception as error:  # as above
        first = error
    told = " ".join(str(first).split())[:200] or type(first).__name__
    remedy = "give its pictures their size with --size"
    if "dtype" in told or "device" in told or "type" in told:
        remedy = "let it take float32 on the CPU, and compute where its weights are"
    raise UsageError(
        f"the model does not take images of shape {tuple(images.shape[1:])}: {told}; {remedy}"
    ) from first


class _Output(NamedTuple):
    """One of a model's outputs."""

    name: str
    value: Tensor
    pick: Callable[[Any], Any]


def _outputs_of(given: Any) -> list[_Output]:
    """Every tensor with a row for each image."""
    items: list[tuple[Any, Any, Callable[[Any], Any]]]
    if isinstance(given, Mapping):
        items = [(key, each, operator.itemgetter(key)) for key, each in given.items()]
    elif isinstance(given, tuple | list):
        names = getattr(given, "_fields", range(len(given)))
        items = [(names[at], each, operator.itemgetter(at)) for at, each in enumerate(given)]
    else:
        items = [(key, getattr(given, key, None), operator.attrgetter(key)) for key in ANSWERS]
    return [_Output(str(key), each, pick) for key, each, pick in items if _is_answer(each)]


def _same(answer: Any) -> Any:
    return answer


def _row(answer: Any) -> Any:
    return answer.unsqueeze(1)


def _is_answer(given: object) -> bool:
    return isinstance(given, Tensor) and given.dim() >= 2 and given.is_floating_point()
