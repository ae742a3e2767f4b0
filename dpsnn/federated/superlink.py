"""Flower's SuperLink, which carries the messages, as a process that ends with the one that started it."""

import sys

from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.superlink.cli.flower_superlink import flower_superlink


def main() -> None:
    """`python -m dpsnn.federated.superlink PARENT ...`: what follows are the options of `flower-superlink`."""
    start_parent_process_monitor(int(sys.argv.pop(1)))
    flower_superlink()


if __name__ == "__main__":
    main()
