"""Responses continued from any token: what was begun keeps its provenance; turns of others stand between."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from offon.collect import Asked, rollouts, sample
from offon.data import Renderer
from offon.parts.models import SELF
from offon.types import Sampling, Source, Span, Trajectory
from tests import support
from tests.collect.support import Sampler
from tests.collect.test_combinators import MODEL, TASK, prompts

CHAT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }} <eos> {% else %}w10 {{ m.content }} w11 "
    "{% endif %}{% endfor %}"
)


def renderer(chat: str | None = None) -> Renderer:
    ids: PreTrainedTokenizerFast = support.tokenizer()
    ids.chat_template = chat
    return Renderer(ids)


def test_a_member_continued_from_token_t_keeps_what_stood_before_it():
    sampler = Sampler(MODEL)
    [group] = rollouts(TASK, 1).given(sampling=Sampling(max_tokens=6))(sampler.context(), prompts(1))
    [whole] = group.members
    asked = Asked(group.prompt, Sampling(max_tokens=3), begun=whole.head(2))
    [group] = sample(sampler.context(), [(group, [asked])], SELF)
    continued = group.members[1]
    assert continued.tokens[:2].tolist() == whole.tokens[:2].tolist() and len(continued) <= 5
    assert continued.behavior_logp[:2].tolist() == whole.behavior_logp[:2].tolist()
    assert np.isfinite(continued.behavior_logp).all() and continued.id != whole.id
    assert sampler.calls[-1][0].seen == (*group.prompt, *whole.tokens[:2].tolist())


def test_tokens_of_others_have_no_log_prob_and_their_own_source():
    begun = Trajectory.of([2, 3], [4], Source.EXTERNAL, spans=(Span("turn", 0, 2, {"v": 1.0}),))
    whole = begun.then([5], Source.ENVIRONMENT).then([6, 7], Source.LEARNER, behavior_logp=[-1, -2], span="turn")
    assert whole.source.tolist() == [0, 0, 3, 2, 2]
    assert np.isnan(whole.behavior_logp).tolist() == [True, True, True, False, False]
    assert whole.last_turn.tolist() == [6, 7]
    assert [(s.start, s.end) for s in whole.spans] == [(0, 2), (3, 5)]
    cut = whole.head(4)
    assert cut.source.tolist() == [0, 0, 3, 2] and [(s.start, s.end) for s in cut.spans] == [(0, 2), (3, 4)]
    assert begun.head(1).spans == (Span("turn", 0, 1),), "what was said about the whole stretch is gone"


def test_a_turn_after_plain_text_is_its_content():
    ids = support.tokenizer()
    assert list(renderer().turn("w1 w2", [2, 1], "w3 w4")) == ids("w3 w4").input_ids


@pytest.mark.parametrize("said, ends", [("w1 <eos>", False), ("w1", True)], ids=["closed its turn", "was cut"])
def test_a_turn_of_a_chat_closes_the_response_once(said, ends):
    """The template writes <eos> after an assistant turn: it is added only where the response did not end itself."""
    ids = support.tokenizer()
    between = renderer(CHAT).turn([{"role": "user", "content": "w0"}], ids(said).input_ids, "w5")
    assert ids.decode(between) == ("<eos> " if ends else "") + "w10 w5 w11"


def test_a_turn_cannot_close_itself():
    """A model may have written it: control tokens in its content would become real turn boundaries."""
    assert 1 not in renderer().turn("w1", [2], "w3 <eos> w4")
