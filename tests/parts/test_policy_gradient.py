"""The slots of the policy gradient: each is autograd of the surrogate it stands for, and what is detached stays so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offon.errors import ConfigError
from offon.parts import (
    SELF,
    SELF_START,
    AbsoluteLogRatio,
    CapWeight,
    Clip,
    ClipCovariance,
    EntropyWeight,
    HighEntropy,
    ImportanceWeight,
    Kl,
    Mask,
    Need,
    P,
    PowerOfP,
    Ratio,
    Shaped,
    ShapedRatio,
    SoftGate,
    TopCovariance,
    Truncate,
    Uncertainty,
    behavior,
    credit,
    one,
    per_sequence,
    per_sequence_sum,
    per_token,
    policy_gradient,
    proximal,
)
from offon.parts.terms import PROXIMAL
from offon.train.scoring import prepare, weigh
from offon.types import Group, Item, Source, Trajectory
from offon.types.batch import Batch
from tests.rounding import FLOAT32, FLOAT64, STORED

LENGTHS = (1, 3, 2)
SEQUENCE = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
BEHAVIOR = np.array([-1.0, -0.6, -2.0, -0.9, -0.3, -1.4])
PROX = np.array([-1.1, -0.5, -0.9, -0.9, -0.4, -3.4])
REFERENCE = torch.tensor([-1.2, -0.4, -2.5, -0.7, -0.3, -1.0], dtype=torch.float64)
ENTROPY = torch.tensor([0.1, 1.9, 0.7, 0.2, 1.1, 0.3], dtype=torch.float64)
ADVANTAGE = np.array([1.0, -0.5, 2.0, 0.7, -1.0, -0.3])
LOGP = [-0.7, -0.9, -1.0, -1.6, -0.1, -1.5]


def batch() -> Batch:
    members, first = [], 0
    for n in LENGTHS:
        part = slice(first, first + n)
        member = Trajectory.of([3] * n, [5], Source.LEARNER, behavior_logp=BEHAVIOR[part], id=str(first))
        members.append(member.with_token_signals(**{PROXIMAL.column: PROX[part], "advantage": ADVANTAGE[part]}))
        first += n
    return Batch.of([Group(item=Item(id="i", prompt="p"), views={"prompt": (5,)}, members=tuple(members))])


class Scored:
    """Scores by hand in place of a model's: the log-probs are leaves, so that gradients by them can be read off."""

    def __init__(self):
        self.logp = torch.tensor(LOGP, dtype=torch.float64, requires_grad=True)
        step = Need("logp", SELF, when="step"), Need("entropy", SELF, when="step")
        self.scores = {
            Need("logp", SELF): self.logp, Need("logp", SELF_START): REFERENCE, Need("entropy", SELF): ENTROPY,
            step[0]: self.logp.detach(), step[1]: ENTROPY,
        }  # fmt: skip


def slope(term) -> torch.Tensor:
    """d loss / d logp of each token, times the weights (one per token unless the term says otherwise), [M]."""
    scored, b = Scored(), weigh(batch(), [term])
    b = term.prepare(b, scored.scores)
    units, metrics = term.units(b, scored.scores)
    assert all(np.isfinite(total) for total, _ in metrics.values())
    (gradient,) = torch.autograd.grad((units * b.weights[term.name]).sum(), scored.logp)
    return gradient


def of_surrogate(loss) -> torch.Tensor:
    """The same from a surrogate of (logp) -> per-token losses, averaged over the six tokens."""
    logp = torch.tensor(LOGP, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logp).sum() / 6, logp)
    return gradient


A = torch.tensor(ADVANTAGE, dtype=torch.float32).double()
MU, OLD = (torch.tensor(x, dtype=torch.float32).double() for x in (BEHAVIOR, PROX))


def ratio(logp, anchor=MU):
    return (logp - anchor).exp()


def clipped(r, low, high):
    return -torch.minimum(r * A, r.clamp(1 - low, 1 + high) * A)


def mean_by_sequence(value):
    sums = torch.zeros(3, dtype=value.dtype).index_add(0, SEQUENCE, value)
    return (sums / torch.tensor(LENGTHS))[SEQUENCE]


def dual(logp):
    pessimist = clipped(ratio(logp), 0.2, 0.2)
    return torch.where(A < 0, torch.minimum(pessimist, -1.2 * A), pessimist)


def gmpo(logp):
    """SEQ mean of -ratio_i A_i as 1/(3 |y|) per token, times 6 to undo the average over six tokens."""
    a, d = mean_by_sequence(A), logp - MU
    c = torch.where(a > 0, torch.minimum(d, torch.tensor(0.25)), torch.maximum(d, torch.tensor(-0.25)))
    return -(6 / 3) * mean_by_sequence(c).exp() * a / torch.tensor(LENGTHS)[SEQUENCE]


