"""Results in JSON's words."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any


def json_text(value: Any) -> str:
    """One JSON document, as every command prints it with --json."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """A value in JSON's words. JSON has no nan or infinity: they become null."""
    if isinstance(value, Decimal):  # how DuckDB answers sums of integers
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Iterable) and not hasattr(value, "__array__"):
        return [plain(inner) for inner in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)
