"""Guided rows: without help they are the method they modify, help is never a target, and a ratio across prompts is the
true one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offon.catalogue import registry
from offon.collect import ExpertPrefix, Hint, Rollouts, Rubric, Template, rollouts, verify
from offon.data import Renderer
from offon.errors import ConfigError, DataError
from offon.parts import Fade, Sigmoid
from offon.train.loop import run_stage
from offon.types import Sampling, Source, Verdict
from tests.catalogue.cases import Case, Filled, Loss, difference, gradient_of, ready_case, runtime_of, settings_of
from tests.collect.support import Sampler
from tests.collect.test_combinators import MODEL, TASK, prompts
from tests.rounding import FLOAT32, FLOAT32_SUM
from tests.support import ParityTask, demonstrations, tokenizer

TEXTS = ("w9 {prompt}", "{prompt} w10")
RENDER = Renderer(tokenizer())
RUBRIC = {"column": "criteria", "text": "{prompt} {rubric}"}
NO_HELP = {
    "hints": {"start": 0.0, "end": 0.0},
    "expert_prefix": {"start": 0.0, "end": 0.0},
    "templates": {"texts": TEXTS, "start": 0.0, "end": 0.0},
    "rubrics": {**RUBRIC, "middle": -10.0},
}
HELP = {
    "hints": {},
    "expert_prefix": {"start": 0.5},
    "templates": {"texts": TEXTS, "start": 1.0},
    "rubrics": {**RUBRIC, "spread": "none"},
}
every = pytest.mark.parametrize("name", list(HELP))


def one_learner(name=None, **arguments):
    [learner] = ready_case(Case("grpo", {"group_size": 4}, name and (name, arguments)))
    return learner


@every
def test_without_help_it_is_the_method_it_modifies(name):
    plain, helped = one_learner(), one_learner(name, **NO_HELP[name])
    assert difference(gradient_of(helped), gradient_of(plain)) < FLOAT32
    assert not any("guided" in m.tags for g in helped.groups for m in g.members)


@every
def test_help_is_condition_and_never_a_target(name):
    """Every member is guided; the help is in its prefix, or its tokens have gradient 0 exactly."""
    learner = one_learner(name, **HELP[name])
    members = [m for g in learner.groups for m in g.members]
    assert all("guided" in m.tags for m in members if name != "expert_prefix" or m.scaffold.any())
    loss = Loss(learner)
    [gradient] = loss.gradient()
    for i, member in enumerate(loss.batch.trajectories):
        scaffold = (member.source == Source.EXTERNAL).tolist()
        assert scaffold == member.scaffold.tolist()
        rows = gradient[loss.batch.sequence == i]
        assert all(float(g) == 0.0 for g, masked in zip(rows, scaffold, strict=True) if masked)
    guided = [m for m in members if m.scaffold.any() or m.prefix("sample") != m.prefix("prompt")]
    assert guided and float(gradient.abs().sum()) > 0


@every
def test_conditioned_ratios_are_1_before_the_first_update(name):
    """Sampled and trained under the same help, by the same weights."""
    ratios = log_ratios(name, HELP[name])
    assert np.abs(ratios).max() < FLOAT32_SUM


@pytest.mark.parametrize("name", ["hints", "templates", "rubrics"])
def test_a_dropped_help_keeps_the_true_ratio(name):
    """pi(y | x) / pi(y | x, help) is not 1 before the first update, which one recomputed under x would be."""
    ratios = log_ratios(name, {**HELP[name], "drop": True})
    assert np.abs(ratios).mean() > 1e-2


def log_ratios(name, arguments) -> np.ndarray:
    """log pi(y_t) under the trained prompt minus what the sampler reported, on the learner's tokens."""
    case = Case("grpo", {"group_size": 4}, (name, arguments))
    stage, runtime = runtime_of(case, settings_of(), Filled)
    run_stage(stage, runtime)
    [(learner, groups)] = runtime.given
    [ready] = ready_case(case)
    ready = dataclasses.replace(ready, learner=learner, groups=groups, models=runtime.models.of(learner))
    loss = Loss(ready)
    own = loss.batch.columns["source"] == Source.LEARNER
    return (loss.leaves[0].value - loss.batch.columns["behavior_logp"])[own].numpy()


@every
def test_a_guided_group_of_equal_rewards_teaches_nothing(name, monkeypatch):
    monkeypatch.setattr(ParityTask, "verify", lambda task, pairs: [Verdict(1.0) for _ in pairs])
    assert all(float(g.norm()) == 0.0 for g in gradient_of(one_learner(name, **HELP[name])).values())


@every
def test_guidance_needs_rollouts(name):
    arguments = {k: v for k, v in HELP[name].items() if k in registry.get(name).arguments}
    with pytest.raises(ConfigError, match="rollouts"):
        registry.get(name).function(registry.get("sft").function([]), **arguments)


# --- what is shown, to whom, when ---


def shown(guide, n=4, index=0, groups=3):
    collect = rollouts(TASK, n, guide=guide).given(sampling=Sampling(max_tokens=4))
    return collect(Sampler(MODEL).context(index=index), prompts(groups))


