"""A chat template that never ends is refused by its model's name, within its limits."""

import pytest

from offon.data import turns
from offon.data.limits import overrun
from offon.data.render import Renderer
from offon.errors import ModelError
from tests.support import tokenizer

LOOP = "{% for i in range(99999) %}"
NESTED = LOOP * 3 + "{% endfor %}" * 3
PAIRS = "{% for b in messages %}{% for c in messages %}{% endfor %}{% endfor %}"
CUBIC = "{% for a in messages %}" + PAIRS + "{{ a.content }} {% endfor %}"


def rendering(template):
    made = tokenizer()
    made.chat_template = template
    return Renderer(made)


@pytest.mark.fault("F52")
def test_endless_loops_and_endless_text_are_refused(monkeypatch):
    monkeypatch.setattr(turns, "overrun", lambda call: overrun(call, limit_s=0.3))
    with pytest.raises(ModelError, match=r"more than 0.3 s") as caught:
        rendering(NESTED).prompt([{"role": "user", "content": "w1"}])
    assert caught.value.exit_code == 4
    with pytest.raises(ModelError, match=r"more than 1 GiB"):
        rendering("{{ 'a' * 3000000000 }}").prompt([{"role": "user", "content": "w1"}])


@pytest.mark.fault("F52")
def test_a_template_whose_cost_outgrows_the_conversation_is_noticed_at_the_length_where_it_does(monkeypatch):
    monkeypatch.setattr(turns, "overrun", lambda call: overrun(call, limit_s=0.3))
    render = rendering(CUBIC)
    few, many = ([{"role": "user", "content": "w1"}] * n for n in (3, 600))
    assert render.prompt(few)
    with pytest.raises(ModelError, match="for 600 messages"):
        render.prompt(many)


def test_what_a_call_raises_is_no_overrun_and_nothing_of_it_stays():
    seen = []
    assert overrun(lambda: seen.append(1)) == ""
    assert overrun(lambda: 1 / 0) == ""
    assert seen == []


def test_equal_sizes_are_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(turns, "overrun", lambda call: tried.append(1) or "")
    render = rendering("{% for m in messages %}{{ m.content }} {% endfor %}")
    for _ in range(5):
        render.prompt([{"role": "user", "content": "w1 w2"}])
    before = len(tried)
    render.prompt([{"role": "user", "content": "w1 w3"}])
    assert len(tried) == before > 0
