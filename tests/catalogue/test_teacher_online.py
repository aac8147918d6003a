"""A teacher on the learner's own rollouts. Expectations are exact: every response of at most two tokens is listed, with
its probability as weight."""

from __future__ import annotations

import functools
from itertools import product

import numpy as np
import pytest
import torch

from offon.parts import Artefact, behavior, credit, divergence, per_remaining, policy, policy_gradient
from offon.parts.credits import return_to_go, teacher_logratio
from offon.parts.models import SELF, SELF_START, Need
from offon.parts.terms import Likelier, Reading
from offon.train.loop import assign_credit
from offon.train.scoring import score, score_buffer, weigh
from offon.types import Group, Item, Producer, Sampling, Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue.cases import Case, difference, gradient, ready_case
from tests.catalogue.taught import V, collected, context, gradient_of, learner, prompts, stage, total, world
from tests.rounding import FLOAT32, FLOAT32_SUM
from tests.support import demonstrations

pytestmark = pytest.mark.slow

EOS, LOGP = 1, Need("logp", SELF, when="buffer")


def same(a, b, tolerance=FLOAT32_SUM):
    assert difference(a, b) < tolerance


def scored(groups, *refs, view="train"):
    for ref in refs:
        groups = score_buffer(world()(ref), groups, Need("logp", ref, view=view, when="buffer"), 10_000)
    return groups


@functools.cache
def every_response() -> tuple[list[Group], torch.Tensor]:
    """All responses of at most two tokens to one prompt, as the student would sample them; p(y) for each token."""
    listed = [[EOS], *([a, b] for a, b in product(range(V), repeat=2) if a != EOS)]
    (group,) = prompts(1)
    made = Producer(model="m", sampling=Sampling())
    members = (Trajectory.of(y, group.prompt, Source.LEARNER, producer=made, id=str(y)) for y in listed)
    groups = scored([group.add(*members)], SELF, Artefact("teacher"), SELF_START, Artefact("second"))
    groups = [g.map(lambda m: m.replace(behavior_logp=m.token_signals[LOGP.column])) for g in groups]
    batch = Batch.of(groups)
    total = torch.zeros(batch.n_sequences).index_add(0, batch.sequence, batch.columns[LOGP.column])
    assert float(total.exp().sum()) == pytest.approx(1, abs=FLOAT32)
    return groups, total.exp().double()[batch.sequence]


def expected_gradient(*terms, credit=None):
    """The gradient of sum_y p(y) sum_t loss_t(y), with p(y) and the prefixes given."""
    made = policy(*terms, credit=credit)
    groups, p = every_response()
    if made.credit is not None:
        groups = assign_credit(made, groups)
    batch = Batch.of(groups).with_weights({term.name: p for term in made.terms})
    return gradient(made, groups, world(), batch=batch)


@functools.cache
def sequence_kl_gradient():
    """d/dtheta of sum_y p(y) [log p(y) - log q(y)], by autograd through the probabilities themselves."""
    groups, _ = every_response()
    batch = Batch.of(groups).with_weights({})
    student = score(world(), batch, [Need("logp", SELF)])[Need("logp", SELF)]
    S = torch.zeros(batch.n_sequences).index_add(0, batch.sequence, student)
    Q = torch.zeros(batch.n_sequences).index_add(0, batch.sequence, batch.columns["logp@teacher"])
    parameters = world().learner.train_parameters()
    for parameter in parameters.values():
        parameter.grad = None
    (S.exp() * (S - Q)).sum().backward()
    return {name: p.grad.clone() for name, p in parameters.items()}


TO_TEACHER = teacher_logratio(Artefact("teacher"))
REWARDED = policy_gradient(advantage=credit, ratio=behavior)
REVERSE = divergence(to=Artefact("teacher"), kind="reverse")


def test_opd_is_the_reverse_kl_of_each_position_in_expectation():
    same(expected_gradient(REWARDED, credit=TO_TEACHER), expected_gradient(REVERSE))


def test_with_returns_to_go_it_is_the_reverse_kl_of_whole_responses():
    returns = TO_TEACHER >> return_to_go(signal=None)
    same(expected_gradient(REWARDED, credit=returns), sequence_kl_gradient())
    assert difference(expected_gradient(REVERSE), sequence_kl_gradient()) > 1e-2, "discount 0 is another gradient"


