"""What is attacked: the one interface that attacks, scores and tables see."""

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpsnn.attacks.base import BLOCK, Insider, Knowledge, Need, WhiteBox, average
from dpsnn.classifier import SplitClassifier
from dpsnn.defences import DefenceList, DefenceModule
from dpsnn.defences.densities import Guarantee
from dpsnn.defences.mechanism import guarantee, information, naming
from dpsnn.defences.values import Map, Values
from dpsnn.errors import UsageError
from dpsnn.metrics.dfil import squared_jacobians, unbiased_bound
from dpsnn.tensors import Activation, Inputs, Logits, Number, Smashed
from dpsnn.training import device

Client = Callable[[Inputs], Activation]
Step = Callable[[Activation], Smashed]
Server = Callable[[Smashed], Logits]
Part = TypeVar("Part", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Target:
    """A client, what it sends, and the server that it sends to, if there is one; images may be rows of any shape.

    What an attacker is given of it is for `knowledge` to say.
    """

    client: Client
    """Images → activation, with gradients to the images; not for attackers as it is."""
    mechanism: DefenceList
    """Activation → what crosses the wire, with fresh randomness at every call; it knows how likely that is."""
    image_shape: tuple[int, ...]
    """Of one image, `(C, H, W)`."""
    cut_shape: tuple[int, ...]
    """Of its activation."""
    values: Values
    """Where activations lie, as far as that is known."""
    server: Server | None = None
    num_classes: int | None = None
    name: str = ""
    cut: str = ""

    @classmethod
    def of(cls, classifier: SplitClassifier, name: str = "") -> "Target":
        """One of our classifiers as it stands, cut and defences included; it is put to evaluation, and frozen."""
        _settled(classifier)
        network = classifier.network
        return cls(
            lambda images: classifier.encode(images.to(device())),
            classifier.defences,
            tuple(network.image_shape),
            tuple(network.cut_shape),
            Values.behind(network.client, network.cut_shape, network.bound),
            lambda smashed: network.server(smashed).float(),
            network.num_classes,
            name,
            network.cut,
        )

    @classmethod
    def of_client(
        cls,
        client: Client,
        image_shape: tuple[int, ...],
        mechanism: DefenceModule | Step | None = None,
        server: Server | None = None,
        bound: float | None = None,
        name: str = "",
        cut: str = "",
    ) -> "Target":
        """Anyone's client: a module, or a function that computes row by row.

        Of modules a copy is taken, in evaluation mode and without gradients of its own; functions stay as they are.

        Args:
            client: Images in [0, 1], or other rows → activation.
            image_shape: Of one image or row.
            mechanism: What is done to the activation before it is sent: a defence, or anything, of which nothing is
                promised then; None is nothing.
            server: What becomes of it, in scores of classes.
            bound: Largest absolute value that the client can give, where its last layer does not tell.
            name: What it is called.
            cut: Name of the layer behind which `client` is to be cut: what it gives is what crosses the wire. Of an
                `nn.Sequential` the other layers are the server.

        Raises:
            UsageError: If the client has no such layer, or does not take images of this shape.
        """
        client, wire = _copied(client), _wire(mechanism)
        server = None if server is None else _copied(server)
        modules = [part for part in (client, server) if isinstance(part, nn.Module)]
        if cut:
            client, rest = _split(client, cut)
            server = server or rest

        def tried() -> tuple[Activation, Logits | None]:
            activation = client(torch.zeros(1, *image_shape, device=device()))
            return activation, None if server is None else server(wire(activation))

        with torch.no_grad():
            try:
                try:
                    activation, answer = tried()
                except RuntimeError:  # perhaps a view of what does not lie in the usual order
                    for module in modules:
                        module.to(memory_format=torch.contiguous_format)
                    activation, answer = tried()
            except (RuntimeError, ValueError, TypeError) as error:
                remedy = "give it in float32" if "dtype" in str(error) else "name theirs"
                raise UsageError(
                    f"the client does not take images of shape {image_shape}: {error}; {remedy}"
                ) from error
        classes = None if answer is None else answer.shape[1]
        shape = tuple(activation.shape[1:])
        last = client if isinstance(client, nn.Module) else nn.Identity()
        values = Values.behind(last, shape, bound)
        if activation.dtype != torch.float32:
            client, server = _in_float32(client, server, activation.dtype)
        return cls(client, wire, tuple(image_shape), shape, values, server, classes, name, cut)

    # ------------------------------------------------------------ what its users do

    @torch.inference_mode()
    def encode(self, images: Inputs) -> Activation:
        """The client's output for all images, on the CPU, in float32 whatever the client computes in."""
        blocks = images.split(BLOCK)
        return torch.cat([self.client(block.to(device())).float().cpu() for block in blocks])

    @torch.inference_mode()
    def transmit(self, activation: Activation, queries: int = 1) -> Float[Tensor, "queries n *cut"]:
        """All that crosses the wire when each image is sent so many times."""
        blocks = activation.float().to(device()).split(BLOCK)
        sent = [torch.stack([self.mechanism(b) for _ in range(queries)]) for b in blocks]
        return torch.cat(sent, 1).float()

    @torch.inference_mode()
    def answer(self, heard: Float[Tensor, "queries n *cut"]) -> Logits:
        """What the server makes of the mean of the transmissions, on the CPU; there must be one."""
        assert self.server is not None
        blocks = average(heard).split(BLOCK)
        return torch.cat([self.server(block.to(device())).cpu() for block in blocks])

    @property
    def sends_as_is(self) -> bool:
        """Whether what crosses the wire is the activation itself."""
        return not self.mechanism.mechanism()

    def guarantee(self, queries: int = 1) -> Guarantee:
        """ε and δ that the mechanism promises for so many transmissions of an image."""
        return guarantee(self.mechanism.mechanism(), self.values, queries)

    def naming(
        self, candidates: Number, queries: int = 1, among: Activation | None = None
    ) -> float:
        """The share of N equally likely inputs that anybody can name, at most, heard so often.

        Args:
            candidates: N; for classes 1 over the share of the largest, which is no whole number.
            queries: How often each is sent.
            among: Their activations; the bound is then smaller and holds for these alone. By default for any inputs.
        """
        values = self.values if among is None else Values.around(among)
        return naming(self.mechanism.mechanism(), values, candidates, queries)

    def unbiased_bound(self, images: Inputs, queries: int = 1) -> Float[Tensor, " n"]:
        """1/dFIL at each image: what the error of no *unbiased* attacker is below; see `metrics.dfil`.

        Raises:
            NoLikelihood: If the Fisher information is not known.
        """
        steps = self.mechanism.mechanism()
        known = information(steps)

        def until_noise(given: Tensor) -> Tensor:
            value = self.client(given)
            for step in steps:
                if not isinstance(step, Map):
                    break
                value = step.smooth(value)
            return value

        squares = squared_jacobians(until_noise, images.to(device()))
        return unbiased_bound(squares, known, images[0].numel(), queries)

    # ------------------------------------------------------------ what its attackers are given

    def knowledge(self, surrogate: Inputs, needs: Collection[Need]) -> Knowledge:
        """Exactly what an attack needs, and nothing else.

        Args:
            surrogate: The attacker's own images.
            needs: Of the attack. Whoever does not name the weights gets oracles, which no gradient leaves.

        Raises:
            UsageError: If there is no server, or there are no classes, and the attack needs them.
        """
        more: dict[Need, object] = {Need.SERVER: self.server, Need.LABELS: self.num_classes}
        for need, there in more.items():
            if need in needs and there is None:
                raise UsageError(
                    f"the attack needs the {need} of {self.name or 'its target'}, which has none; choose another attack"
                )
        server = self.server if Need.SERVER in needs else None
        labels = (
            torch.arange(self.num_classes or 0, device=device()) if Need.LABELS in needs else None
        )
        pairwise = _oracle(self.mechanism.pairwise) if Need.DENSITY in needs else None
        if Need.WEIGHTS in needs:
            known = self.client, self.mechanism, surrogate
            misfit = self.mechanism.misfit
            return WhiteBox(*known, server=server, labels=labels, pairwise=pairwise, misfit=misfit)
        asked = self.client if Need.QUERIES in needs else _withheld
        guarded = _oracle(asked), _oracle(self.mechanism), surrogate
        if server is None and labels is None and pairwise is None:
            return Knowledge(*guarded)
        server = server and _oracle(server)
        return Insider(*guarded, server=server, labels=labels, pairwise=pairwise)


def _withheld(given: Tensor) -> Tensor:
    raise UsageError("the attack may not query the client: queries are not among its needs")


def _oracle(part: Part) -> Callable[..., Tensor]:
    """Answers, and nothing of how they came about."""

    @torch.no_grad()
    def ask(*given: Tensor) -> Tensor:
        return part(*(each.detach() for each in given))

    return ask


def _settled(module: nn.Module) -> None:
    """Put a module to evaluation, freeze it, and bring it to where computations are made."""
    module.eval().requires_grad_(False).to(device())
    # Images last in memory: convolutions of float32 are about twice as fast on a CPU.
    with contextlib.suppress(RuntimeError):  # there is no such order of volumes
        module.to(memory_format=torch.channels_last)


def _copied(part: Part) -> Part:
    if isinstance(part, nn.Module):
        part = copy.deepcopy(part)
        _settled(part)
    return part


def _in_float32(
    client: Client, server: Server | None, kind: torch.dtype
) -> tuple[Client, Server | None]:
    """Halves that hand on float32, whatever they compute in."""

    def sent(images: Inputs) -> Activation:
        return client(images).float()

    def answered(smashed: Smashed) -> Logits:
        assert server is not None
        return server(smashed.to(kind)).float()

    return sent, None if server is None else answered


class _Called(DefenceModule):
    """Anyone's function on the wire."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, activation: Activation) -> Smashed:
        return self.step(activation)


def _wire(mechanism: DefenceModule | Step | None) -> DefenceList:
    if mechanism is None:
        return DefenceList()
    if isinstance(mechanism, DefenceList):
        return _copied(mechanism)
    defence = mechanism if isinstance(mechanism, DefenceModule) else _Called(mechanism)
    return DefenceList([_copied(defence)])


def _split(client: Client, cut: str) -> tuple[Client, Server | None]:
    """What ends with the layer called `cut`, and what follows it where the layers are a sequence."""
    layers = dict(client.named_modules()) if isinstance(client, nn.Module) else {}
    if cut not in layers:
        raise UsageError(f"the client has no layer {cut!r}; choose from {[*layers][1:] or 'none'}")
    assert isinstance(client, nn.Module)
    if isinstance(client, nn.Sequential) and cut in dict(client.named_children()):
        names = [name for name, _ in client.named_children()]
        behind = names.index(cut) + 1
        parts = [
            OrderedDict(list(client.named_children())[s])
            for s in (slice(behind), slice(behind, None))
        ]
        return nn.Sequential(parts[0]), nn.Sequential(parts[1]) if parts[1] else None
    whole, seen = client, []
    layers[cut].register_forward_hook(lambda layer, given, output: seen.append(output))

    def halfway(images: Inputs) -> Activation:
        whole(images)
        activation = seen.pop()
        seen.clear()
        return activation

    return halfway, None
