"""Files whose content somebody changed and sealed again: damage that no digest shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpsnn import sealed


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Let `edit` alter the content of a checkpoint or progress file in place, and seal it anew."""
    content, _ = sealed.read(path, "a file", "")
    edit(content)
    sealed.write(path, content)
    return path


def as_format_1(
    path: Path, edit: Callable[[dict[str, Any]], object] = lambda content: None
) -> Path:
    """Make of a checkpoint what an earlier version would have written: without a digest."""
    content, _ = sealed.read(path, "a file", "")
    content["format"] = 1
    edit(content)
    torch.save(content, path)
    return path