def test_minillms_exact_step_and_the_return_after_it_are_the_reverse_kl_of_whole_responses():
    """Its decomposition, before the length is divided out. With the return that counts the token itself, the first step
    counts twice."""

    class Unnormalised(type(per_remaining())):
        def __call__(self, group):
            def times_its_count(member):
                left = np.arange(len(member), 0, -1) - (self.start == "next")
                return member.with_token_signals(advantage=member.token_signals["advantage"] * left)

            return super().__call__(group).map(times_its_count)

    after, own = (TO_TEACHER >> Unnormalised(start=start) for start in ("next", "own"))
    same(expected_gradient(REWARDED, REVERSE, credit=after), sequence_kl_gradient())
    assert difference(expected_gradient(REWARDED, REVERSE, credit=own), sequence_kl_gradient()) > 0.1


def advantages(made, groups) -> np.ndarray:
    return np.concatenate([m.token_signals["advantage"] for g in assign_credit(made, groups) for m in g.members])


def test_a_teacher_that_is_the_student_grades_everything_0():
    groups, _ = every_response()
    itself = policy(REWARDED, credit=teacher_logratio(SELF_START))
    assert np.abs(advantages(itself, groups)).max() < FLOAT32


def test_opd_is_the_sampled_form_of_on_policy_distill():
    groups = collected("opd")
    same(gradient_of("on_policy_distill", groups, form="sampled"), gradient_of("opd", groups))
    made = learner("opd")
    expected = [m.token_signals["logp@teacher"] - m.behavior_logp for g in groups for m in g.members]
    assert np.allclose(advantages(made, groups), np.concatenate(expected), atol=FLOAT32)


def test_gopd_at_strength_1_is_opd_whatever_the_reference_and_at_0_stays_at_it():
    groups, _ = every_response()
    opd = advantages(learner("opd"), groups)
    for reference in (None, "second"):
        assert np.allclose(advantages(learner("g_opd", strength=1.0, reference=reference), groups), opd, atol=FLOAT32)
    still = advantages(learner("g_opd", strength=0.0, reference="second"), groups)
    members = groups[0].members
    assert np.allclose(still, np.concatenate([m.token_signals["logp@second"] - m.behavior_logp for m in members]))


def test_gopd_by_hand():
    """log q = -1, log ref = -2, log p = -1.5: 1.25 (-1 + 2) - (-1.5 + 2) = 0.75."""
    member = Trajectory.of([5], [2], Source.LEARNER, behavior_logp=[-1.5])
    member = member.with_token_signals(**{"logp@teacher": [-1.0], "logp@start": [-2.0]})
    group = Group(item=Item(id="a", prompt=""), views={"prompt": (2,)}, members=(member,))
    (graded,) = learner("g_opd").credit(group).members
    assert graded.token_signals["advantage"] == pytest.approx([0.75])


def test_returns_per_remaining_token_by_hand():
    """Rewards 1, 2, 6: own (9/3, 8/2, 6/1), from the next one on (8/2, 6/1, nothing)."""
    member = Trajectory.of([5, 6, 7], [2], Source.LEARNER).with_token_signals(token_reward=[1.0, 2.0, 6.0])
    group = Group(item=Item(id="a", prompt=""), views={"prompt": (2,)}, members=(member,))
    for start, expected in (("own", [3, 4, 6]), ("next", [4, 6, 0])):
        (graded,) = per_remaining(start=start)(group).members
        assert graded.token_signals["advantage"].tolist() == expected


# --- minillm ------------------------------------------------------------------------------------------------------


def test_minillm_weighs_by_the_mixture_that_was_sampled():
    """w = pi / (mix q + (1 - mix) p): behaviour log-probs are the mixture's, the reward's p is the student's own."""
    groups = collected("minillm")
    first = learner("minillm").credit.steps[0]
    for member in (m for g in groups for m in g.members):
        q, p = (np.exp(member.token_signals[f"logp@{name}"]) for name in ("teacher", "self"))
        assert np.allclose(np.exp(member.behavior_logp), 0.2 * q + 0.8 * p, rtol=FLOAT32_SUM)
        (graded,) = first(groups[0].replace(members=(member,))).members
        assert np.allclose(graded.token_signals["token_reward"], np.log(q / p), atol=FLOAT32_SUM)
    whitened = np.concatenate([m.token_signals["advantage"] for g in groups for m in g.members])
    assert whitened.mean() == pytest.approx(0, abs=FLOAT32) and whitened.std() == pytest.approx(1, abs=0.05)


