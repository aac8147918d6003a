"""Hashes of what Python objects hold: the weights of a model, the rows of a data set, the code of a function.

A hash is 16 hex digits of SHA-256 and depends on content alone: not on where an object lies in memory, which file it
was loaded from, or how its source is formatted.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offon.errors import DataError, ModelError

# What saving, loading from another folder or another version of transformers change, and no computation reads.
_PLACES = (
    "architectures",
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "is_local",
    "local_files_only",
    "_commit_hash",
)
_TOKENIZER_STATE = ("padding", "truncation")  # of tokenizer.json: what its last call asked for


def hashed(*texts: str) -> str:
    total = hashlib.sha256()
    for text in texts:
        total.update(f"{len(text)} {text}".encode())
    return total.hexdigest()[:16]


def of_values(value: Any) -> str:
    """Plain values, in one spelling."""
    return hashed(json.dumps(value, sort_keys=True, ensure_ascii=False, default=plainly))


def plainly(value: Any) -> Any:
    """What JSON does not know, in words that say its content; anything that has no such words is a TypeError."""
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return value.tolist()
    if isinstance(value, bytes | bytearray):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Path | decimal.Decimal | enum.Enum | complex | range | slice):
        return f"{type(value).__name__} {value}"
    if isinstance(value, re.Pattern):
        return ["re", value.pattern, value.flags]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(item, default=plainly) for item in value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__}")


def of_rows(rows: Any) -> str:
    """The rows of a data set, in their order."""
    total = hashlib.sha256()
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"row {index} is a {type(row).__name__}", why="a row is a mapping of columns to values")
        try:
            line = json.dumps(dict(row), sort_keys=True, ensure_ascii=False, default=plainly)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"row {index} cannot be told from others",
                why=f"it holds {error}",
                fix="take that column out, or write the data to a file and name that",
            ) from error
        total.update(f"{len(line)} {line}".encode())
    return total.hexdigest()[:16]


def of_weights(model: Any) -> str:
    """Names, shapes, types and bits of every tensor of a model's state."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            raise ModelError(f"{name} is on the meta device", why="it has no values", fix="load the model with weights")
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def of_configuration(model: Any) -> str:
    """What a model's class and configurations say of how it computes and when it stops."""
    parts = [type(model).__name__, model.config.to_dict()]
    parts += [one.to_dict() for one in [getattr(model, "generation_config", None)] if one is not None]
    return of_values(_without(parts, _PLACES))


def of_tokenizer(tokenizer: Any) -> str:
    """The files a tokenizer is saved as, chat template included."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return hashed(*(f"{path.relative_to(folder)} {_tokenizer_file(path)}" for path in files))


def _tokenizer_file(path: Path) -> str:
    if path.suffix != ".json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    content = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "tokenizer.json":
        content = {key: value for key, value in content.items() if key not in _TOKENIZER_STATE}
    else:
        content = _without(content, _PLACES)
    return of_values(content)


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without(inner, names) for key, inner in value.items() if key not in names}
    return [_without(inner, names) for inner in value] if isinstance(value, list) else value
