"""Where a process begins: signals are watched before anything that takes time is imported."""

from typing import NoReturn

from dpsnn import signals


def script(*words: str) -> NoReturn:
    """Be the command `words`, followed by what the command line says."""
    signals.watch()
    from dpsnn import cli

    cli.run(*words)
