"""torch, imported when something is first computed with it.

Declarations (types, parts, methods) and the maths beside them are all that a recipe needs to be read and checked, and
importing torch takes longer than that. They import it from here; what computes anyway (models, engines, loops) imports
torch itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:

    class _Later:
        """A module that is imported when the first of its names is asked for."""

        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, name: str) -> Any:
            value = getattr(importlib.import_module(self._name), name)
            setattr(self, name, value)
            return value

    torch, F = _Later("torch"), _Later("torch.nn.functional")
    Tensor = "torch.Tensor"  # stands in annotations only

__all__ = ["F", "Tensor", "torch"]
