"""Distillation on given prefixes: the limits in which one row is another, and the ways to get it wrong."""

from __future__ import annotations

import pytest
import torch

from offon.data import Renderer
from offon.errors import DataError
from offon.parts import Artefact, divergence, policy
from offon.train.build import check_prompts
from offon.train.scoring import layout_of, score, weigh
from offon.types.batch import Batch
from tests.catalogue.cases import difference, gradient
from tests.catalogue.taught import V, collected, gradient_of, learner, prompts, stage, total, world
from tests.rounding import FLOAT32, FLOAT32_SUM
from tests.support import demonstrations, tokenizer


def same(a, b, tolerance=FLOAT32_SUM):
    assert difference(a, b) < tolerance


def dense(name: str, groups, view: str = "train", temperature: float = 1.0) -> torch.Tensor:
    """Log-probs over the whole vocabulary at every response position, [M, V]."""
    model, members = world().others.get(name, world().learner), [m for g in groups for m in g.members]
    with torch.no_grad():
        return (model.next_logits(model.hidden(layout_of(members, view))) / temperature).log_softmax(-1)


def test_kd_without_the_teacher_is_sft_and_without_tokens_a_divergence():
    groups = demonstrations()
    same(gradient_of("kd", groups, alpha=0.0), gradient_of("sft", groups))
    alone = policy(divergence(to=Artefact("teacher"), temperature=1.0))
    same(gradient_of("kd", groups, alpha=1.0), gradient(alone, groups, world()))


