"""A client's process: connects to the server as Flower's SuperNode does, and stays warm.

Flower's own `flower-supernode` starts a new Python, with torch and all, for each message, and looks for messages every
three seconds: a secure round has four exchanges and would take minutes. This process speaks the same protocol through
Flower's own connection, but calls the ClientApp itself. `flower-supernode` works with the same ClientApp.
"""

import argparse
import sys
import time
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supernode.fleet_http_connection import http_request_response

from dpsnn.orphans import end_with

POLL = 0.1
"""Seconds between two looks for messages."""


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """The app's reply; what it raises becomes an error that the server is told."""
    try:
        return app(message, context)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return Message(Error(code=1, reason=f"{type(error).__name__}: {error}"), reply_to=message)


def serve(app: ClientApp, superlink: str, config: dict[str, Any]) -> None:
    """Answer messages, one after another, until the process is ended.

    Args:
        app: What trains.
        superlink: `host:port` of the server.
        config: The client's own settings, which its app finds in the context.
    """
    contexts: dict[int, Context] = {}
    with http_request_response(superlink, insecure=True, max_retries=5) as connection:
        node, receive, send, _, _, pull_object, push_object, confirm = connection
        print(f"connected to {superlink}", flush=True)
        while True:
            received = receive()
            if received is None:
                time.sleep(POLL)
                continue
            head, tree = received
            run = head.metadata.run_id
            message = pull_and_inflate_object_from_tree(
                tree,
                lambda name: pull_object(run, name),
                lambda name: confirm(run, name),
                return_type=Message,
            )
            message.metadata.__dict__["_message_id"] = tree.object_id
            context = contexts.setdefault(run, Context(run, node, config, RecordDict(), {}))
            start = time.monotonic()
            reply = answer(app, message, context)
            print(
                f"round {head.metadata.group_id}: {time.monotonic() - start:.2f} s"
                f"{' (an error)' if reply.has_error() else ''}",
                flush=True,
            )
            reply.metadata.__dict__["_message_id"] = reply.object_id
            with no_object_id_recompute():
                missing, session = send(reply, get_object_tree(reply), time.monotonic() - start)
                push_objects(
                    get_all_nested_objects(reply),
                    lambda name, content: push_object(run, session, name, content),
                    object_ids_to_push=missing,
                )


def main() -> None:
    """`python -m dpsnn.federated.node`, as `dpsnn federated` starts it for each client."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--superlink", required=True)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--partition", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    end_with(options.parent)
    from dpsnn.federated.client import app
    from dpsnn.memory import keep_memory

    keep_memory()
    serve(app, options.superlink, {"settings": options.settings, "partition": options.partition})


if __name__ == "__main__":
    main()
