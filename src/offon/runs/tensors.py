"""Nested state (optimizer, EMA, trackers) as safetensors + JSON: exact, and nothing is ever unpickled.

`path.safetensors` holds the tensors under numbers; `path.json` the tree, where a tensor is its number. Dicts are
stored as lists of pairs, so that integer keys stay integers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offon.errors import NumericsError, StorageError
from offon.runs import atomic

if TYPE_CHECKING:
    from torch import Tensor


def save(tree: Any, path: Path, *, finite: bool = False) -> None:
    """Write a tree of dicts (text or integer keys), lists, tuples, tensors and plain values.

    `finite`: refuse (NumericsError) a tensor that holds NaN or infinity, by its place in the tree.
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}

    def describe(value: Any, place: str) -> Any:
        if isinstance(value, torch.Tensor):
            if finite and value.is_floating_point() and not torch.isfinite(value).all():
                raise _nonfinite(place, value)
            name = str(len(tensors))
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()  # copies: shared storage is not a tree
            return {"tensor": name}
        if isinstance(value, dict):
            if wrong := [key for key in value if type(key) not in (str, int)]:
                raise TypeError(f"{place or 'the tree'} has keys that are neither text nor integers: {wrong[:3]}")
            return {
                "dict": [
                    [key, describe(inner, f"{place}.{key}" if place else str(key))] for key, inner in value.items()
                ]
            }
        if isinstance(value, (list, tuple)):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [describe(inner, f"{place}[{i}]") for i, inner in enumerate(value)]}
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise TypeError(f"{place or 'the tree'} is a {type(value).__name__}, which is not stored")

    description = json.dumps(describe(tree, ""))
    path = Path(path)
    atomic.write_with(path.with_name(path.name + ".safetensors"), lambda temporary: save_file(tensors, temporary))
    atomic.write_text(path.with_name(path.name + ".json"), description)


def load(path: Path, device: Any = "cpu") -> Any:
    """The tree that `save` wrote."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        tensors = load_file(path.with_name(path.name + ".safetensors"), device=str(device))
        description = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise StorageError(f"{path.name} cannot be read", where=str(path), why=str(error)) from error

    def build(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "dict":
            return {key: build(inner) for key, inner in content}
        return (tuple if kind == "tuple" else list)(build(inner) for inner in content)

    return build(description)


def refuse_nonfinite(directory: Path) -> None:
    """Raise NumericsError if any safetensors file below `directory` holds NaN or infinity: it must not be committed."""
    import torch
    from safetensors import safe_open

    for path in sorted(directory.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise _nonfinite(f"{path.relative_to(directory)}: {name}", tensor)


def _nonfinite(place: str, tensor: Tensor) -> NumericsError:
    import torch

    finite = torch.isfinite(tensor)
    return NumericsError(
        "a tensor to be saved is not finite",
        where=place,
        why=f"{int((~finite).sum())} of {tensor.numel()} values of shape {list(tensor.shape)} are NaN or infinite",
        kept="the checkpoints saved before",
    )
