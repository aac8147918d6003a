"""A chat template that writes the date writes that on which its run began."""

from __future__ import annotations

from offon.data.clock import template_clock
from offon.data.turns import Turns
from tests.support import tokenizer

DATED = "{{ strftime_now('%d %B %Y') }} {% for m in messages %}{{ m.content }}{% endfor %}"


def test_the_date_is_that_of_the_runs_start_however_late_it_goes_on():
    words = tokenizer()
    words.chat_template = DATED
    turns, hello = Turns(words), [{"role": "user", "content": "w1"}]
    today = turns.chat(hello, generation=False)
    with template_clock("2031-05-04T10:00:00+00:00"):
        assert turns.chat(hello, generation=False) == "04 May 2031 w1"
    assert turns.chat(hello, generation=False) == today != "04 May 2031 w1"


def test_templates_without_a_date_are_given_none():
    words = tokenizer()
    words.chat_template = "{{ strftime_now is defined }}|{% for m in messages %}{{ m.content }}{% endfor %}"
    words.chat_template = words.chat_template.replace("strftime_now is defined", "'-'")
    with template_clock("2031-05-04T10:00:00+00:00"):
        assert Turns(words).chat([{"role": "user", "content": "w1"}], generation=False) == "-|w1"
