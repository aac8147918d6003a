"""Views written from what a group knows, and a second stream of data."""

from __future__ import annotations

import pytest

from offon.collect import drawn_from, shown, sibling_shown
from offon.collect.shape.views import around
from offon.data.render import Renderer
from offon.errors import ConfigError, DataError
from offon.parts.context import Context, Step
from offon.types import Item, Source, Trajectory
from tests.support import ParityTask, demonstrations, prompt_group, tokenizer

STEP = Step(0, 10, 0, "node", render=Renderer(tokenizer()))
CONTEXT = Context(None, None, None, STEP)


def groups():
    return [prompt_group(item).replace(draw=draw) for draw, item in enumerate(ParityTask().items("train"))]


def words(prefix) -> str:
    return tokenizer().decode(prefix)


def test_a_template_is_filled_from_the_item_and_never_from_what_it_is_filled_with():
    item = Item(id="a", prompt="1 + {answer}?", columns={"answer": 2}, reference="two")
    assert around("{prompt} {answer} {reference} {more}", item, more="{prompt}") == "1 + {answer}? 2 two {prompt}"


def test_of_a_conversation_the_last_message_is_rewritten():
    chat = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "1 + 1?"})
    system, user = around("Two. {prompt}", Item(id="a", prompt=chat))
    assert (system, user) == (chat[0], {"role": "user", "content": "Two. 1 + 1?"})


def test_shown_keeps_the_items_own_view_and_writes_one_where_there_is_none():
    own = shown("hint", "w0 {prompt}")(CONTEXT, groups())
    assert all(group.views["hint"] == before.views["hint"] for group, before in zip(own, groups(), strict=True))
    written = shown("told", "{prompt} {reference}")(CONTEXT, groups())
    assert all(words(g.views["told"]) == f"{g.item.prompt} {g.item.reference}" for g in written)
    assert all(g.views["prompt"] == before.views["prompt"] for g, before in zip(written, groups(), strict=True))


def test_what_cannot_be_written_is_refused_with_the_item_and_what_could_be():
    with pytest.raises(DataError, match="solution") as refused:
        shown("told", "{prompt} {solution}").check(groups(), STEP.render)
    assert "reference" in str(refused.value) and groups()[0].item.id in str(refused.value)
    with pytest.raises(ConfigError, match="shows no sibling"):
        sibling_shown(template="{prompt}").check(groups(), STEP.render)


def test_a_template_in_words_that_the_tokenizer_has_not_is_refused_with_the_words():
    """Items that bring the view need no template; for the others it has to be said in the tokenizer's words."""
    template = "{prompt} (The answer is {reference}.)"
    shown("hint", template).check(groups(), STEP.render)
    with pytest.raises(DataError, match="cannot express it: .*The answer"):
        shown("told", template).check(groups(), STEP.render)


def test_a_sibling_that_cannot_stand_in_a_prompt_is_set_aside_with_the_reason():
    """w99 is no word of this tokenizer, as a control token is none of a prompt."""
    group = groups()[0]
    members = [
        Trajectory.of([3 + i, 1], group.prompt, Source.LEARNER, signals={"reward": r}, text=text, id=text)
        for i, (r, text) in enumerate([(1.0, "w99"), (0.0, "w2")])
    ]
    (told,) = sibling_shown(template="{prompt} {sibling}")(CONTEXT, [group.add(*members)])
    reasons = {member.id: reason for member, reason in told.dropped}
    assert not told.members
    assert reasons == {"w99": "no other member succeeded", "w2": "its sibling's text cannot be shown in a prompt"}


def test_a_second_stream_passes_over_all_of_its_data_and_takes_the_places_it_is_given():
    data = demonstrations()
    places = [groups()[0].replace(draw=draw) for draw in range(2 * len(data))]
    drawn = drawn_from(data)(CONTEXT, places)
    assert [group.draw for group in drawn] == [place.draw for place in places]
    for half in (drawn[: len(data)], drawn[len(data) :]):
        assert sorted(g.item.id for g in half) == sorted(g.item.id for g in data)
    assert len({m.id for g in drawn for m in g.members}) == len(drawn)
    assert [g.item.id for g in drawn_from(data)(CONTEXT, places)] == [g.item.id for g in drawn]
