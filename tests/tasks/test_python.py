"""A reward function may do anything; a verdict is a finite number or None with the reason."""

from pathlib import Path

import pytest

from offon.errors import ConfigError, EngineError
from offon.tasks import open_task
from offon.tasks.api import call_once, require_some
from offon.types import Verdict

pytestmark = pytest.mark.slow

REWARDS = Path(__file__).with_name("rewards.py")
ROWS = [{"prompt": "a?", "answer": "a"}, {"prompt": "b?", "answer": "b"}]


def task(name, rows=ROWS, **options):
    return open_task({"python": f"{REWARDS}:{name}", "data": rows, "heldout": 0, **options})


def verify(name, texts, **options):
    opened = task(name, **options)
    item = opened.items("train")[0]
    return opened.verify([(item, text) for text in texts])


def test_rewards_come_back_in_order():
    assert [verdict.score for verdict in verify("length", ["", "ab", "abc"])] == [0, 2, 3]


def test_a_function_gets_the_columns_it_takes_by_name():
    opened = task("uses_columns", rows=[{**row, "level": 3} for row in ROWS])
    first, second = opened.items("train")
    assert [v.score for v in opened.verify([(first, "a"), (second, "a"), (second, "b")])] == [1, 0, 1]


def test_prompts_and_completions_are_messages_where_the_prompt_is():
    assert verify("shape", ["x"])[0].score == 0
    assert verify("shape", ["x"], form="chat")[0].score == 1


def test_the_function_is_called_with_the_whole_batch():
    assert [verdict.score for verdict in verify("batch_size", ["x"] * 5)] == [5] * 5
    assert verify("batch_size", []) == []


def test_what_is_not_a_finite_number_is_unscored_never_zero():
    verdicts = verify("odd", ["nan", "inf", "none", "text", "numpy", "true"])
    assert [verdict.score for verdict in verdicts] == [None, None, None, None, 0.5, 1.0]
    assert all(verdict.reason for verdict in verdicts[:4])


@pytest.mark.parametrize(
    "bad, reason", [("raise", "ValueError: cannot read this"), ("hang", "killed after 1 s"), ("crash", "exit status 3")]
)
def test_a_bad_completion_costs_only_its_own_verdict(bad, reason):
    fine, failed, also = verify("fragile", ["ok", bad, "ok"], limit_s=1.0)
    assert (fine.score, failed.score, also.score) == (1, None, 1)
    assert reason in failed.reason


def test_a_result_of_another_length_leaves_the_batch_unscored():
    verdicts = verify("short", ["a", "b"])
    assert [verdict.score for verdict in verdicts] == [None, None]
    assert verdicts[0].reason == "the function returned 1 rewards for 2 completions"


def test_a_function_that_is_down_is_not_called_for_ever():
    verdicts = verify("down", ["x"] * 6)
    assert [verdict.score for verdict in verdicts] == [None] * 6
    assert verdicts[0].reason == "ConnectionError: no server"
    assert verdicts[5].reason == "not checked: 3 calls in a row failed"


@pytest.mark.parametrize("function", ["no_such_module:f", f"{REWARDS}:absent", "absent.py:f"])
def test_a_function_that_cannot_be_loaded_is_a_config_error_when_the_task_is_opened(function):
    with pytest.raises(ConfigError, match="the checker does not start"):
        open_task({"python": function, "data": ROWS})


def test_a_module_in_the_working_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def always(prompts, completions, **columns): return [1] * len(prompts)")
    monkeypatch.chdir(tmp_path)
    opened = open_task({"python": "my_rewards:always", "data": ROWS, "heldout": 0})
    assert opened.verify([(opened.items("train")[0], "x")])[0].score == 1


def test_a_function_may_say_what_the_content_was_and_an_answer_says_it_otherwise():
    """The rows' answer is "a": mentioned in the last part, or not; the function's own word comes first."""
    found = verify("with_content", ["both", "score", "so it is a", "b", "odd", "missing", "none"])
    assert [(verdict.score, verdict.content) for verdict in found] == [
        (0.5, 1),
        (0, 0),
        (0, 1),
        (0, 0),
        (None, None),
        (None, None),
        (None, None),
    ]
    assert "a mapping with score, colour" in found[4].reason and found[6].reason == "mine"
    alone = task("length", rows=[{"prompt": "p"}])  # no answer to look for
    assert alone.verify([(alone.items("train")[0], "a")])[0].content is None


@pytest.mark.parametrize("name", ["nothing", "one_number", "one_mapping"])
def test_what_is_no_list_of_rewards_leaves_the_batch_unscored(name):
    verdicts = verify(name, ["x", "y"])
    assert [verdict.score for verdict in verdicts] == [None, None]
    assert "in place of a list of rewards" in verdicts[0].reason


def test_a_checker_is_called_once_by_a_check_and_may_abstain():
    call_once(task("length"))
    call_once(task("abstains"))
    for name, why in [("down", "no server"), ("nothing", "NoneType"), ("short", "1 rewards for 2")]:
        with pytest.raises(ConfigError, match="fails on a row of its data") as caught:
            call_once(task(name))
        assert why in str(caught.value)


def test_nothing_scored_at_all_stops_and_a_partial_failure_does_not():
    require_some([], "rl")
    require_some([Verdict(None, reason="x"), Verdict(0.0)], "rl")
    with pytest.raises(EngineError, match="scored none of 2 responses") as caught:
        require_some([Verdict(None, reason="TypeError: odd"), Verdict(None)], "rl")
    assert "TypeError: odd" in str(caught.value) and caught.value.exit_code == 7


def test_a_function_gets_by_name_what_else_it_needs_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "keyed.py").write_text(
        "import os\ndef reward(prompts, completions): return [float('JUDGE_KEY' in os.environ)] * len(prompts)"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_KEY", "secret")
    spec = {"python": "./keyed.py:reward", "data": ROWS, "heldout": 0}
    scores = []
    for extra in ({}, {"environment": ["JUDGE_KEY"]}):
        opened = open_task(spec | extra)
        scores.append(opened.verify([(opened.items("train")[0], "x")])[0].score)
    assert scores == [0, 1]
    with pytest.raises(ConfigError, match="NOT_THERE not set"):
        open_task(spec | {"environment": ["NOT_THERE"]})
    with pytest.raises(ConfigError, match="a list of names"):
        open_task(spec | {"environment": "JUDGE_KEY"})