def test_minillm_reads_text_beside_its_rollouts_and_never_as_them():
    """Text has a denominator of its own, no advantage, and no part in the whitening."""
    groups = collected("minillm", prompts(12), text=demonstrations(), text_share=0.5)
    made = learner("minillm", text=demonstrations())
    texts = [g for g in groups if (g.members[0].source == Source.EXTERNAL).all()]
    assert 0 < len(texts) < len(groups) and len({m.id for g in groups for m in g.members}) == len(groups)
    batch = weigh(Batch.of(groups), made.terms)
    external = batch.columns["source"] == Source.EXTERNAL
    for name, mine in (("replay", external), ("policy_gradient", ~external), ("divergence", ~external)):
        assert torch.allclose(batch.weights[name], mine.double() / mine.sum())
    assert all("advantage" not in g.members[0].token_signals for g in texts)
    own = np.concatenate([m.token_signals["advantage"] for g in groups if g not in texts for m in g.members])
    assert own.mean() == pytest.approx(0, abs=FLOAT32)


# --- gkd --------------------------------------------------------------------------------------------------------------


def test_gkd_on_own_samples_is_on_policy_distillation_and_on_data_it_is_kd():
    own = collected("on_policy_distill")
    for beta, kind in ((1.0, "reverse"), (0.0, "forward")):
        same(gradient_of("gkd", own, beta=beta), gradient_of("on_policy_distill", own, kind=kind))
    same(gradient_of("gkd", own, beta=0.3), gradient_of("on_policy_distill", own, kind="jsd", beta=0.3))
    data = demonstrations()
    same(gradient_of("gkd", data, beta=0.0), gradient_of("kd", data, alpha=1.0))


def sources(index: int, share: float) -> set[int]:
    groups = [g.replace(draw=6 * index + i) for i, g in enumerate(demonstrations()[:6])]
    found = collected("gkd", groups, index=index, on_policy=share)
    return {int(s) for g in found for m in g.members for s in m.source}


def test_gkd_tosses_one_coin_for_a_whole_step_and_the_same_coin_again():
    assert sources(0, 1.0) == {Source.LEARNER} and sources(0, 0.0) == {Source.EXTERNAL}
    tossed = [sources(index, 0.5) for index in range(8)]
    assert all(len(found) == 1 for found in tossed) and len(set(map(tuple, tossed))) == 2
    assert tossed == [sources(index, 0.5) for index in range(8)]


def test_gkd_without_data_reads_what_the_teacher_writes():
    groups = collected("gkd", data=None, on_policy=0.0)
    assert {m.producer.model for g in groups for m in g.members} == {"teacher"}


# --- contexts and privilege -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["context_opd", "opsd"])
def test_an_empty_context_teaches_nothing(row):
    arguments = {"template": "{prompt}", **({"teacher": None} if row == "context_opd" else {})}
    groups = collected(row, **arguments)
    assert total(learner(row, **arguments), groups) == pytest.approx(0, abs=FLOAT32)
    told = collected(row, **{**arguments, "template": "w9 {prompt}"})
    assert total(learner(row, **{**arguments, "template": "w9 {prompt}"}), told) > 1e-3


def test_opsd_with_nothing_to_tell_has_no_gradient_and_the_wrong_view_is_that():
    """The negative control: privilege that the teacher does not read gives exactly what no privilege gives."""
    groups = collected("opsd", view="hint", template=None)
    found = gradient_of("opsd", groups, view="hint", template=None)
    unread = gradient_of("opsd", groups, view="train", template=None)
    norm = {name: float(g.norm()) for name, g in found.items()}
    assert max(norm.values()) > 1e-2
    assert all(float(g.norm()) < 1e-3 * max(norm.values()) for g in unread.values())


def test_the_student_never_sees_what_its_teacher_is_told():
    for groups, view in (
        (collected("opsd", view="hint", template=None), "hint"),
        (collected("sdpo", **SHOWN), "sibling"),
    ):
        for group in groups:
            for member in group.members:
                assert member.prefix("train") == member.prefix("sample") == group.prompt != member.prefix(view)


def test_context_opd_on_the_whole_vocabulary_is_the_reverse_kl_to_the_model_with_the_context():
    groups = collected("context_opd", view="hint")
    whole = policy(divergence(to=Artefact("teacher"), kind="reverse", view="hint"))
    same(gradient_of("context_opd", groups, view="hint", top=V), gradient(whole, groups, world()), 1e-3)


