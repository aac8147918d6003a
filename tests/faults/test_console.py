"""A run outlives its console: closed, broken, hung up; it ends with its own exit, and its files are whole."""

from __future__ import annotations

import os
import signal
import time

import pytest

from offon.cli.main import main
from offon.console import Unbroken, unbroken_streams
from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from tests.faults.inject import project, shell, started, status

CONSOLES = {
    "closed stderr": "OFFON run r.yaml --output run 2>&-",
    "closed stdout": "OFFON run r.yaml --output run >&-",
    "all closed": "OFFON run r.yaml --output run <&- >&- 2>&-",
    "a reader that leaves": "OFFON run r.yaml --output run 2>&1 | head -1",
    "a reader that never reads": "OFFON run r.yaml --output run 2>&1 | true",
    "a full disk": "OFFON run r.yaml --output run >/dev/full 2>&1",
}
IN_A_WORKER = """
task: {python: "FOLDER/loud.py:reward", data: FOLDER/task.jsonl}
model: ./base
probe: false
pipeline: {rl: {method: grpo, group_size: 2, steps: 1, prompts_per_step: 2, max_tokens: 4}}
"""
SIGNAL_AT = """
import os, {module} as module
original = module.{name}
def called(*arguments, **options):
    os.kill(os.getpid(), {number})
    return original(*arguments, **options)
module.{name} = called
"""
LOUD = """
def reward(prompts, completions, **columns):
    print("scored", len(completions), flush=True)
    return [float(len(c) % 2) for c in completions]
"""


@pytest.mark.slow
@pytest.mark.fault("W02")
@pytest.mark.parametrize("console", CONSOLES)
def test_the_executable_trains_to_its_end_whatever_its_console_is(tmp_path, console):
    project(tmp_path)
    ended = shell(CONSOLES[console], tmp_path)
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / "run"
    assert status(run)["state"] == "done" and (run / "report.html").stat().st_size > 1000
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 6


@pytest.mark.slow
@pytest.mark.fault("W02")
def test_a_failure_keeps_its_exit_code_when_nobody_reads_the_words(tmp_path):
    project(tmp_path, "model: ./base\npipeline:\n  sft: {method: sft, data: ./nothing.jsonl, steps: 1}\n")
    seen = shell("OFFON check r.yaml", tmp_path).returncode
    assert shell("OFFON check r.yaml 2>&1 | true", tmp_path).returncode == seen == 3
    assert shell("OFFON check r.yaml 2>&-", tmp_path).returncode == seen


@pytest.mark.slow
@pytest.mark.fault("W02", "F42")
def test_a_reward_function_that_prints_to_a_pipe_nobody_reads_still_scores(tmp_path):
    project(tmp_path, IN_A_WORKER.replace("FOLDER", str(tmp_path)))
    (tmp_path / "loud.py").write_text(LOUD)
    (tmp_path / "task.jsonl").write_text("".join(f'{{"prompt": "w{i}"}}\n' for i in range(8)))
    assert shell("OFFON run r.yaml --output run 2>&1 | true", tmp_path).returncode == 0
    assert status(tmp_path / "run")["warnings"] == [] or "unscored" not in str(status(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.fault("F37", "W02")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_each_signal_has_its_exit_and_status(tmp_path, number, code):
    project(tmp_path, _long())
    process = started(tmp_path, "run", "r.yaml", "--output", "run")
    _wait_for(tmp_path / "run" / "metrics.jsonl", process)
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == code, words
    now = status(tmp_path / "run")
    assert (now["state"], now["exit_code"]) == ("interrupted", code) and "--resume" in words


@pytest.mark.slow
@pytest.mark.fault("F37")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_is_an_interruption_with_a_status(tmp_path, number, code):
    project(tmp_path, _long())
    before = SIGNAL_AT.format(module="offon.pipeline.run", name="load_tokenizer", number=int(number))
    process = started(tmp_path, "run", "r.yaml", "--output", "run", before=before)
    _, words = process.communicate(timeout=60)
    assert process.returncode == code, words
    now = status(tmp_path / "run")
    assert (now["state"], now["exit_code"]) == ("interrupted", code)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.fault("F37")
def test_terminated_before_there_is_a_run_it_says_so_and_leaves_nothing(tmp_path):
    project(tmp_path, _long())
    before = SIGNAL_AT.format(module="offon.recipe", name="resolve", number=int(signal.SIGTERM))
    process = started(tmp_path, "run", "r.yaml", "--output", "run", before=before)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 143 and words.strip() == "interrupted" and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.fault("W02")
def test_nohup_ignores_the_hang_up(tmp_path):
    project(tmp_path, _long(steps=40))
    process = started(tmp_path, "run", "r.yaml", "--output", "run", preexec_fn=_ignore_hang_ups)
    _wait_for(tmp_path / "run" / "metrics.jsonl", process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0 and status(tmp_path / "run")["state"] == "done"


def test_a_broken_pipe_takes_what_is_printed_and_nothing_else():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", buffering=1) as pipe:
        os.close(reader)
        stream = Unbroken(pipe)
        assert stream.write("gone\n") == 5 and stream.write("again\n") == 6
        stream.flush()
        pipe.write("the stream below is mended, too: its descriptor leads nowhere\n")


def test_a_progress_that_cannot_print_ends_nothing(tmp_path):
    """`offon.run(..., progress=print)` of a script whose reader left."""

    def gone(event):
        raise BrokenPipeError(32, "Broken pipe")

    run = run_recipe(resolve(project(tmp_path)), tmp_path / "run", progress=gone)
    assert status(run)["state"] == "done"


def test_streams_that_python_does_not_have_are_written_to_all_the_same(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    with unbroken_streams():
        print("to nobody", flush=True)
    assert main(["methods", "no such method"]) == 2


def _long(steps: int = 2000) -> str:
    from tests.faults.inject import RECIPE

    return RECIPE.replace("steps: 6", f"steps: {steps}")


def _ignore_hang_ups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _wait_for(path, process, limit_s: float = 60) -> None:
    until = time.monotonic() + limit_s
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
