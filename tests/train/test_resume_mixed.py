"""Stages that remember (replays, experience, a queue) or join demonstrations: stopped and resumed they are the same
run, and every trajectory has one fate."""

from __future__ import annotations

import pytest
import torch

from offon.runs import ledger
from offon.types import Verdict
from tests.support import ParityTask
from tests.train.test_resume import everything, models, run  # noqa: F401  (models is a fixture)

pytestmark = pytest.mark.slow

ROWS = """
from offon.catalogue.methods.guided import expert_prefix
from offon.catalogue.methods.mixed import exgrpo, hpt, relift, repo
from tests.support import demonstrations

def replays(task): return repo(task, group_size=3, replays=2, from_n=3, choose="random")
def experience(task): return exgrpo(task, group_size=3, start=0.0)
def queue(task): return relift(task, demonstrations(), group_size=2, batch=2)
def gated(task): return hpt(task, demonstrations(), group_size=2)
"""
SEEN = {  # what shows that the mechanism was at work: a tag, or a source of what was trained
    "replays": "list_contains(tags, 'replay')",
    "experience": "list_contains(tags, 'replay')",
    "queue": "list_contains(tags, 'queued')",
    "gated": "list_contains(source, 0)",
}


@pytest.mark.fault("F34")
@pytest.mark.parametrize("row", list(SEEN))
def test_stopping_anywhere_changes_nothing(tmp_path, models, row):  # noqa: F811
    (tmp_path / "mine.py").write_text(ROWS)
    results = []
    for name, stops in (("straight", []), ("stopped", [2, 3])):
        changes = {"max_tokens": 4, "prompts_per_step": 6, "steps": 4}
        runtime = run(tmp_path / name, models, f"{tmp_path}/mine.py:{row}", {}, changes, stops)
        results.append(everything(runtime, tmp_path / name))
    a, b = results
    assert all(torch.equal(a[0][name], b[0][name]) for name in a[0]), "weights"
    assert str(a[2:]) == str(b[2:]), "metrics, ledger, consumption"

    rows = ledger.query(
        tmp_path / "stopped", f"select id, fate, {SEEN[row]} as seen, step_sampled from trajectories"
    ).to_pylist()
    assert len({r["id"] for r in rows}) == len(rows), "one row a trajectory"
    assert {r["fate"].split(":")[0] for r in rows} <= {"trained", "dropped"}
    assert any(r["seen"] and r["fate"] == "trained" for r in rows)


def test_replays_keep_the_log_probs_of_the_weights_that_sampled_them(tmp_path, models):  # noqa: F811
    """Bit for bit those on record with the first time the tokens were trained, however much the learner has moved."""
    (tmp_path / "mine.py").write_text(ROWS)
    run(
        tmp_path / "run",
        models,
        f"{tmp_path}/mine.py:replays",
        {},
        {"max_tokens": 4, "prompts_per_step": 6, "steps": 4},
        [],
    )
    rows = ledger.query(
        tmp_path / "run",
        "select item, tokens, step_sampled, behavior_logp, list_contains(tags, 'replay') as replay from trajectories",
    ).to_pylist()
    first = {(r["item"], tuple(r["tokens"]), r["step_sampled"], *r["behavior_logp"]) for r in rows if not r["replay"]}
    again = [(r["item"], tuple(r["tokens"]), r["step_sampled"], *r["behavior_logp"]) for r in rows if r["replay"]]
    assert again and set(again) <= first


def test_metrics_are_about_what_was_sampled_now(tmp_path, models, monkeypatch):  # noqa: F811
    """Replays and demonstrations are verified too; "reward" and the all-fail counts leave them out."""
    (tmp_path / "mine.py").write_text(
        "from offon.catalogue.methods.mixed import luffy\n"
        "from tests.support import demonstrations\n"
        "data = [g.map(lambda m: m.replace(text='told')) for g in demonstrations()]\n"
        "def row(task): return luffy(task, data, group_size=3)\n"
    )

    monkeypatch.setattr(ParityTask, "verify", lambda task, pairs: [Verdict(float(text == "told")) for _, text in pairs])
    runtime = run(tmp_path / "run", models, f"{tmp_path}/mine.py:row", {}, {"steps": 2}, [])
    assert [line["reward"] for line in runtime.node.metrics()] == [0.0, 0.0]
    assert runtime.state.groups["all_fail"] == 8 and runtime.state.groups["members"] == 16
