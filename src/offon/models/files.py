"""The files of a model's directory, looked at as data before anything reads them: a ModelError by the file's name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from offon.errors import ModelError

WEIGHTS = "*.safetensors"
INDEX = "*.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
READ = ("config", "generation_config", "tokenizer", "tokenizer_config", "special_tokens_map", "adapter_config")
LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
ADAPTER = "adapter_config.json"


def require_whole(directory: Path) -> None:
    """Refuse a directory without a configuration or weights, with weights only as pickles, or with a file that is cut
    or is not what its name says. Weights are read up to their headers."""
    is_adapter = (directory / ADAPTER).is_file()
    if not is_adapter and not (directory / "config.json").is_file():
        inside = sorted(entry.name for entry in directory.iterdir())
        models = sorted({str(config.parent.relative_to(directory)) for config in directory.glob("*/config.json")})
        raise ModelError(
            "no config.json in the model directory",
            where=str(directory),
            why=f"it holds {', '.join(inside[:8])}" if inside else "it is empty",
            fix=f"perhaps {directory / models[-1]}" if models else "a directory written by save_pretrained",
        )
    for path in (*(directory / f"{name}.json" for name in READ), *directory.glob(INDEX)):
        if path.is_file():
            json_object(path)
    if not is_adapter and "AutoModelForCausalLM" in (json_object(directory / "config.json").get("auto_map") or {}):
        raise wants_own_code(str(directory))
    _require_weights(directory, "adapter_model.safetensors" if is_adapter else WEIGHTS)
    for path in directory.glob(INDEX):
        shards = json_object(path).get("weight_map")
        names = sorted(set(shards.values())) if isinstance(shards, dict) else []
        if missing := [name for name in names if not (directory / name).is_file()] or ([] if names else ["weight_map"]):
            raise ModelError(f"{path.name} names {missing[0]}, which is not there", where=str(directory), fix=COPY)


COPY = "copy the model again; the file is cut or damaged"


def _require_weights(directory: Path, pattern: str) -> None:
    weights = sorted(directory.glob(pattern))
    if not weights:
        pickled = sorted(entry.name for kind in PICKLES for entry in directory.glob(kind))
        raise ModelError(
            f"no weights ({pattern}) in the model directory",
            where=str(directory),
            why=f"{pickled[0]} is a pickle, which can run code when opened" if pickled else "there is only a config",
            fix="load it once with transformers and save_pretrained it" if pickled else "copy the weights as well",
        )
    for path in weights:
        tensors_of(path)


def tensors_of(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> {"dtype", "shape", "data_offsets"} of a safetensors file, from its header, which its size has to fit."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 0 < length <= min(LONGEST_HEADER, size - 8) else b""
    tensors = _parsed(path, header) if header else None
    if tensors is None:
        raise _damaged(path, f"its header would have {length} bytes, the file has {size}")
    tensors.pop("__metadata__", None)
    try:
        ends = [int(entry["data_offsets"][1]) for entry in tensors.values() if math.prod(entry["shape"]) >= 0]
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise _damaged(path, "its header does not say where its tensors are") from error
    if (needed := 8 + length + max(ends, default=0)) != size:
        raise _damaged(path, f"its header asks for {needed} bytes, the file has {size}")
    return tensors


def json_object(path: Path) -> dict[str, Any]:
    return _parsed(path, path.read_bytes())


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise _damaged(path, f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"it holds a {type(value).__name__} in place of an object")
    return value


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path.name} is damaged", where=str(path), why=why, fix=COPY)


def wants_own_code(source: str) -> ModelError:
    return ModelError(
        "the model wants to run code of its own",
        where=f"{source}/config.json: auto_map",
        why="offon runs only the model classes of the installed transformers",
        fix="if transformers has a class for this model_type, remove auto_map from a local copy's config.json",
    )
