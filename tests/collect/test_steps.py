"""Cutting responses into steps."""

import pytest

from offon.collect import steps
from offon.collect.shape.steps import steps_of
from offon.data.render import Renderer
from offon.parts.context import Context, Step
from offon.types import Group, Item, Source, Span, Trajectory
from tests.support import tokenizer

CONTEXT = Context(None, None, None, Step(0, 1, 0, "node", render=Renderer(tokenizer())))


def spans(by, tokens, spans=()) -> list[tuple[int, int]]:
    member = Trajectory.of(tokens, [2], Source.LEARNER, spans=tuple(spans))
    group = Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=(member,))
    [cut] = steps(by)(CONTEXT, [group])
    return [(span.start, span.end) for span in steps_of(cut.members[0])]


@pytest.mark.parametrize(
    ("by", "tokens", "expected"),
    [
        (1, [4, 5, 1], [(0, 1), (1, 2), (2, 3)]),  # every token
        (2, [4, 5, 6, 7, 1], [(0, 2), (2, 4), (4, 5)]),
        (9, [4, 5, 1], [(0, 3)]),  # one step
        (2, [4, 5, 6, 1], [(0, 2), (2, 4)]),  # no empty step at the end
        ("w9", [4, 11, 5, 6, 11, 7, 1], [(0, 2), (2, 5), (5, 7)]),  # the separator closes its step
        ("w9", [4, 5, 11], [(0, 3)]),
        ("w9", [4, 5, 1], [(0, 3)]),  # a response without a separator is one step
        ("w4 w5", [4, 6, 7, 8, 1], [(0, 3), (3, 5)]),  # a separator of two tokens
        (1, [], []),
    ],
)
def test_steps_are_consecutive_and_cover_the_response(by, tokens, expected):
    assert spans(by, tokens) == expected


def test_cutting_again_replaces_steps_and_keeps_turns():
    member = Trajectory.of([4, 5, 1], [2], Source.LEARNER, spans=(Span("turn", 0, 3),))
    group = Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=(member,))
    [twice] = (steps(1) | steps(2))(CONTEXT, [group])
    spans = twice.members[0].spans
    assert [(s.name, s.start, s.end) for s in spans] == [("turn", 0, 3), ("step", 0, 2), ("step", 2, 3)]
