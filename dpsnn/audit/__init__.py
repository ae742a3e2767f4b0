"""Audit a model of anyone's: what leaks at each cut, what is guaranteed, and whether the audit can be believed.

`dpsnn.audit(model, data)` does so; the package is a function as well, lest one hide the other. Nothing is imported
before that is asked for.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *given: Any, **more: Any) -> Any:
        """`dpsnn.audit.run.audit`."""
        from dpsnn.audit.run import audit

        return audit(*given, **more)


sys.modules[__name__].__class__ = _Callable