TAU = torch.where(A > 0, 1.0, 1.05)
SURROGATES = {
    "clip": (dict(trust=Clip(0.2, 0.28)), lambda lp: clipped(ratio(lp), 0.2, 0.28)),
    "dual clip": (dict(trust=Clip(0.2, 0.2, dual=1.2)), dual),
    "no trust": ({}, lambda lp: -ratio(lp) * A),
    "cap relative": (dict(trust=CapWeight(0.1)), lambda lp: -ratio(lp).detach().clamp(max=1.1) * A * lp),
    "cap absolute": (
        dict(trust=CapWeight(1.05, low=0.8, absolute=True)), lambda lp: -ratio(lp).detach().clamp(0.8, 1.05) * A * lp
    ),
    "soft gate": (
        dict(trust=SoftGate(1.0, 1.05)),
        lambda lp: -(4 / TAU) * (TAU * (ratio(lp) - 1)).sigmoid() * A,
    ),
    "shaped ratio": (dict(trust=ShapedRatio(0.1)), lambda lp: -(ratio(lp) / (ratio(lp) + 0.1)) * A),
    "proximal": (dict(ratio=proximal, trust=Clip()), lambda lp: clipped(ratio(lp, OLD), 0.2, 0.2)),
}  # fmt: skip


@pytest.mark.parametrize("name", SURROGATES)
def test_coefficients_are_autograd_of_the_papers_surrogate(name):
    slots, surrogate = SURROGATES[name]
    term = policy_gradient(**{"advantage": credit, "ratio": behavior, **slots})
    assert torch.allclose(slope(term), of_surrogate(surrogate), atol=STORED)


def test_gspo_is_the_sequence_mean_of_its_clipped_ratio():
    """SEQ[min(s A, clip(s) A)], A the same over a sequence: the gradient of GSPO and of GSPO-token."""

    def surrogate(logp):
        s, a = mean_by_sequence(logp - MU).exp(), mean_by_sequence(A)
        loss = -torch.minimum(s * a, s.clamp(0.97, 1.04) * a)
        return (6 / 3) * loss / torch.tensor(LENGTHS)[SEQUENCE]

    assert torch.allclose(
        with_sequence_advantage(Ratio(level="geometric"), Clip(0.03, 0.04)), of_surrogate(surrogate), atol=STORED
    )


def test_gmpo_clips_in_log_space_before_the_mean():
    got = with_sequence_advantage(Ratio(level="geometric", log_clip=0.25), None)
    assert torch.allclose(got, of_surrogate(gmpo), atol=STORED)
    assert (got == 0).any()


def test_gmpo_without_clipping_is_gspo_without_clipping():
    plain = with_sequence_advantage(Ratio(level="geometric"), None)
    assert torch.equal(with_sequence_advantage(Ratio(level="geometric", log_clip=99.0), None), plain)


def with_sequence_advantage(level, trust) -> torch.Tensor:
    term = policy_gradient(advantage=credit, ratio=level, trust=trust, reduce=per_sequence)
    scored, b = Scored(), weigh(batch(), [term])
    b = b.with_columns({"advantage": mean_by_sequence(A)})
    units, _ = term.units(b, scored.scores)
    (gradient,) = torch.autograd.grad((units * b.weights[term.name]).sum(), scored.logp)
    return gradient


GAINS = {
    "p is the gradient of -p": (P(), lambda lp: -lp.exp()),
    "power is the gradient of (1 - p^a) / a": (PowerOfP(0.5), lambda lp: (1 - lp.exp() ** 0.5) / 0.5),
    "p thresholds": (PowerOfP(0.0, at_least=0.3), lambda lp: -lp * (lp.exp() >= 0.3)),
    "p at most": (PowerOfP(1.0, at_most=0.4), lambda lp: -lp.exp() * (lp.exp() <= 0.4)),
    "uncertainty is p - p^2/2": (Uncertainty(), lambda lp: -(lp.exp() - lp.exp() ** 2 / 2)),
    "shaped p": (Shaped(0.1), lambda lp: -lp.exp() / (lp.exp() + 0.1)),
    "entropy weight": (EntropyWeight(0.5, -1.0), lambda lp: -0.5 * (-mean_by_sequence(ENTROPY)).exp() * lp),
    "iw sequence": (
        ImportanceWeight(power=2.0), lambda lp: -(2 * mean_by_sequence(lp - REFERENCE)).exp().detach() * lp
    ),
    "iw token": (
        ImportanceWeight(low=0.8, high=1.2, level="token"),
        lambda lp: -(lp - REFERENCE).exp().detach().clamp(0.8, 1.2) * lp,
    ),
    "k1": (Kl("k1"), lambda lp: lp - REFERENCE),
    "k2": (Kl("k2"), lambda lp: (lp - REFERENCE) ** 2 / 2),
    "k3": (Kl("k3"), lambda lp: (REFERENCE - lp).exp() - 1 + lp - REFERENCE),
    "ratio k1": (Kl("k1", over=behavior), lambda lp: ratio(lp) * (lp - REFERENCE)),
    "ratio k3": (Kl("k3", over=behavior), lambda lp: ratio(lp) * ((REFERENCE - lp).exp() - 1 + lp - REFERENCE)),
    "absolute log-ratio": (AbsoluteLogRatio(behavior), lambda lp: (lp - MU).abs()),
}  # fmt: skip


