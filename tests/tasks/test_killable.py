"""Whatever a checker does, the call ends in time, has a reason, and leaves the pool as it was."""

import math
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from offon.errors import ConfigError
from offon.tasks import killable
from offon.tasks.killable import KillablePool

pytestmark = pytest.mark.slow

CHECKER = """
import os, time

def build(offset=0):
    def check(kind, *values):
        if kind == "sleep": time.sleep(60)
        if kind == "loop in C": return 9**9**9
        if kind == "children": os.fork() or time.sleep(600); time.sleep(60)
        if kind == "segfault": os.kill(os.getpid(), 11)
        if kind == "exit": raise SystemExit(0)
        if kind == "raise": raise ValueError("not\\ntoday")
        if kind == "flood": return "x" * (2 << 20)
        if kind == "memory": return len(bytearray(8 << 30))
        if kind == "object": return object()
        if kind == "nan": return float("nan")
        if kind == "print": print("noise")
        if kind == "where": return [os.getcwd(), os.listdir("."), sorted(os.environ)]
        if kind == "forge":
            for fd in range(3, 32):
                try: os.write(fd, values[0].encode())
                except OSError: pass
            return 0
        return sum(values) + offset
    return check

not_callable = 3
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "checker.py").write_text(CHECKER)
    return f"{tmp_path}/checker.py:build"


@pytest.fixture
def others():
    """Processes that other tests of this session keep."""
    return descendants()


@pytest.fixture
def pool(factory, others):
    pool = KillablePool(factory, (100,), limit_s=1.0, memory_bytes=4 << 30)
    yield pool
    pool.close()


def test_calls_are_answered_in_order(pool):
    assert [outcome.value for outcome in pool.map([("add", i) for i in range(50)])] == list(range(100, 150))


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("segfault", "its process died (signal 11)"),
        ("exit", "SystemExit: 0"),
        ("raise", "ValueError: not today"),
        ("flood", "its result exceeds 1048576 bytes"),
        ("memory", "MemoryError"),
        ("object", "TypeError: a checker returned a object"),
    ],
)
def test_a_call_that_fails_says_why_and_its_neighbours_do_not(pool, kind, reason):
    before, failed, after = pool.map([("add", 1), (kind,), ("add", 2)])
    assert failed.value is None and failed.failure.startswith(reason)
    assert (before.value, after.value) == (101, 102)


@pytest.mark.parametrize("kind", ["sleep", "loop in C", "children"])
def test_a_call_that_hangs_is_killed_with_all_its_children(pool, kind, others):
    pool.start()
    started = time.monotonic()
    hung, after = pool.map([(kind,), ("add", 1)])
    assert hung.failure == "killed after 1 s" and after.value == 101
    assert time.monotonic() - started < 3.0
    assert descendants() - others == set(pool.pids)


def descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_the_pool_has_its_size_after_many_hangs(factory, others):
    pool = KillablePool(factory, workers=2, limit_s=0.05)
    outcomes = pool.map([("sleep",)] * 10 + [("add", 1)] * 4)
    assert [o.failure for o in outcomes[:10]] == ["killed after 0.05 s"] * 10
    assert [o.value for o in outcomes[10:]] == [1] * 4
    assert len(pool.pids) <= 2
    pool.close()
    assert not pool.pids and not descendants() - others


@pytest.mark.fault("F45", "pool")
def test_a_worker_that_died_between_calls_is_replaced(pool):
    pool.start()
    [pid] = pool.pids
    os.kill(pid, signal.SIGKILL)
    psutil.Process(pid).wait()
    assert pool.map([("add", 1)])[0].value == 101


def test_a_closed_pool_starts_again_when_called(pool):
    pool.start()
    pool.close()
    assert pool.map([("add", 1)])[0].value == 101


def test_not_a_number_is_passed_on_for_the_caller_to_refuse(pool):
    assert math.isnan(pool.map([("nan",)])[0].value)


def test_what_a_checker_prints_does_not_reach_standard_output(pool, capfd):
    pool.map([("print",)])
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "name, why",
    [
        ("checker.py:nothing", "has no function 'nothing', it has build"),
        ("checker.py:not_callable", "has no function 'not_callable'"),
        ("absent.py:build", "no file"),
        ("no.such.module:build", "No module named 'no'"),
        ("build", "does not name a function"),
    ],
)
def test_a_checker_that_cannot_be_loaded_is_a_config_error(factory, tmp_path, name, why):
    target = f"{tmp_path}/{name}" if ".py:" in name else name
    with pytest.raises(ConfigError, match=why):
        KillablePool(target).start()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_die_with_their_parent_even_while_they_hang(factory, number):
    """On SIGKILL no handler of ours runs, and a worker looping in C is past reading end of file."""
    script = (
        "from offon.tasks.killable import KillablePool\n"
        f"pool = KillablePool({factory!r}, limit_s=300); pool.start(); print(pool.pids[0], flush=True)\n"
        "pool.map([('loop in C',)])"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what a shell runs behind
    )  # fmt: skip
    worker = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.3)
    parent.send_signal(number)
    assert parent.wait(timeout=30) == -number
    parent.stdout.close()
    assert psutil.wait_procs([worker], timeout=30)[1] == []


def test_a_worker_inherits_a_list_and_works_in_an_empty_folder_of_its_own(factory, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("JUDGE_KEY", "given by name")
    pool = KillablePool(factory, environment=["JUDGE_KEY"])
    folder, files, names = pool.map([("where",)])[0].value
    assert files == [] and folder != os.getcwd() and {"PATH", "PYTHONPATH", "JUDGE_KEY"} <= set(names)
    assert "HF_TOKEN" not in names
    pool.close()
    assert not os.path.exists(folder)


@pytest.mark.parametrize("line", ["7\n", '{"value": 1}\n', '{"token": "guess", "value": 1}\n', "[" * 100_000 + "\n"])
def test_a_line_that_a_call_forges_is_no_result(pool, line):
    [outcome] = pool.map([("forge", line)])
    assert (outcome.value, outcome.failure) == (None, "unreadable result")
    assert pool.map([("add", 1)])[0].value == 101


def test_after_many_hangs_in_a_row_one_call_at_a_time_is_tried(factory, monkeypatch):
    """Three in a row: the other two of the first five are not tried, nor what stands behind the fourth hang."""
    monkeypatch.setattr(killable, "HANGS", 3)
    pool = KillablePool(factory, workers=1, limit_s=0.1)
    first, second = pool.map([("sleep",)] * 5), pool.map([("sleep",), ("add", 1)])
    assert [outcome.failure for outcome in first[:3]] == ["killed after 0.1 s"] * 3
    assert [outcome.failure for outcome in first[3:]] == [
        "not checked: the last 3 calls were each killed after 0.1 s"
    ] * 2
    assert second[1].failure == "not checked: the last 4 calls were each killed after 0.1 s" and pool.killed == 4
    pool.limit_s = 30.0
    assert [outcome.value for outcome in pool.map([("add", 1), ("add", 2)])] == [1, 2] and not pool.down
    pool.close()