def test_kd_is_temperature_squared_times_the_kl_of_softened_distributions():
    groups, T = demonstrations(), 3.0
    log_p, log_q = dense("self", groups, temperature=T), dense("teacher", groups, temperature=T)
    expected = T**2 * (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    made = learner("kd", kd_temperature=T)
    assert total(policy(made.terms[1]), groups) == pytest.approx(float(expected), rel=FLOAT32_SUM)


def test_a_skew_that_vanishes_is_the_kl_and_one_near_one_is_nothing():
    groups = demonstrations()
    same(gradient_of("kd", groups, alpha=1.0, skew=1e-6), gradient_of("kd", groups, alpha=1.0), 1e-3)
    values = [total(policy(learner("kd", skew=a).terms[1]), groups) for a in (0.0, 0.1, 0.5, 0.99)]
    assert values == sorted(values, reverse=True) and values[-1] < 1e-2 * values[0]


@pytest.mark.parametrize("rest", ["tail", "renormalised", "raw"])
def test_topk_kd_on_the_whole_vocabulary_is_kd(rest):
    groups = demonstrations()
    same(gradient_of("topk_kd", groups, top=V, rest=rest), gradient_of("kd", groups, alpha=1.0), 1e-3)


def test_topk_kd_grows_with_k_to_the_full_divergence():
    groups = demonstrations()
    values = [total(learner("topk_kd", top=k), groups) for k in (1, 3, 6, V - 1)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(total(policy(learner("kd").terms[1]), groups), rel=FLOAT32_SUM)


def test_topk_kd_chooses_the_teachers_tokens():
    groups = demonstrations()
    log_p, log_q = dense("self", groups), dense("teacher", groups)
    ids = log_q.topk(2).indices
    expected = (log_q.gather(1, ids).exp() * (log_q.gather(1, ids) - log_p.gather(1, ids))).sum(-1).mean()
    assert total(learner("topk_kd", top=2, rest="raw"), groups) == pytest.approx(float(expected), rel=FLOAT32_SUM)


def test_sequence_kd_is_sft_on_what_the_teacher_wrote():
    groups = collected("sequence_kd")
    assert all(m.producer.model == "teacher" for g in groups for m in g.members)
    same(gradient_of("sequence_kd", groups), gradient_of("sft", groups))


def test_rationale_distillation_is_two_means_each_over_its_own_tokens():
    groups = stage("rationale_distill").collect(None, demonstrations())
    made = learner("rationale_distill", alpha=0.3)
    batch = weigh(Batch.of(groups), made.terms)
    for name in ("label", "rationale"):
        mine = torch.tensor([name in t.tags for t in batch.trajectories])[batch.sequence]
        assert torch.allclose(batch.weights[name], mine.double() / mine.sum())
    labels = [g for g in groups if "label" in g.members[0].tags]
    same(gradient_of("rationale_distill", groups, alpha=1.0), gradient_of("sft", labels))
    same(gradient_of("rationale_distill", labels, alpha=0.3), gradient_of("sft", labels, times=0.3))


def test_rationale_distillation_refuses_rows_that_do_not_say_their_task():
    with pytest.raises(DataError, match="no 'tag'"):
        stage("rationale_distill").collect.parts[1].check(prompts(), Renderer(tokenizer()))


# --- contexts -----------------------------------------------------------------------------------------------------


def test_context_distillation_samples_and_reads_the_context_and_trains_without_it():
    groups = collected("context_distill", view="hint")
    for group in groups:
        (member,) = group.members
        assert member.prefix("sample") == group.views["hint"] and member.prefix("train") == group.prompt
        assert member.off_policy_by_conditioning
    log_p, log_q = dense("start", groups), dense("start", groups, view="hint")
    expected = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    assert total(learner("context_distill", view="hint"), groups) == pytest.approx(float(expected), rel=FLOAT32_SUM)


def test_an_empty_context_teaches_nothing_and_a_context_that_is_not_read_is_caught():
    """The learner is still the start: only the context tells the two apart. Reading the teacher under the trained
    prompt would make the loss 0 and hide that nothing is distilled."""
    empty = collected("context_distill", template="{prompt}")
    assert total(learner("context_distill", template="{prompt}"), empty) == pytest.approx(0, abs=FLOAT32)
    groups = collected("context_distill", view="hint")
    assert total(learner("context_distill", view="hint"), groups) > 1e-2
    assert total(policy(divergence(to=learner("context_distill").terms[0].to)), groups) == pytest.approx(0, abs=FLOAT32)


def test_traces_are_sft_under_the_prompt_without_the_context():
    groups = collected("context_distill", view="hint", targets="traces")
    batch = weigh(Batch.of(groups), learner("sft").terms)
    logp = score(world(), batch, learner("sft").needs)
    plain = dense("self", groups).gather(
        1, torch.tensor([t for g in groups for m in g.members for t in m.tokens])[:, None]
    )
    assert torch.allclose(next(iter(logp.values())).detach(), plain[:, 0], atol=FLOAT32)
    same(gradient_of("context_distill", groups, view="hint", targets="traces"), gradient_of("sft", groups))


@pytest.mark.parametrize("row", ["context_distill", "context_opd", "opsd"])
def test_a_template_is_enough_where_items_bring_no_view(row):
    check_prompts(stage(row, template="w9 {prompt}").collect, prompts(), tokenizer(), row)


def test_a_view_that_nobody_can_write_is_refused_before_anything_runs():
    (shown, _) = stage("context_distill", view="context").collect.parts
    with pytest.raises(DataError, match="cannot be written"):
        shown.check(prompts(), Renderer(tokenizer()))
    (shown, *_) = stage("context_distill", template="{prompt} {nonsense}").collect.parts
    with pytest.raises(DataError, match="nonsense"):
        shown.check(prompts(), Renderer(tokenizer()))


# --- several teachers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_an_ensemble_has_the_gradient_of_the_weighted_sum_over_its_teachers(kind):
    groups = demonstrations()
    several = policy(
        *(divergence(to=Artefact(n), kind=kind, coef=w, name=n) for n, w in (("teacher", 0.3), ("second", 0.7)))
    )
    found = gradient_of("ensemble_kd", groups, teachers=["teacher", "second"], weights=[0.3, 0.7], kind=kind)
    same(found, gradient(several, groups, world()), 1e-3)


def test_an_ensemble_of_one_teacher_twice_is_that_teacher():
    groups, twice = demonstrations(), {"teachers": ["teacher", "teacher"]}
    same(gradient_of("ensemble_kd", groups, **twice), gradient_of("kd", groups, alpha=1.0))