@pytest.mark.parametrize("name", GAINS)
def test_gains_are_gradients_of_what_they_stand_for(name):
    gain, surrogate = GAINS[name]
    assert torch.allclose(slope(policy_gradient(advantage=one, factor=gain)), of_surrogate(surrogate), atol=STORED)


def test_a_power_tends_to_likelihood_and_to_dft():
    sft = slope(policy_gradient(advantage=one))
    assert torch.allclose(slope(policy_gradient(advantage=one, factor=PowerOfP(1e-9))), sft, atol=1e-8)
    assert torch.equal(slope(policy_gradient(advantage=one, factor=PowerOfP(0.0))), sft)


def test_shaping_tends_to_p_over_gamma():
    shaped = slope(policy_gradient(advantage=one, factor=Shaped(1e6))) * 1e6
    assert torch.allclose(shaped, slope(policy_gradient(advantage=one, factor=P())), rtol=FLOAT32)


@pytest.mark.parametrize("level, pool", [("token", lambda d: d), ("geometric", mean_by_sequence)])
def test_corrections_multiply_by_proximal_over_behaviour(level, pool):
    base = slope(policy_gradient(advantage=credit, ratio=proximal, trust=Clip()))
    rho = pool(OLD - MU).exp()
    for correction, factor in (
        (Truncate(level=level, cap=1.2), rho.clamp(max=1.2)),
        (Mask(level=level, low=0.5, high=1.2), rho * ((rho >= 0.5) & (rho <= 1.2))),
    ):
        got = slope(policy_gradient(advantage=credit, ratio=proximal, trust=Clip(), correction=correction))
        assert torch.allclose(got, factor * base, atol=STORED)


def test_a_correction_without_bounds_is_the_ratio_to_the_sampler():
    """r_prox * rho = pi / behaviour: importance weighting, whatever lies between."""
    got = slope(policy_gradient(advantage=credit, ratio=proximal, correction=Truncate(cap=1e9)))
    assert torch.allclose(got, slope(policy_gradient(advantage=credit, ratio=behavior)), atol=STORED)


def test_masked_tokens_count_or_do_not():
    """rho > 1.2 on one of the six tokens (exp(1.1)) and rho < 0.5 on another (exp(-2)): 6 or 4 in the denominator."""
    term = {
        count: policy_gradient(advantage=credit, ratio=proximal, correction=Mask(low=0.5, high=1.2, count=count))
        for count in ("original", "kept")
    }
    assert torch.allclose(slope(term["kept"]), slope(term["original"]) * 6 / 4)


def test_correcting_a_ratio_against_the_sampler_is_refused():
    with pytest.raises(ConfigError, match="twice"):
        policy_gradient(advantage=credit, ratio=behavior, correction=Truncate())


def test_an_entropy_quantile_keeps_a_share_and_the_denominator():
    """Entropies .1 1.9 .7 .2 1.1 .3: the top third are the second and the fifth; the others count and push nothing."""
    base = slope(policy_gradient(advantage=credit, ratio=behavior))
    kept = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    assert torch.allclose(
        slope(policy_gradient(advantage=credit, ratio=behavior, token_mask=HighEntropy(1 / 3))), base * kept
    )


def covariance() -> torch.Tensor:
    lp = torch.tensor(LOGP, dtype=torch.float64)
    return (A - A.mean()) * (lp - lp.mean())


def test_clip_cov_drops_a_share_of_the_tokens_within_the_band():
    base = slope(policy_gradient(advantage=credit, ratio=behavior))
    inside = (covariance() > 0.05) & (covariance() < 0.5)
    for share, dropped in ((1 / 3, 2), (1.0, int(inside.sum()))):
        got = slope(policy_gradient(advantage=credit, ratio=behavior, token_mask=ClipCovariance(share, 0.05, 0.5)))
        gone = (got == 0) & (base != 0)
        assert int(gone.sum()) == dropped and not (gone & ~inside).any()


