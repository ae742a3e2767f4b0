"""The server's door to its clients: counts what passes, and does not wait for ever for who is gone."""

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.run import Run

from dpsnn.federated.spec import threshold
from dpsnn.tensors import Number

POLL = 0.1
"""Seconds between two looks for replies. Flower's own wait is 3 s, longer than most exchanges here take."""

PATIENCE = 4
"""Once enough clients have replied, the others have this many times as long in all, and GRACE seconds."""
GRACE = 10.0


def size(message: Message) -> int:
    """Bytes of a message's content as it is sent, without the protocol around it."""
    if not message.has_content():
        return 0
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


class PatientGrid(Grid):
    """A Grid of Flower with patience for stragglers, and a memory for who did not reply: they are asked no more.

    Args:
        grid: The one that does the work.
        timeout: Seconds after which an exchange ends in any case.

    Attributes:
        reasons: What clients said who could not do their part.
        sent, received: Bytes to and from the clients so far, without the protocol around them.
    """

    def __init__(self, grid: Grid, timeout: Number) -> None:
        self.grid = grid
        self.timeout = timeout
        self.lost: set[int] = set()
        self.reasons: list[str] = []
        self.sent = 0
        self.received = 0

    def set_run(self, run: Run) -> None:
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Clients that are connected and have not failed to reply."""
        return [node for node in self.grid.get_node_ids() if node not in self.lost]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send to each, and return the replies that came while it was worth waiting."""
        sent = list(messages)
        self.sent += sum(map(size, sent))
        start = time.monotonic()
        waiting = dict(zip(self.grid.push_messages(sent), [m.metadata.dst_node_id for m in sent]))
        end = start + min(float(self.timeout), timeout or float("inf"))
        replies: list[Any] = []
        while waiting and time.monotonic() < end:
            arrived = list(self.grid.pull_messages(list(waiting)))
            for reply in arrived:
                waiting.pop(reply.metadata.reply_to_message_id, None)
            if arrived and len(replies) < threshold(len(sent)) <= len(replies) + len(arrived):
                taken = time.monotonic() - start
                end = min(end, start + PATIENCE * taken + GRACE)
            replies += arrived
            if waiting and not arrived:
                time.sleep(POLL)
        self.lost |= set(waiting.values())
        for reply in replies:
            if reply.has_error():
                self.lost.add(reply.metadata.src_node_id)
                self.reasons.append(str(reply.error.reason))
        self.received += sum(map(size, replies))
        return replies
