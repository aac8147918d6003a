"""What kind of Python object something is, without importing the library it would come from."""

from __future__ import annotations

import sys
from typing import Any


def _is(value: Any, module: str, *names: str) -> bool:
    """Whether it is of one of these classes. Of a library that nobody imported nobody has an object."""
    imported = sys.modules.get(module)
    classes = tuple(getattr(imported, name) for name in names if hasattr(imported, name)) if imported else ()
    return isinstance(value, classes)


def is_model(value: Any) -> bool:
    return _is(value, "torch.nn", "Module")


def is_of_transformers(value: Any) -> bool:
    return _is(value, "transformers", "PreTrainedModel")


def is_adapted(value: Any) -> bool:
    return _is(value, "peft", "PeftModel")


def is_tokenizer(value: Any) -> bool:
    return _is(value, "transformers", "PreTrainedTokenizerBase")


def is_dataset(value: Any) -> bool:
    return _is(value, "datasets", "Dataset", "IterableDataset")


def is_splits(value: Any) -> bool:
    """Several data sets by the name of their split."""
    return _is(value, "datasets", "DatasetDict", "IterableDatasetDict")


def is_task(value: Any) -> bool:
    return hasattr(value, "items") and hasattr(value, "verify") and not isinstance(value, type)
