"""Likelihood ratios, and what keeps them from running away: trust regions and corrections for another sampler.

Axes: M tokens. Everything here is detached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from offon.lazy import Tensor, torch
from offon.maths import policy_gradient as maths
from offon.parts.models import SELF, Need
from offon.parts.terms.protocol import Formula, Reading
from offon.types.batch import Batch

Level = Literal["token", "geometric", "sequence"]
PROXIMAL = Need("logp", SELF, when="buffer")


@dataclass(frozen=True)
class Ratio:
    """pi(y) / pi_anchor(y). anchor "behavior": the distribution that was sampled; "proximal": the learner when the
    buffer was filled. level: token, geometric (mean of the log-ratio over a sequence) or sequence (its sum).

    log_clip (with geometric): the log-ratio of a token stops at +-log_clip in the direction of its advantage before
    the mean is taken, and a token stopped there has no gradient (GMPO).
    """

    anchor: Literal["behavior", "proximal"] = "behavior"
    level: Level = "token"
    log_clip: float | None = None

    @property
    def needs(self) -> tuple[Need, ...]:
        return (PROXIMAL,) if self.anchor == "proximal" else ()

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"behavior_logp"} if self.anchor == "behavior" else ())

    @property
    def symbol(self) -> str:
        return "r_t" if self.level == "token" else "s_i"

    @property
    def formula(self) -> Formula:
        """What the symbol means; the factor is what stops tokens before the mean."""
        to = {"behavior": "pi_sampled", "proximal": "pi_buffer"}[self.anchor]
        of_token, log = f"pi(y_t) / {to}(y_t)", f"log pi(y_t) - log {to}(y_t)"
        match self.level:
            case "token":
                return Formula("", (f"r_t = {of_token}",))
            case "sequence":
                return Formula("", (f"s_i = exp(sum_t ({log}))",))
        if self.log_clip is None:
            return Formula("", (f"s_i = exp(1/|y_i| sum_t ({log}))",))
        bound = f"{self.log_clip:g}"
        stopped = f"A_t > 0 and d_t > {bound}, or A_t < 0 and d_t < -{bound}"
        pooled = f"s_i = exp(1/|y_i| sum_t c_t), c_t = d_t, or +-{bound} where inside_t = 0"
        return Formula("inside_t", (f"inside_t = 0 where {stopped}; else 1", pooled, f"d_t = {log}"))

    def log_ratio(self, reading: Reading, logp_M: Tensor) -> Tensor:
        """log pi(y_t) - log pi_anchor(y_t) per token, 0 where not selected. [M]."""
        anchor = reading.batch.columns["behavior_logp" if self.anchor == "behavior" else PROXIMAL.column]
        return torch.where(reading.selected, logp_M - anchor.to(logp_M), torch.zeros_like(logp_M)).detach()

    def __call__(self, reading: Reading, logp_M: Tensor, advantage_M: Tensor) -> tuple[Tensor, Tensor]:
        """(the ratio, the tokens that were stopped before the mean), [M] each."""
        d, batch = self.log_ratio(reading, logp_M), reading.batch
        stopped = torch.zeros_like(reading.selected)
        if self.log_clip is not None:
            d, stopped = maths.clip_log_ratio(d, advantage_M, self.log_clip)
        ratio = maths.pooled_ratio(d, batch.sequence, batch.n_sequences, self.level, reading.selected)
        return ratio, stopped


behavior = Ratio("behavior")
proximal = Ratio("proximal")


class Trust(ABC):
    """How far a ratio is trusted: the factor on the advantage, from the ratio and the advantage's sign.

    detached: the papers write the factor as a weight without gradient, so that their loss is the one computed. Of any
    other, the factor is what differentiating the papers' loss leaves.
    """

    detached: ClassVar[bool] = False

    def formula(self, ratio: str) -> Formula:
        """The factor for a ratio of this symbol."""
        return Formula(f"trust({ratio})", (f"trust as {type(self).__name__} says",))

    @abstractmethod
    def __call__(self, ratio_M: Tensor, advantage_M: Tensor) -> tuple[Tensor, Tensor]:
        """(factor, the tokens on which it held the ratio back), [M] each."""


@dataclass(frozen=True)
class Clip(Trust):
    """Tokens whose ratio has left [1 - low, 1 + high] in the direction of their advantage stop pushing.

    dual: also those with a negative advantage and a ratio over `dual` (dual clip, arXiv:1912.09729; verl's default 3).
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None

    def formula(self, ratio: str) -> Formula:
        low, high = f"A_t < 0 and {ratio} < {1 - self.low:g}", f"A_t > 0 and {ratio} > {1 + self.high:g}"
        dual = f", or A_t < 0 and {ratio} > {self.dual:g}" if self.dual is not None else ""
        return Formula(f"mask_t {ratio}", (f"mask_t = 0 where {high}, or {low}{dual}; else 1",))

    def __call__(self, ratio_M: Tensor, advantage_M: Tensor) -> tuple[Tensor, Tensor]:
        trusted = maths.clip_mask(ratio_M, advantage_M, self.low, self.high, dual=self.dual)
        return ratio_M * trusted, ~trusted


@dataclass(frozen=True)
class CapWeight(Trust):
    """The ratio is a weight, capped and never a mask: every token keeps its gradient (CISPO, arXiv:2506.13585).

    factor = min(r, cap), cap = 1 + high, or `high` itself if absolute. low: also at least 1 - low (or low).
    """

    high: float
    low: float | None = None
    absolute: bool = False
    detached = True

    @property
    def _bounds(self) -> tuple[float | None, float]:
        cap = self.high if self.absolute else 1 + self.high
        return None if self.low is None else self.low if self.absolute else 1 - self.low, cap

    def formula(self, ratio: str) -> Formula:
        floor, cap = self._bounds
        return Formula(
            "w_t", (f"w_t = min({ratio}, {cap:g})" if floor is None else f"w_t = clip({ratio}, {floor:g}, {cap:g})",)
        )

    def __call__(self, ratio_M: Tensor, advantage_M: Tensor) -> tuple[Tensor, Tensor]:
        floor, cap = self._bounds
        factor = ratio_M.clamp(min=floor, max=cap)
        return factor, factor != ratio_M


@dataclass(frozen=True)
class SoftGate(Trust):
    """factor = r sech^2(tau (r - 1) / 2), tau by the advantage's sign: a trust region without an edge (SAPO,
    arXiv:2511.20347). At r = 1 it is 1. A token counts as held back where more than half of its push is gone."""

    tau_pos: float = 1.0
    tau_neg: float = 1.05

    def formula(self, ratio: str) -> Formula:
        tau = f"tau = {self.tau_pos:g} if A_t > 0 else {self.tau_neg:g}"
        return Formula(f"g_t {ratio}", (f"g_t = sech^2(tau ({ratio} - 1) / 2), {tau}",))

    def __call__(self, ratio_M: Tensor, advantage_M: Tensor) -> tuple[Tensor, Tensor]:
        gate = maths.soft_gate(ratio_M, advantage_M, self.tau_pos, self.tau_neg)
        return ratio_M * gate, gate < 0.5


@dataclass(frozen=True)
class ShapedRatio(Trust):
    """factor = r gamma / (r + gamma)^2, the weight of f(r) = r / (r + gamma) (ExGRPO, arXiv:2510.02245).

    At r = 1 and gamma 0.1 it is 0.083: replayed tokens learn at a twelfth of the rate, by the paper's design.
    """

    gamma: float = 0.1

    def formula(self, ratio: str) -> Formula:
        return Formula("w_t", (f"w_t = {self.gamma:g} {ratio} / ({ratio} + {self.gamma:g})^2",))

    def __call__(self, ratio_M: Tensor, advantage_M: Tensor) -> tuple[Tensor, Tensor]:
        return maths.shaped(ratio_M, self.gamma), torch.zeros_like(ratio_M, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Correction(ABC):
    """A factor rho = pi_proximal(y) / pi_behavior(y): what another engine, or staleness, put between the sampler and
    the anchor of the ratio. It is known before the loss. Tokens nobody sampled here have rho = 1.

    count  what a masked token is to the denominator: "original" counts it, "kept" does not.
    """

    level: Level = "token"
    count: Literal["original", "kept"] = "original"
    needs = (PROXIMAL,)
    requires = frozenset({"behavior_logp"})

    def __call__(self, batch: Batch, selected_M: Tensor) -> Tensor:
        """The factor, [M]."""
        d = (batch.columns[PROXIMAL.column] - batch.columns["behavior_logp"]).nan_to_num(0.0)
        d = torch.where(selected_M, d, torch.zeros_like(d))
        return self.bound(maths.pooled_ratio(d, batch.sequence, batch.n_sequences, self.level, selected_M))

    def population(self, batch: Batch, selected_M: Tensor) -> Tensor:
        """The tokens that count, [M] bool."""
        return selected_M if self.count == "original" else selected_M & (self(batch, selected_M) != 0)

    @property
    def formula(self) -> Formula:
        pooled = {"token": "", "geometric": ", their geometric mean over a response", "sequence": ", their product"}
        return Formula("rho_t", (f"rho_t = {self.bound_in_words}, q_t = pi_buffer / pi_sampled{pooled[self.level]}",))

    @property
    def bound_in_words(self) -> str:
        return f"q_t as {type(self).__name__} bounds it"

    @abstractmethod
    def bound(self, rho_M: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Truncate(Correction):
    """min(rho, cap): bounded variance for a bounded bias (TIS, Yao et al. 2025)."""

    cap: float = 2.0

    @property
    def bound_in_words(self) -> str:
        return f"min(q_t, {self.cap:g})"

    def bound(self, rho_M: Tensor) -> Tensor:
        return rho_M.clamp(max=self.cap)


@dataclass(frozen=True, kw_only=True)
class Mask(Correction):
    """rho where low <= rho <= high, else 0 (IcePop, arXiv:2510.18855, per token; MIS per sequence)."""

    low: float = 0.5
    high: float = 5.0

    @property
    def bound_in_words(self) -> str:
        return f"q_t where {self.low:g} <= q_t <= {self.high:g}, else 0"

    def bound(self, rho_M: Tensor) -> Tensor:
        return torch.where((rho_M >= self.low) & (rho_M <= self.high), rho_M, torch.zeros_like(rho_M))
