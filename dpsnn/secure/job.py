"""A request of which a worker has its share, and what came of it."""

import threading
from typing import Any, NamedTuple

from dpsnn.secure.config import Seconds
from dpsnn.secure.engine import Model, digest


class Answer(NamedTuple):
    """A message to whom asked."""

    kind: str
    values: dict[str, Any]
    body: bytes = b""


class Job:
    """A request; the first answer to it counts."""

    def __init__(self, id: str, model: Model, batch: int, body: bytes) -> None:
        self.id = id
        self.model = model
        """To take, or to compute with."""
        self.batch = batch
        """Of a query; 0 where a model is shared."""
        self.body = body
        self._answer: Answer | None = None
        self._answered = threading.Event()

    @property
    def digest(self) -> str:
        """Equal at all workers if they were told the same."""
        return digest(self.model, self.batch)

    @property
    def is_answered(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._answered.is_set()

    def answer(self, kind: str, body: bytes = b"", **values: Any) -> None:
        if self._answer is None:
            self._answer = Answer(kind, values, body)
            self._answered.set()

    def wait(self, seconds: Seconds) -> Answer:
        """The answer, which is that it comes too late if there is none in time; the worker itself may be well."""
        if not self._answered.wait(seconds):
            self.answer("late", reason=f"not computed within {seconds:g} s")
        assert self._answer is not None
        return self._answer
