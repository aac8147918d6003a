"""SPIN: demonstrations against one's own answers; nothing to learn once they are one's own."""

from __future__ import annotations

import json

import pytest
import torch

from offon.models.model import Model
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.runs import ledger
from tests.rounding import EPS64
from tests.support import model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("user")
    ending = model(18)
    with torch.no_grad():  # so that most answers end
        ending.core.model.embed_tokens.weight[1] *= 1.6
    ending.save(root / "base")
    rows = [{"prompt": f"w{i} w{j}", "completion": "w3 w4"} for i in range(5) for j in range(5)]
    (root / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


RECIPE = """
model: ./base
probe: false
pipeline:
  s: {method: spin, data: ./demos.jsonl, iterations: 2, steps: 2, max_tokens: 12, prompts_per_step: 8}
"""


def test_each_iteration_plays_against_the_last_and_starts_from_it(folder, tmp_path):
    resolved = resolve(parse(RECIPE, folder=folder))
    assert [n.name for n in resolved.nodes] == ["s-1-pairs", "s-1-model", "s-2-pairs", "s"]
    assert [n.settings.init for n in resolved.nodes][2:] == ["$s-1-model", "$s-1-model"]
    assert all(n.settings.data == str(folder / "demos.jsonl") for n in resolved.nodes if n.method == "spin_pairs")
    run = run_recipe(resolved, tmp_path / "run")
    rows = [json.loads(line) for line in (run / "nodes/s-2-pairs/final/data.jsonl").read_text().splitlines()]
    assert rows and all(row["chosen"] == "w3 w4" != row["rejected"] for row in rows)
    opponent = Model.load(run / "nodes/s-1-model/final").fingerprint()
    sampled = ledger.query(
        run, "select distinct producer from trajectories where node = 's-2-pairs' and temperature is not null"
    )
    assert sampled.column("producer").to_pylist() == [opponent]
    first = next(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    assert first["loss/total"] == pytest.approx(0.6931, abs=1e-3)  # log 2: the reference is where it starts


def test_data_that_are_the_models_own_are_a_fixed_point():
    """At pi = pi_{k-1} the gradient is -beta/2 E[grad log pi(y_w) - grad log pi(y_l)], both expectations under pi: 0.

    Enumerated for a softmax over four answers: sum over w, l of p_w p_l (grad log p_w - grad log p_l)."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.double, requires_grad=True)
    p = logits.softmax(0).detach()

    def gradient(data: torch.Tensor) -> torch.Tensor:
        h = 0.1 * (logits.log_softmax(0)[:, None] - logits.log_softmax(0)[None, :])
        h = h - h.detach()  # against the reference, which is the same
        loss = -(data[:, None] * p[None, :] * torch.nn.functional.logsigmoid(h)).sum()
        return torch.autograd.grad(loss, logits)[0]

    assert gradient(p).abs().max() < 8 * EPS64
    assert gradient(torch.tensor([1.0, 0, 0, 0], dtype=torch.double)).abs().max() > 1e-3
