"""What a person sees: one live line on a terminal, a plain line every few seconds elsewhere, words always."""

import io

import pytest

from offon.cli.progress import Progress, brief, duration


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def shown():
    """(make progress, clock, what was written)"""
    clock, stream = Clock(), io.StringIO()
    return (lambda **options: Progress(stream, clock=clock, **options)), clock, stream


def step(k, tokens=0, **more):
    return {"node": "rl", "step": k, "steps": 100, "loss/total": 0.5, "reward": 0.25, "num_tokens": tokens, **more}


def test_a_line_says_where_how_well_how_fast_and_how_long(shown):
    make, clock, stream = shown
    progress = make(live=False)
    progress(step(1, 1000))
    clock.now = 20.0
    progress(step(11, 51000))
    assert stream.getvalue().splitlines()[-1] == "rl   11/100  loss 0.5  reward 0.25  2.5k tokens/s  2m58s left"


def test_without_a_terminal_a_line_every_few_seconds_and_the_last_step_always(shown):
    make, clock, stream = shown
    progress = make(live=False)
    for k in range(1, 101):
        clock.now = k * 0.1
        progress(step(k))
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", "51/100", "100/100"]
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_on_a_terminal_one_line_is_rewritten_and_kept_when_the_node_is_done(shown, monkeypatch):
    make, clock, stream = shown
    progress = make(live=True)
    for k in (1, 50, 100):
        clock.now += 1
        progress(step(k))
    assert stream.getvalue().count("\r") == 3 and stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("\n")


def test_on_a_terminal_a_long_line_is_cut_to_one_row(shown, monkeypatch):
    make, _, stream = shown
    monkeypatch.setenv("COLUMNS", "20")
    make(live=True)(step(1))
    assert len(stream.getvalue().removeprefix("\r").removesuffix("\x1b[K")) == 19


def test_a_resumed_node_is_timed_from_where_it_resumed(shown):
    make, clock, stream = shown
    progress = make(live=False)
    progress(step(90, 9_000_000))
    clock.now = 10.0
    progress(step(95, 9_000_100))
    assert stream.getvalue().splitlines()[-1].endswith("10 tokens/s  10s left")


def test_sampling_within_a_step_and_outside_any_is_shown(shown):
    make, clock, stream = shown
    progress = make(live=False)
    progress({"node": "probe base", "task": "sums", "generated": (3, 9)})
    progress({"node": "rl", "step": 0, "steps": 5, "generated": (1, 4)})
    clock.now = 60
    progress({"node": "rl", "step": 5, "steps": 5, "generated": (4, 4)})
    assert stream.getvalue().splitlines() == [
        "probe base  sums  sampled 3/9",
        "rl  0/5  sampled 1/4",
        "rl  5/5  sampled 4/4",
    ]


def test_notes_stay_also_when_quiet_and_never_share_a_line(shown):
    make, _, stream = shown
    progress = make(live=True)
    progress(step(1))
    progress({"note": "92% of groups are all-fail"})
    assert stream.getvalue().split("\n")[1] == "92% of groups are all-fail"
    quiet_stream = io.StringIO()
    quiet = Progress(quiet_stream, quiet=True, live=False)
    quiet(step(1))
    quiet({"note": "kept"})
    quiet.close()
    assert quiet_stream.getvalue() == "kept\n"


@pytest.mark.parametrize(("number", "text"), [(9, "9"), (950, "950"), (1234, "1.2k"), (3.4e6, "3.4M"), (2e9, "2.0G")])
def test_brief(number, text):
    assert brief(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59, "59s"), (185, "3m05s"), (7800, "2h10m")])
def test_duration(seconds, text):
    assert duration(seconds) == text
