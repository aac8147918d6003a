"""What every page shares: one HTML file that needs no server, no network and no script.

Model text is untrusted: templates escape everything, the page forbids loading anything, and the only script element
holds JSON.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from offon.reporting import words

HERE = Path(__file__).parent


def document(template: str, values: Mapping[str, Any], data: Any) -> str:
    """The page of a template, with `data`, the numbers it was made from, as JSON inside."""
    style = "\n".join(path.read_text(encoding="utf-8") for path in (HERE / "base.css", *sorted(HERE.glob("*/*.css"))))
    shared = {"style": Markup(style), "data": json_block(data)}  # our own files, not model text
    return _templates().get_template(template).render({**values, **shared})


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE / "templates", HERE / "blocks"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "percent_range": words.percent_range,
        "points_of": lambda est: words.points(est["estimate"]),
        "points_range": words.points_range,
        "written": words.written,
        "interval": words.interval,
        "nothing": words.is_nothing,
        "signed": lambda est, sign: est if sign > 0 else words.negated(est),
        "compact": words.compact,
        "duration": words.duration,
        "short": words.short,
        "tries": words.k_to_solve,
        "sentence": as_sentence,
        "full_stop": full_stop,
        "moment": moment,
        "fit": words.cut,
    }
    environment.globals["call_words"] = words.CALLS
    return environment


def json_block(value: Any) -> Markup:
    """JSON that cannot end its script element or open another one, whatever text it holds."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _finite(value: Any) -> Any:
    """JSON has no infinity: an end of an interval that nothing bounds becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def full_stop(text: str) -> str:
    text = text.strip()
    return text + ("" if text[-1:] in ".!?" else ".")


def as_sentence(text: str) -> str:
    text = full_stop(text)
    return text[:1].upper() + text[1:]


def moment(text: str) -> str:
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{parsed:%-d %B %Y, %H:%M} {parsed.tzname() or ''}".strip()