def test_clip_cov_leaves_tokens_that_the_clip_stopped_to_the_clip():
    """Within an open band every token is eligible but those already stopped: with share 1 all of them go."""
    term = policy_gradient(
        advantage=credit, ratio=behavior, trust=Clip(0.2, 0.2), token_mask=ClipCovariance(1.0, -9.0, 9.0), name="t"
    )
    scored = Scored()
    b = term.prepare(weigh(batch(), [term]), scored.scores)
    stopped = slope(policy_gradient(advantage=credit, ratio=behavior, trust=Clip(0.2, 0.2))) == 0
    assert b.columns["t/kept"].tolist() == stopped.tolist() and stopped.any()


def test_kl_cov_acts_on_the_tokens_of_highest_covariance():
    got = slope(policy_gradient(advantage=one, factor=AbsoluteLogRatio(behavior), token_mask=TopCovariance(1 / 3)))
    assert set(got.nonzero()[:, 0].tolist()) == set(covariance().topk(2).indices.tolist())


@pytest.mark.parametrize("slots", [
    dict(advantage=credit, ratio=behavior, trust=SoftGate()),
    dict(advantage=credit, ratio=Ratio(level="sequence"), trust=CapWeight(5.0, absolute=True)),
    dict(advantage=one, factor=Kl("k3", over=behavior)),
    dict(advantage=one, factor=PowerOfP(0.01)),
    dict(advantage=one, factor=ImportanceWeight(power=9.0)),
    dict(advantage=credit, ratio=proximal, correction=Mask(level="sequence")),
])  # fmt: skip
@pytest.mark.parametrize("extreme", [0.0, -1e4])
def test_extreme_log_probs_give_finite_gradients(slots, extreme):
    term = policy_gradient(**slots)
    scored, b = Scored(), weigh(batch(), [term])
    logp = torch.full((6,), extreme, requires_grad=True)
    units, _ = term.units(b, {**scored.scores, Need("logp", SELF): logp})
    (gradient,) = torch.autograd.grad((units * b.weights[term.name]).sum(), logp)
    assert gradient.isfinite().all()


def test_preparing_needs_no_model_where_no_term_asks_for_one():
    def no_model(ref):
        raise AssertionError(f"{ref} was loaded")

    term = policy_gradient(advantage=one)
    assert prepare(no_model, [term], weigh(batch(), [term]), None).n_tokens == 6


@pytest.mark.parametrize(
    "trust", [None, Clip(), Clip(dual=3.0), CapWeight(0.2), CapWeight(5.0, absolute=True), SoftGate()]
)
@pytest.mark.parametrize("level", ["token", "geometric", "sequence"])
def test_at_ratio_1_every_trust_and_level_is_reinforce(trust, level):
    """methods.md 1.4: PPO, GRPO, GSPO, GSPO-token, CISPO, GMPO and SAPO have one gradient on fresh samples."""
    scored, plain = Scored(), policy_gradient(advantage=credit)
    terms = [plain, policy_gradient(advantage=credit, ratio=Ratio(level=level), trust=trust)]
    if level == "geometric":
        terms.append(policy_gradient(advantage=credit, ratio=Ratio(level=level, log_clip=0.4), trust=trust))
    slopes = []
    for term in terms:
        b = weigh(batch(), [term]).with_columns({"behavior_logp": scored.logp.detach()})
        units, _ = term.units(b, scored.scores)
        slopes.append(torch.autograd.grad((units * b.weights[term.name]).sum(), scored.logp, retain_graph=True)[0])
    assert all(torch.allclose(found, slopes[0], atol=FLOAT64) for found in slopes)


def test_a_sequence_written_twice_counts_once_per_sequence_and_more_per_token():
    """methods.md 1.4.9: repeating every token of one sequence leaves its share of per_sequence, not of the others."""
    shares = {}
    for n in (2, 4):
        members = [Trajectory.of([3] * length, [5], Source.LEARNER) for length in (n, 2)]
        b = Batch.of([Group(item=Item(id="i", prompt="p"), views={"prompt": (5,)}, members=tuple(members))])
        for reduce in (per_sequence, per_token, per_sequence_sum):
            weight = policy_gradient(advantage=one, reduce=reduce).weigh(b)
            shares[reduce.kind, n] = float(weight[b.sequence == 0].sum() / weight[b.sequence == 1].sum())
    assert shares == {
        ("per_sequence", 2): 1, ("per_sequence", 4): 1, ("per_token", 2): 1, ("per_token", 4): 2,
        ("per_sequence_sum", 2): 1, ("per_sequence_sum", 4): 2,
    }  # fmt: skip
