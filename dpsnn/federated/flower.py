"""A command of Flower's, such as `flower-superlink`, as a process that ends with the one that started the run."""

import sys
from importlib.metadata import entry_points

from dpsnn.orphans import end_with


def main() -> None:
    """`python -m dpsnn.federated.flower PARENT COMMAND ...`: what follows are the options of the command."""
    end_with(int(sys.argv[1]))
    del sys.argv[:2]
    (command,) = entry_points(group="console_scripts", name=sys.argv[0])
    command.load()()


if __name__ == "__main__":
    main()
