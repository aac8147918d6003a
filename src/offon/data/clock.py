"""The date that chat templates write: that on which a run began, for as long as it goes on."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def template_clock(began: str) -> Iterator[None]:
    """Within it a template's `strftime_now` tells this time (ISO 8601), so that a resumed run writes the same prompts.

    transformers gives templates a function that asks the clock of its own module, and turns what a caller hands over in
    its place into text; so the clock is what is replaced.
    """
    from transformers.utils import chat_template_utils

    start = datetime.datetime.fromisoformat(began)

    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return start.astimezone(tz) if tz else start

    running, chat_template_utils.datetime = chat_template_utils.datetime, Stopped
    try:
        yield
    finally:
        chat_template_utils.datetime = running
