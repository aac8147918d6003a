"""A value against an annotation: what is accepted, and the words for what would have been."""

import dataclasses
import math
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le

from offon.recipe.values import NotAllowed, checked, described


@dataclasses.dataclass
class Fade:
    start: float
    end: float


@pytest.mark.parametrize(
    ("annotation", "value", "result"),
    [
        (int, 3, 3), (int, "3", 3), (float, 1, 1.0), (float, "1e-5", 1e-5), (bool, True, True), (str, "a", "a"),
        (tuple[float, float], [0.2, "0.3"], (0.2, 0.3)), (float | None, None, None), (Literal["a", "b"], "b", "b"),
        (Any, {"x": True}, {"x": True}), (dict[str, int], {"a": 1}, {"a": 1}),
        (float | Fade, {"start": 1, "end": 0}, Fade(1.0, 0.0)),
    ],
)  # fmt: skip
def test_accepts(annotation, value, result):
    assert checked(annotation, value) == result


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, True), (int, 2.5), (int, "two"), (float, True), (float, math.nan), (float, math.inf), (float, "nan"),
        (bool, "yes"), (bool, 1), (bool, "true"), (str, 3), (str, True), (tuple[float, float], [0.2]),
        (tuple[float, float], [0.2, True]), (Literal["a"], "b"), (dict[str, int], {"a": False}),
        (Annotated[float, Gt(0), Le(1)], 0), (Annotated[float, Gt(0), Le(1)], 5), (Annotated[int, Ge(1)] | None, 0),
    ],
)  # fmt: skip
def test_refuses(annotation, value):
    with pytest.raises(NotAllowed):
        checked(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[int, Ge(1)], "a whole number >= 1"),
        (Annotated[float, Gt(0), Le(1)], "a number > 0 and <= 1"),
        (Annotated[int, Ge(1)] | None, "a whole number >= 1, or null"),
        (Literal["constant", "linear"], "one of constant, linear"),
        (tuple[float, float], "a list of 2 values, each a number"),
        (float | Fade, "a number, or a mapping of start, end"),
    ],
)
def test_says_what_is_allowed(annotation, words):
    assert described(annotation) == words