# --- sdpo -----------------------------------------------------------------------------------------------------------

SHOWN = {"template": "{prompt} w9 {sibling}", "top": 4}


def rewarded(rewards):
    """A group of hand-written rollouts with these rewards, after sdpo's last collector."""
    (group,) = prompts(1)
    members = [
        Trajectory.of([3 + i, EOS], group.prompt, Source.LEARNER, signals={"reward": r}, text=f"w{1 + i}", id=str(i))
        for i, r in enumerate(rewards)
    ]
    (told,) = stage("sdpo", **SHOWN).collect.parts[-1](context(), [group.add(*members)])
    return told


def test_each_member_reads_a_sibling_that_succeeded_and_never_itself():
    told = rewarded([0.0, 1.0, 1.0])
    prompt = told.prompt
    shown = {m.id: m.prefix("sibling")[len(prompt) :] for m in told.members}
    assert shown == {"0": (11, 4), "1": (11, 5), "2": (11, 4)}, "w2 is token 4, w3 token 5, w9 token 11"


def test_without_a_success_there_is_nothing_to_learn_and_a_lone_success_learns_nothing():
    failed = rewarded([0.0, 0.0])
    assert not failed.members and {reason for _, reason in failed.dropped} == {"no other member succeeded"}
    alone = rewarded([0.0, 1.0])
    assert [m.id for m in alone.members] == ["0"] and [m.id for m, _ in alone.dropped] == ["1"]
    batch = Batch.of([failed])
    assert weigh(batch, learner("sdpo", **SHOWN).terms).total_weight() == 0


def test_the_gain_is_the_ratio_up_to_2():
    groups, _ = every_response()
    shift = np.log([0.5, 1.5, 3.0])
    members = groups[0].members[1:4]
    moved = [m.replace(behavior_logp=m.behavior_logp - s) for m, s in zip(members, shift, strict=True)]
    batch = Batch.of([groups[0].replace(members=tuple(moved))])
    need = Need("logp", SELF)
    reading = Reading(batch, score(world(), batch, [need]), torch.ones(batch.n_tokens, dtype=torch.bool))
    assert Likelier(2.0)(reading)[::2].tolist() == pytest.approx([0.5, 1.5, 2.0], rel=FLOAT32_SUM)


def test_sdpo_scales_the_divergence_of_each_token_by_its_gain():
    made = learner("sdpo", **SHOWN)
    groups = collected("sdpo", **SHOWN)
    batch = weigh(Batch.of(groups), made.terms)
    plain = policy(divergence(**{**vars(made.terms[0]), "factor": None}))
    scores = score(world(), batch, made.needs)
    aged = Batch.of([g.map(lambda m: m.replace(behavior_logp=m.behavior_logp - np.log(1.5))) for g in groups])
    units = made.terms[0].units(aged.with_weights(batch.weights), scores)[0]
    assert torch.allclose(units, 1.5 * plain.terms[0].units(batch, scores)[0], rtol=FLOAT32_SUM)


# --- several teachers -----------------------------------------------------------------------------------------------


def test_each_prompt_is_graded_by_the_teacher_of_its_domain():
    """Through the real loop: the column of the route is the log-prob of the domain's own teacher, and no other's."""
    teachers = {"even": "teacher", "odd": "second"}
    (found,) = ready_case(Case("multi_teacher_opd", {"teachers": teachers, "by": "domain"}, None))
    column = found.learner.credit.needs[0].column
    for group in found.groups:
        for domain, name in teachers.items():
            need = Need("logp", Artefact(name), when="buffer")
            (own,) = score_buffer(found.models(need.model), [group], need, 10_000)
            gap = max(np.abs(m.token_signals[column] - m.token_signals[need.column]).max() for m in own.members)
            assert (gap < FLOAT32) == (group.item.columns["domain"] == domain)


def test_one_teacher_for_every_domain_is_opd_at_the_first_step():
    """Sampler and learner agree, so no token leaves the band and every weight is 1."""
    groups = collected("opd")
    made = learner("multi_teacher_opd", teachers={"even": "teacher", "odd": "teacher"}, by="domain")
    need = made.credit.needs[0]
    routed = [g.map(lambda m: m.with_token_signals(**{need.column: m.token_signals["logp@teacher"]})) for g in groups]
    routed = scored(routed, SELF)
    same(gradient(made, assign_credit(made, routed), world()), gradient_of("opd", groups))
