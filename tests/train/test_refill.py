"""A stage that draws further prompts: stopped and resumed it is the same run, and every trajectory has one fate."""

from __future__ import annotations

import pytest
import torch

from offon.runs import ledger
from tests.train.test_resume import everything, models, run  # noqa: F401  (models is a fixture)

pytestmark = pytest.mark.slow

ROW = """
from offon.collect import refill, rollouts, verify
from offon.parts import Stage, behavior, credit, group_mean_std, policy, policy_gradient

def row(task):
    return Stage(refill(rollouts(task, 2) | verify(task), max_rounds=3),
                 policy(policy_gradient(advantage=credit, ratio=behavior), credit=group_mean_std()))
"""


@pytest.mark.parametrize("prompts_per_buffer", [4, 8], ids=["a step a buffer", "two steps a buffer"])
def test_stopping_anywhere_changes_nothing_about_a_refill(tmp_path, models, prompts_per_buffer):  # noqa: F811
    (tmp_path / "mine.py").write_text(ROW)
    runs, changes = [], {"max_tokens": 4, "prompts_per_buffer": prompts_per_buffer}
    for name, stops in (("straight", []), ("stopped", [1, 2, 4])):
        directory = tmp_path / name
        runtime = run(directory, models, f"{tmp_path}/mine.py:row", {}, changes, stops)
        runs.append((everything(runtime, directory), runtime.state.draws))
    (a, draws), (b, again) = runs
    buffers = -(-5 * 4 // prompts_per_buffer)
    assert draws == again > buffers * prompts_per_buffer, "further prompts were drawn"
    assert all(torch.equal(a[0][name], b[0][name]) for name in a[0]), "weights"
    assert str(a[2:]) == str(b[2:]), "metrics, ledger, consumption"

    fates = ledger.query(
        tmp_path / "stopped", "select fate, count(*) n, count(distinct id) ids from trajectories group by 1"
    )
    fates = {row["fate"]: (row["n"], row["ids"]) for row in fates.to_pylist()}
    assert set(fates) - {"dropped: stage ended"} == {"trained", "dropped: not mixed in reward"}
    assert all(n == ids for n, ids in fates.values())
    assert sum(n for n, _ in fates.values()) == 2 * draws