def words(member) -> str:
    return MODEL.tokenizer.decode(member.prefix("sample"))


def test_a_rubric_is_shown_in_full_to_the_first_member_and_not_to_the_last():
    """Three criteria, four members: 3, 2, 1, 0 of them."""
    for group in shown(Rubric(**RUBRIC)):
        counts = [sum(w in words(m).split() for w in ("w3", "w4", "w5")) for m in group.members]
        inside = sum(w in group.item.prompt.split() for w in ("w3", "w4", "w5"))
        assert [c - inside for c in counts] in ([3, 2, 1, 0], [3 - inside, *counts[1:]])
        assert "guided" not in group.members[-1].tags and group.members[-1].prefix() == group.prompt


def test_a_rubric_fades_by_a_sigmoid():
    amount = Sigmoid(0.5, 100.0)
    sizes = [
        [len(m.prefix("sample")) for m in shown(Rubric(**RUBRIC, amount=amount), index=i, groups=1)[0].members]
        for i in (0, 9)
    ]
    assert sizes == [[5, 4, 3, 2], [2, 2, 2, 2]]


def test_templates_are_shown_to_a_share_of_the_members():
    members = [m for g in shown(Template(texts=TEXTS, amount=0.5), n=8, groups=8) for m in g.members]
    share = np.mean(["guided" in m.tags for m in members])
    assert 0.35 < share < 0.65
    assert {words(m).startswith("w9") for m in members if "guided" in m.tags} == {True, False}


def test_a_template_without_a_place_for_the_prompt_is_refused():
    with pytest.raises(DataError, match="template.*question"):
        Template(texts=("{question}",)).check(prompts(2), RENDER)


def test_hints_fade():
    hint = Hint(amount=Fade(1.0, 0.0, share=0.5))
    assert all("guided" in m.tags for g in shown(hint) for m in g.members)
    assert not any("guided" in m.tags for g in shown(hint, index=5) for m in g.members)


def test_a_prefix_is_continued_within_the_budget_of_one_response():
    for group in shown(ExpertPrefix(amount=0.5)):
        for member in group.members:
            assert member.source[:2].tolist() == [Source.EXTERNAL] * 2 and member.scaffold[:2].all()
            assert MODEL.tokenizer.decode(member.tokens[:2]) == "w5 w6" and len(member) <= 4
            assert np.isnan(member.behavior_logp[:2]).all() and np.isfinite(member.behavior_logp[2:]).all()
            assert member.text.startswith("w5 w6"), "the checker reads the whole response"


def test_prompts_without_help_are_refused_before_anything_runs():
    nothing = [
        g.replace(item=dataclasses.replace(g.item, reference=None, columns={}), views={"prompt": g.prompt})
        for g in prompts(2)
    ]
    for guide, name in ((Hint(), "view"), (Rubric(**RUBRIC), "criteria"), (ExpertPrefix(), "reference")):
        with pytest.raises(DataError, match=name):
            rollouts(TASK, guide=guide).check(nothing, RENDER)


def test_members_shown_different_things_may_have_a_baseline_of_their_own():
    """Advantages of the members of each view sum to 0; of all together they need not."""
    learner = one_learner("templates", texts=TEXTS, start=0.5, baseline="view")
    spread = 0
    for group in learner.groups:
        seen = {m.prefix("sample") for m in group.members}
        spread += len(seen) > 1
        for view in seen:
            own = [float(m.token_signals["advantage"][0]) for m in group.members if m.prefix("sample") == view]
            assert sum(own) == pytest.approx(0, abs=FLOAT32_SUM)
    assert spread, "some group holds two views"


def test_demonstrations_of_the_recipe_serve_as_prefixes():
    stage = registry.get("expert_prefix").function(registry.get("grpo").function(TASK), demos=demonstrations())
    [guide] = [part.guide for part in stage.collect.everything if isinstance(part, Rollouts)]
    assert guide.library.by_prompt and (rollouts(TASK, guide=guide) | verify(TASK)).requires == frozenset()


def test_a_baseline_per_view_is_the_policys_whoever_else_learns():
    """Where prime updates its reward model first, that one is given no credit; raft gives none to anybody."""
    texts = {"texts": TEXTS, "baseline": "view"}
    guided = registry.get("templates").function(registry.get("prime").function(TASK, update="before"), **texts)
    assert [type(learner.credit).__name__ for learner in guided.learners] == ["NoneType", "PerView"]
    with pytest.raises(ConfigError, match="no credit"):
        registry.get("templates").function(registry.get("raft").function(TASK), **texts)


def test_a_second_guide_is_refused_and_never_takes_the_place_of_the_first():
    """uft begins with demonstrations and context_distill shows a context: without those they are other methods."""
    hints = registry.get("hints").function
    uft, distilled = (registry.get(name).function for name in ("uft", "context_distill"))
    for stage in (hints(registry.get("grpo").function(TASK)), uft(TASK, demonstrations()), distilled(TASK)):
        with pytest.raises(ConfigError, match="guided already"):
            hints(stage)
