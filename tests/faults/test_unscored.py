"""A checker or judge that does not work ends the stage with exit 7 and its own words; what is unscored is named."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from offon.errors import EngineError
from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.tasks.api import scored
from offon.tasks.unscored import Unscored, in_words, is_too_many
from tests.faults.inject import project, status

HEAD = """
model: ./base
task: {python: "FOLDER/r.py:reward", data: FOLDER/task.jsonl, limit_s: 0.3}
probe: false
pipeline:
  rl: {method: grpo, group_size: 4, steps: 4, prompts_per_step: 4, max_tokens: 4MORE}
"""
HABITS = {
    "raises": ("raise ValueError('the grader is down')", "ValueError: the grader is down"),
    "abstains": ("return [None] * n", "the function returned None"),
    "is not a number": ("return [float('nan')] * n", "the function returned nan"),
    "minus infinity": ("return [float('-inf')] * n", "the function returned -inf"),
    "too large": ("return [1e300] * n", "beyond 1e+09"),
    "in words": ("return ['good'] * n", "the function returned a str"),
    "too short": ("return [1.0]", "returned 1 rewards for"),
    "hangs": ("import time; time.sleep(60)", "killed after 0.3 s"),
    "dies": ("import os; os._exit(3)", "its process died (exit status 3)"),
}
OFTEN = ("raises", "too large", "hangs")
WORKS_ON_A_DUMMY = "def reward(prompts, completions, **columns):\n    n = len(completions)\n"


@pytest.fixture
def run(tmp_path):
    def started(body: str, more: str = "", text: str = HEAD):
        project(tmp_path, text.replace("FOLDER", str(tmp_path)).replace("MORE", more))
        (tmp_path / "task.jsonl").write_text("".join(f'{{"prompt": "w{i} w{i}"}}\n' for i in range(12)))
        first = "    if completions[0] == 'I do not know.': return [0.0] * n\n"
        (tmp_path / "r.py").write_text(WORKS_ON_A_DUMMY + first + f"    {body}\n")
        return run_recipe(resolve(tmp_path / "r.yaml"), tmp_path / "run")

    return started


@pytest.mark.fault("F42", "F43", "F45")
@pytest.mark.parametrize(
    "habit", [habit if habit in OFTEN else pytest.param(habit, marks=pytest.mark.slow) for habit in HABITS]
)
def test_a_checker_that_fails_for_all_of_the_first_buffer_ends_the_stage_with_its_words(run, tmp_path, habit):
    body, words = HABITS[habit]
    with pytest.raises(EngineError, match="scored none of 16 responses") as error:
        run(body)
    assert error.value.exit_code == 7 and words in str(error.value)
    assert status(tmp_path / "run")["exit_code"] == 7 and words in status(tmp_path / "run")["error"]
    assert not list((tmp_path / "run").rglob("final"))


@pytest.mark.fault("F42")
def test_too_many_are_an_end_too_unless_the_recipe_allows_them(run, tmp_path):
    every_fifth = "return [None if i % 5 == 0 else float(i % 2) for i in range(n)]"
    with pytest.raises(
        EngineError, match=r"16 of the last 64 responses are unscored \(25%\), more than the 10%"
    ) as error:
        run(every_fifth)
    assert error.value.exit_code == 7 and "unscored: 0.3" in error.value.fix


@pytest.mark.fault("F42", "F43")
def test_what_is_allowed_is_named_on_the_console_in_the_status_and_in_the_report(run, tmp_path):
    run("return [float('inf') if i % 5 == 0 else float(i % 2) for i in range(n)]", ", unscored: 0.3")
    now = status(tmp_path / "run")
    assert now["state"] == "done"
    (warning,) = [w for w in now["warnings"] if "unscored" in w]
    assert warning.startswith("rl: 25% of responses are unscored: 16 x the function returned inf")
    assert "16 x the function returned inf" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.fault("F43")
def test_what_was_killed_at_the_limit_is_counted_and_named(run, tmp_path):
    """One completion hangs: the batch is killed, its pairs are tried one by one, and only that one stays unscored."""
    body = f"""import time, pathlib
    once = pathlib.Path({str(tmp_path / "once")!r})
    if 'w3 w3' in prompts and (n > 1 or not once.exists()):
        n == 1 and once.touch()
        time.sleep(9)
    return [float(i % 2) for i in range(n)]"""
    run(body)
    (warning,) = [w for w in status(tmp_path / "run")["warnings"] if "unscored" in w]
    assert (
        "1 x killed after 0.3 s" in warning and "killed after 0.3 s" in (tmp_path / "run" / "report.html").read_text()
    )


@pytest.fixture
def judge():
    """A server that answers as told: a function of the number of the question."""

    class Server(BaseHTTPRequestHandler):
        answers, asked = staticmethod(lambda n: "Score: 5"), 0

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            type(self).asked += 1
            answer = type(self).answers(type(self).asked)
            body = json.dumps({"choices": [{"message": {"content": answer}}]}).encode() if answer else b""
            self.send_response(200 if answer else 503)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_): ...

    class Here(Server): ...

    class Patient(ThreadingHTTPServer):
        request_queue_size = 64  # all questions come at once, on a machine that may be busy

    http = Patient(("127.0.0.1", 0), Here)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    Here.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield Here
    http.shutdown()


def judged(url: str, retries: int = 0) -> str:
    return f", with: [{{judge: {{rubric: r, url: '{url}', served: j, retries: {retries}}}}}]"


@pytest.mark.fault("F46")
def test_a_judge_that_nobody_can_read_ends_the_stage_with_what_it_said(run, judge):
    judge.answers = staticmethod(lambda n: "I would rather not say")
    with pytest.raises(EngineError, match="scored none of 16") as error:
        run("return [1.0] * n", judged(judge.url))
    assert "judge: an answer that says nothing readable: 'I would rather not say'" in str(error.value)


@pytest.mark.fault("F46")
def test_half_of_the_answers_lost_are_too_many_in_one_small_buffer(run, judge):
    judge.answers = staticmethod(lambda n: f"Score: {n % 10}" if n % 2 else None)
    with pytest.raises(EngineError, match=r"8 of the last 16 responses are unscored \(50%\)") as error:
        run("return [1.0] * n", judged(judge.url))
    assert "8 x judge: no answer" in str(error.value) and error.value.exit_code == 7


@pytest.mark.fault("F46")
def test_a_judge_that_now_and_then_fails_is_asked_again_or_counted(run, judge, tmp_path):
    judge.answers = staticmethod(lambda n: f"Score: {n % 10}" if n % 20 else "no idea")
    run("return [1.0] * n", judged(judge.url))
    assert any("x judge: an answer that says" in w for w in status(tmp_path / "run")["warnings"])


# ---- the rule


def test_a_share_is_judged_over_64_and_before_that_only_beyond_doubt():
    assert is_too_many(7, 64, 0.1) and not is_too_many(6, 64, 0.1)
    assert not is_too_many(1, 4, 0.1) and is_too_many(4, 4, 0.1) and not is_too_many(3, 8, 0.1)
    assert is_too_many(1, 2, 0.0) and not is_too_many(64, 64, 1.0) and not is_too_many(0, 9, 0.0)


def test_the_window_forgets_a_bad_stretch_and_the_reasons_stay():
    """What a recipe allowed when it happened does not end the stage later; the state is what a checkpoint keeps."""
    recent, reasons = [], Counter()
    Unscored(0.5, recent, reasons, "rl")(["odd"] * 20 + [None] * 44)
    for _ in range(4):
        Unscored(0.5, recent, reasons, "rl")([None] * 16)
    Unscored(0.0, recent, reasons, "rl")([None] * 16)
    assert recent == [[16, 0]] * 4 and in_words(reasons) == "20 x odd"


def test_a_bad_last_buffer_counts_with_those_before_it():
    recent, reasons = [[56, 0]], Counter()
    with pytest.raises(EngineError, match="8 of the last 64"):
        Unscored(0.1, recent, reasons, "rl")(["odd"] * 8)


def test_a_number_too_large_to_compare_is_no_reward():
    assert scored(1e9).score == 1e9 and scored(-1e9).score == -1e9
    assert scored(1e300).score is None and scored(-1e10).score is None and "beyond 1e+09" in scored(1e300).reason
