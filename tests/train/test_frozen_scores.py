"""Log-probs of fixed rows under frozen models: the same numbers, each computed once, also across a stop."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from offon.parts.models import Artefact, Ema, Live, Mix, Need, Start
from offon.recipe.fields import Lora
from offon.train.frozen_scores import FrozenScores, of_fixed_rows
from offon.train.scoring import score
from offon.types.batch import Batch
from tests.rounding import FLOAT32
from tests.support import model
from tests.train.test_resume import models, preference_pairs, run  # noqa: F401  a fixture

TEACHER = Artefact("teacher")


def batch(rows=slice(None)):
    return Batch.of(preference_pairs()[rows])


def counting(kept):
    """A model, how often it was run, and `score` with what was kept."""
    runs, teacher = [], model(1)

    def scored(part):
        need = Need("logp", TEACHER)
        real = type(teacher).hidden

        def hidden(self, layout):
            runs.append(layout.n_targets)
            return real(self, layout)

        type(teacher).hidden = hidden
        try:
            memory = lambda ref: lambda *args: kept.logp("m", *args)  # noqa: E731
            return score(lambda ref: teacher, part, [need], remembered=memory)[need]
        finally:
            type(teacher).hidden = real

    return runs, scored, teacher


def test_a_row_is_scored_once_whatever_it_comes_back_with():
    whole = batch()
    runs, scored, teacher = counting(FrozenScores())
    plain = score(lambda ref: teacher, whole, [Need("logp", TEACHER)])[Need("logp", TEACHER)]
    first = scored(batch(slice(0, 2)))
    assert sum(runs) == len(first)
    again = scored(whole)
    assert sum(runs) == whole.n_tokens, "only what was new"
    assert torch.equal(again[: len(first)], first)
    assert torch.allclose(again, plain, atol=FLOAT32)
    runs.clear()
    assert torch.equal(scored(whole), again) and not runs


def test_another_model_view_or_temperature_is_another_score():
    kept, whole = FrozenScores(), batch()
    seen = []

    def compute(part):
        seen.append(part.n_sequences)
        return torch.zeros(part.n_tokens)

    for arguments in (("a", "train", "before"), ("b", "train", "before"), ("a", "train", "at")):
        kept.logp(*arguments, whole, compute)
    kept.logp("a", "sample", "before", whole, compute)  # the same prompt under another name
    warmer = Batch(**{**vars(whole), "temperature": whole.temperature * 2})
    kept.logp("a", "train", "before", warmer, compute)
    distinct = len({(tuple(t.prefix()), tuple(t.tokens.tolist())) for t in whole.trajectories})
    assert len(seen) == 4 and seen[0] == whole.n_sequences and len(kept._scores) == 4 * distinct
    kept.logp("a", "train", "before", whole, compute)
    assert len(seen) == 4


def test_scores_are_found_again_by_another_process_and_never_half_written(tmp_path):
    whole = batch()
    values = torch.arange(whole.n_tokens, dtype=torch.float32) / 7
    kept = FrozenScores(tmp_path / "scores", "dpo")
    kept.logp("a", "train", "before", whole, lambda part: values)
    kept.keep(2)
    kept.keep(3)  # nothing new: no file
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["0-dpo-000002.npz"]

    def never(part):
        raise AssertionError("scored again")

    def reopened(node, process=0, step=2):
        found = FrozenScores(tmp_path / "scores", node, process)
        found.rewind(step)
        return found

    again = reopened("dpo").logp("a", "train", "before", whole, never)
    assert again.shape == values.shape and again.dtype == torch.float32
    reopened("another", step=0).logp("a", "train", "before", whole, never)
    for stranger in (reopened("dpo", process=1), reopened("dpo", step=1)):  # the last after a step before it was kept
        with pytest.raises(AssertionError, match="scored again"):
            stranger.logp("a", "train", "before", whole, never)
    assert not list((tmp_path / "scores").iterdir())


@pytest.mark.parametrize(
    ("ref", "kept"),
    [
        (Start(), True),
        (TEACHER, True),
        (Mix((TEACHER, Start()), (0.5, 0.5)), True),
        (Live(), False),
        (Ema(Live(), 0.1), False),
        (Mix((TEACHER, Live()), (0.5, 0.5)), False),
    ],
    ids=str,
)
def test_only_what_stays_is_kept(ref, kept):
    need = Need("logp", ref)
    assert of_fixed_rows(ref, [need], batch()) == kept
    assert not of_fixed_rows(ref, [Need("distribution", ref)], batch())
    sampled = batch()
    own = sampled.trajectories[0].replace(behavior_logp=np.zeros(len(sampled.trajectories[0]), np.float32))
    sampled = Batch(**{**vars(sampled), "trajectories": (own, *sampled.trajectories[1:])})
    assert not of_fixed_rows(ref, [need], sampled)


@pytest.mark.parametrize("changes", [{}, {"lora": Lora(r=2, alpha=4.0)}], ids=str)
def test_a_reference_is_scored_once_over_all_passes_and_across_a_stop(tmp_path, models, changes):  # noqa: F811
    changes = {"steps": 6, "prompts_per_step": 4, **changes}
    straight = run(tmp_path / "straight", models, "dpo", {}, changes, stops=[])
    stopped = run(tmp_path / "stopped", models, "dpo", {}, {**changes, "save_steps": 2}, stops=[4])
    rows = preference_pairs()
    tokens = sum(len(member) for group in rows for member in group.members)
    assert straight.scores.computed == straight.state.cost["tokens_scored"] == tokens
    assert straight.scores.remembered >= tokens, "two passes and more"
    for name, parameter in straight.models.learner.train_parameters().items():
        assert torch.equal(parameter, dict(stopped.models.learner.train_parameters())[name])
    assert stopped.state.cost["tokens_scored"] == tokens
    lines = [(tmp_path / at / "metrics.jsonl").read_text().splitlines() for at in ("straight", "stopped")]
    losses = [[json.loads(line)["loss/total"] for line in part] for part in lines]
    assert losses[0] == losses[1]
