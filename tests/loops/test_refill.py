"""A stage that draws further prompts: stopped and resumed it is the same run, and every trajectory has one fate."""

from __future__ import annotations

import torch

from offon.runs import ledger
from tests.loops.test_resume import everything, models, run  # noqa: F401  (models is a fixture)

ROW = """
from offon.collect import refill, rollouts, verify
from offon.parts import Stage, behavior, credit, group_mean_std, policy, policy_gradient

def row(task):
    return Stage(refill(rollouts(task, 2) | verify(task), max_rounds=3),
                 policy(policy_gradient(advantage=credit, ratio=behavior), credit=group_mean_std()))
"""


def test_stopping_anywhere_changes_nothing_about_a_refill(tmp_path, models):  # noqa: F811
    (tmp_path / "mine.py").write_text(ROW)
    runs = []
    for name, stops in (("straight", []), ("stopped", [1, 2, 4])):
        directory = tmp_path / name
        runtime = run(directory, models, f"{tmp_path}/mine.py:row", {}, {"max_tokens": 4}, stops)
        runs.append((everything(runtime, directory), runtime.state.draws))
    (a, draws), (b, again) = runs
    assert draws == again > 5 * 4, "further prompts were drawn"
    assert all(torch.equal(a[0][name], b[0][name]) for name in a[0]), "weights"
    assert str(a[2:]) == str(b[2:]), "metrics, ledger, consumption"

    fates = ledger.query(
        tmp_path / "stopped", "select fate, count(*) n, count(distinct id) ids from trajectories group by 1"
    )
    fates = {row["fate"]: (row["n"], row["ids"]) for row in fates.to_pylist()}
    assert set(fates) == {"trained", "dropped: not mixed in reward"}
    assert all(n == ids for n, ids in fates.values())
    assert sum(n for n, _ in fates.values()) == 2 * draws
