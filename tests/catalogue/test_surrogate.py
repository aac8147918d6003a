"""What is computed in place of a surrogate has its gradient and not its value; pages say of which rows that is true."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from offon.api.catalogue_entry import in_full
from offon.catalogue import registry
from offon.catalogue.page import section
from offon.catalogue.surrogate import SAME_GRADIENT, SAME_VALUE
from offon.cli.pages import page
from offon.parts.models import SELF, Need
from offon.parts.terms import Clip, Kl, Mask, PolicyGradient, Ratio, Reading, behavior
from offon.train.scoring import step_loss, weigh
from offon.types import Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue.rewarded import learner
from tests.catalogue.variants import Response, Seen
from tests.catalogue.variants.grpo import clipped_mean, per_response, per_token, token_ratios
from tests.support import ParityTask, prompt_group

SELF_LOGP = Need("logp", SELF)


def loss_and_surrogate(row, surrogate, advantages, logp, old):
    """((logged loss, its gradient), (the paper's loss, its gradient)): one group, a response for each advantage."""
    group = prompt_group(ParityTask().items("train")[0])
    for advantage, lp, bp in zip(advantages, logp, old, strict=True):
        member = Trajectory.of([2] * len(lp), group.prompt, Source.LEARNER, behavior_logp=bp, signals={"reward": 0.0})
        group = group.add(member.with_token_signals(advantage=np.full(len(lp), advantage)))
    made = learner(row)
    leaf = torch.tensor(np.concatenate(logp), dtype=torch.float64, requires_grad=True)
    coefficients = {term.name: term.coef for term in made.terms}
    logged, _ = step_loss(made.terms, weigh(Batch.of([group]), made.terms), {SELF_LOGP: leaf}, coefficients)
    paper_leaf = leaf.detach().clone().requires_grad_()
    rows = paper_leaf.split([len(lp) for lp in logp])
    columns = [{"behavior_logp": torch.tensor(bp, dtype=torch.float64)} for bp in old]
    seen = [Response(None, lp, column) for lp, column in zip(rows, columns, strict=True)]
    paper = surrogate([Seen(seen)], torch.tensor(advantages, dtype=torch.float64))
    gradients = [torch.autograd.grad(loss, of)[0].tolist() for loss, of in ((logged, leaf), (paper, paper_leaf))]
    return (logged.item(), gradients[0]), (paper.item(), gradients[1])


def grpo(groups, advantages):
    return per_response(groups, lambda group: advantages, clipped_mean((0.2, 0.2)))


def cispo(groups, advantages):
    return per_token(groups, lambda group: advantages, lambda r, a: token_ratios(r).clamp(max=5.0).detach() * a * r.lp)


def test_the_logged_loss_of_grpo_is_not_the_surrogate_and_its_gradient_is():
    """Two responses of one token, A = (1, -1), lp = (-1, -2), r = (e^.1, e^-.1), both inside the clip; N = 2.

    surrogate  -1/2 (e^.1 - e^-.1) = -sinh .1                    = -0.100167
    logged     -1/2 (e^.1 (-1) - e^-.1 (-2)) = e^.1 / 2 - e^-.1  = -0.352252
    gradient   -1/2 (e^.1, -e^-.1) of both
    """
    logged, paper = loss_and_surrogate("grpo", grpo, [1.0, -1.0], [[-1.0], [-2.0]], [[-1.1], [-1.9]])
    assert paper[0] == pytest.approx(-np.sinh(0.1)) and logged[0] == pytest.approx(np.exp(0.1) / 2 - np.exp(-0.1))
    assert logged[1] == pytest.approx([-np.exp(0.1) / 2, np.exp(-0.1) / 2]) and logged[1] == pytest.approx(paper[1])


def test_a_clipped_token_counts_in_the_surrogate_and_not_in_the_logged_loss():
    """A = 1, r = e^.5 > 1.2: the surrogate says -1.2, the logged loss 0, and neither has a gradient."""
    logged, paper = loss_and_surrogate("grpo", grpo, [1.0], [[-1.0]], [[-1.5]])
    assert (logged[0], logged[1]) == (0.0, [0.0])
    assert (paper[0], paper[1]) == (pytest.approx(-1.2), [0.0])


def test_cispo_is_computed_as_it_stands():
    """A = 1, lp = -1, r = e^2 capped at 5: -5 * -1 = 5, which is what its page says."""
    logged, paper = loss_and_surrogate("cispo", cispo, [1.0], [[-1.0]], [[-3.0]])
    assert logged[0] == pytest.approx(5.0) == paper[0] and logged[1] == pytest.approx([-5.0]) == paper[1]
    assert registry.get("cispo").computed.sentence == SAME_VALUE


def test_every_row_with_a_ratio_states_a_surrogate_and_its_page_what_is_computed():
    for info in registry.catalogue():
        if info.kind != "stage":
            continue
        terms = [term for made in info.example().learners for term in made.terms if isinstance(term, PolicyGradient)]
        assert (info.computed is not None) == any(term.ratio for term in terms), info.name
        if info.computed:
            assert "L = " in info.doc or "L_" in info.doc, info.name
            assert info.computed.sentence in section(info) and " ".join(info.computed.sentence.split()) in " ".join(
                page(in_full(info)).split()
            )
    assert registry.get("grpo").computed.sentence == SAME_GRADIENT
    assert registry.get("reinforce").computed is None and registry.get("sft").computed is None


def test_formulas_carry_the_numbers_of_the_row():
    grpo, dapo, gspo = ("\n".join(registry.get(row).computed.formulas) for row in ("grpo", "dapo", "gspo"))
    assert grpo.startswith("-1/N sum_i 1/|y_i| sum_t sg(mask_t r_t A_t) log pi(y_t)")
    assert "A_t > 0 and r_t > 1.2, or A_t < 0 and r_t < 0.8" in grpo
    assert dapo.startswith("-1/M sum_t sg(mask_t r_t A_t)") and "r_t > 1.28" in dapo
    assert "s_i > 1.0004" in gspo and "s_i = exp(1/|y_i|" in gspo
    dual = PolicyGradient(advantage=learner("grpo").terms[0].advantage, ratio=behavior, trust=Clip(dual=3.0))
    assert "or A_t < 0 and r_t > 3; else 1" in dual.formula.meaning[1]
    corrected = dataclasses.replace(dual, ratio=Ratio("proximal"), correction=Mask(level="sequence"))
    assert corrected.formula.factor == "-1/M sum_t sg(rho_t mask_t r_t A_t) log pi(y_t)"
    assert "r_t = pi(y_t) / pi_buffer(y_t)" in corrected.formula.meaning


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("over", [None, behavior])
def test_the_formula_of_a_kl_evaluates_to_its_factor(kind, over):
    """lp = -1, lp_start = -1.3, lp_sampled = -1.2: d = .3, r = e^.2."""
    factor = Kl(kind, over=over)
    logp, start, old = (torch.tensor([value], dtype=torch.float64) for value in (-1.0, -1.3, -1.2))
    group = prompt_group(ParityTask().items("train")[0])
    group = group.add(Trajectory.of([2], group.prompt, Source.LEARNER, behavior_logp=old.tolist()))
    batch = Batch.of([group]).with_columns({"behavior_logp": old})
    value = factor(Reading(batch, {SELF_LOGP: logp, factor.needs[0]: start}, torch.ones(1, dtype=torch.bool)))
    written = factor.formula.factor.replace("^", "**").replace("r_t (", "r_t * (").replace("r_t d_t", "r_t * d_t")
    assert eval(written, {"d_t": 0.3, "r_t": np.exp(0.2), "exp": np.exp}) == pytest.approx(float(value))
