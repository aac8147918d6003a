"""What is compared with an independent implementation, row by row: python -m tests.parity.table writes docs/parity.md

Each entry runs a row of the catalogue (a case of the contract suite: the row's own collector, credit and terms on a
random Qwen3; learner, start, sampler and teacher all differ) and the peer on the same tokens, and compares the gradient
of every parameter. `scale` is a factor between the two losses that is stated, not fitted. An entry with `differs` is a
negative control: the two are known to differ, and the difference has to show.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.catalogue.cases import Case, Ready, difference, gradient_of, ready_case
from tests.parity import trl as peer

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
TOLERANCE = 1e-5  # of a parameter's gradient norm; float32, other attention, other padding


@dataclass(frozen=True, eq=False)
class Entry:
    row: str
    peer: str
    run: Callable[[Ready], dict[str, Tensor]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    modifier: tuple[str, Mapping] | None = None
    scale: float = 1.0
    differs: str = ""

    @property
    def name(self) -> str:
        given = ", ".join(f"{k}={v}" for k, v in self.arguments.items())
        added = f" + {self.modifier[0]}" if self.modifier else ""
        return self.row + (f"({given})" if given else "") + added

    def difference(self) -> float:
        """Largest difference of a parameter's gradient, over its norm."""
        (ready,) = ready_case(Case(self.row, self.arguments, self.modifier))
        theirs = {name: self.scale * value for name, value in self.run(ready).items()}
        return difference(theirs, gradient_of(ready))


def trl(function, **options) -> Callable[[Ready], dict[str, Tensor]]:
    return functools.partial(function, **options)


ENTRIES = [
    Entry("sft", "SFTTrainer", trl(peer.sft)),
    Entry("dpo", "DPOTrainer sigmoid", trl(peer.dpo)),
    Entry("dpo", "DPOTrainer sigmoid + sft", trl(peer.dpo, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5]),
          {"nll": 0.5, "nll_per": "token"}),
    Entry("dpo", "DPOTrainer sigmoid + sft", trl(peer.dpo, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5]),
          {"nll": 0.5}, differs="TRL's likelihood term is a mean over chosen tokens, the paper's a mean per pair"),
    Entry("dft", "SFTTrainer dft", trl(peer.sft, loss_type="dft")),
    Entry("ipo", "DPOTrainer ipo", trl(peer.dpo, loss_type="ipo"), {"normalise": "length"}),
    Entry("ipo", "DPOTrainer ipo", trl(peer.dpo, loss_type="ipo"),
          differs="TRL averages over tokens, the paper sums: another target for the same tau"),
    Entry("robust_dpo", "DPOTrainer robust", trl(peer.dpo, loss_type="robust", label_smoothing=0.1)),
    Entry("gpo", "DPOTrainer hinge", trl(peer.dpo, loss_type="hinge"), {"link": "hinge"}),
    Entry("gpo", "DPOTrainer sigmoid", trl(peer.dpo), {"link": "logistic"}),
    Entry("cpo", "CPOTrainer sigmoid, cpo_alpha 1", trl(peer.cpo, loss_type="sigmoid", beta=0.1, cpo_alpha=1.0)),
    Entry("simpo", "CPOTrainer simpo, cpo_alpha 0",
          trl(peer.cpo, loss_type="simpo", beta=2.0, simpo_gamma=0.5, cpo_alpha=0.0)),
    Entry("simpo", "CPOTrainer simpo", trl(peer.cpo, loss_type="simpo", beta=2.0, simpo_gamma=0.5),
          differs="TRL adds CPO's likelihood of the chosen unless cpo_alpha is 0"),
    Entry("slic", "CPOTrainer hinge, cpo_alpha 0", trl(peer.cpo, loss_type="hinge", beta=1.0, cpo_alpha=0.0),
          {"coef": 0.0}),
    Entry("orpo", "ORPOTrainer's odds, SFTTrainer's likelihood", trl(peer.orpo_without_prompts, beta=0.1)),
    Entry("orpo", "ORPOTrainer", trl(peer.orpo, beta=0.1),
          differs="TRL's likelihood term covers prompt and response; here prompts never train"),
    Entry("train_reward_model", "RewardTrainer", trl(peer.reward), {"centre": 0.0}),
    Entry("train_reward_model", "RewardTrainer, center_rewards_coefficient 0.01",
          trl(peer.reward, center_rewards_coefficient=0.01)),
    Entry("kto", "KTOTrainer", trl(peer.kto)),
    Entry("kto", "KTOTrainer, desirable_weight 2", trl(peer.kto, desirable_weight=2.0), {"desirable": 2.0}),
    Entry("grpo", "GRPOTrainer grpo", trl(peer.grpo, loss_type="grpo")),
    Entry("grpo", "GRPOTrainer grpo, scale_rewards none", trl(peer.grpo, loss_type="grpo", scale_rewards="none"),
          {"scale_rewards": False}),
    Entry("grpo", "GRPOTrainer dapo", trl(peer.grpo, loss_type="dapo"),
          differs="TRL's default divides by tokens; the paper, and offon, by each response's length first"),
    Entry("dr_grpo", "GRPOTrainer dr_grpo, scale_rewards none",
          trl(peer.grpo, loss_type="dr_grpo", scale_rewards="none", max_completion_length=6), {"length": 6}),
    Entry("gspo", "GRPOTrainer grpo, sequence level",
          trl(peer.grpo, loss_type="grpo", importance_sampling_level="sequence"), {"clip": (0.2, 0.2)}),
    Entry("gspo_token", "GRPOTrainer grpo, sequence level",
          trl(peer.grpo, loss_type="grpo", importance_sampling_level="sequence"), {"clip": (0.2, 0.2)}),
    Entry("dapo", "GRPOTrainer dapo", trl(peer.grpo, loss_type="dapo", epsilon_high=0.28), {"overlong": "none"}),
    Entry("gmpo", "GMPOTrainer", trl(peer.gmpo, epsilon=0.2, epsilon_high=0.2), {"log_clip": 0.2}),
    Entry("cispo", "GRPOTrainer cispo", trl(peer.grpo, loss_type="cispo", epsilon_high=1.1),
          {"high": 1.1, "cap": "absolute"}),
    Entry("cispo", "GRPOTrainer cispo", trl(peer.grpo, loss_type="cispo", epsilon_high=0.2), {"high": 0.2},
          differs="the same number is another cap: TRL's is on the ratio, the paper's and verl's on its excess over 1"),
    Entry("sapo", "GRPOTrainer sapo", trl(peer.grpo, loss_type="sapo")),
    Entry("grpo", "GRPOTrainer grpo, beta, use_bias_correction_kl",
          trl(peer.grpo, loss_type="grpo", beta=0.5, use_bias_correction_kl=True),
          modifier=("kl_loss", {"coef": 0.5, "over": "behavior"})),
    Entry("grpo", "GRPOTrainer grpo, beta, without use_bias_correction_kl",
          trl(peer.grpo, loss_type="grpo", beta=0.5, use_bias_correction_kl=False),
          modifier=("kl_loss", {"coef": 0.5})),
    Entry("grpo", "GRPOTrainer grpo, top_entropy_quantile 0.2",
          trl(peer.grpo, loss_type="grpo", top_entropy_quantile=0.2), modifier=("high_entropy", {"share": 0.2})),
    Entry("grpo", "GRPOTrainer grpo, token_truncate", trl(peer.grpo, loss_type="grpo", correction="truncate"),
          modifier=("tis", {"cap": 1.02})),
    Entry("grpo", "GRPOTrainer grpo, sequence_mask", trl(peer.grpo, loss_type="grpo", correction="sequence_mask"),
          modifier=("mis", {"high": 1.05})),
    Entry("online_dpo", "DPOTrainer sigmoid on the same pairs", trl(peer.dpo)),
    Entry("online_ipo", "DPOTrainer ipo on the same pairs", trl(peer.dpo, loss_type="ipo"), {"normalise": "length"}),
    Entry("online_ipo", "DPOTrainer ipo on the same pairs", trl(peer.dpo, loss_type="ipo"),
          differs="TRL's offline trainer compares means over tokens, its online trainer and the paper sums"),
    Entry("rloo", "RLOOTrainer", trl(peer.rloo, epsilon=0.2, epsilon_high=0.2), {"clip": (0.2, 0.2), "kl": 0.0}),
    Entry("rloo", "RLOOTrainer", trl(peer.rloo, epsilon=0.2, epsilon_high=0.2), {"kl": 0.0},
          differs="TRL always multiplies by the clipped ratio of whole responses, offon where clip is given"),
    Entry("kd", "GKDTrainer beta 0", trl(peer.gkd, beta=0.0), {"alpha": 1.0}),
    Entry("kd", "GKDTrainer beta 0, T 2", trl(peer.gkd, beta=0.0, temperature=2.0),
          {"alpha": 1.0, "kd_temperature": 2.0}, scale=4.0),
    Entry("gkd", "GKDTrainer beta 0.5", trl(peer.gkd, beta=0.5)),
    Entry("gkd", "GKDTrainer beta 0.1", trl(peer.gkd, beta=0.1), {"beta": 0.1}),
    Entry("on_policy_distill", "GKDTrainer beta 1", trl(peer.gkd, beta=1.0)),
    Entry("on_policy_distill", "GKDTrainer beta 0.5", trl(peer.gkd, beta=0.5), {"kind": "jsd"}),
]  # fmt: skip


HEADER = """\
# Parity with independent implementations

`make parity` compares rows with TRL {version} and writes this page. A row runs as it does in a stage (its collector,
credit and terms, packed) on a random Qwen3 of two layers; the learner, its start, its sampler and its teacher all
differ. TRL runs its own trainer's loss on the same tokens (padded, transformers' own attention): float32 on a CPU, one
process, one micro-batch. Compared are the gradients of all parameters; the number is the largest difference over the
norm of its tensor, and has to be below {tolerance:g}. Where the two are known to differ, the difference has to show,
and is named.
"""


def page(differences: Mapping[Entry, float]) -> str:
    lines = ["| row | peer | largest difference | |", "|---|---|---|---|"]
    for entry, found in differences.items():
        scale = f"TRL's loss times {entry.scale:g}" if entry.scale != 1 else ""
        remark = f"differs: {entry.differs}" if entry.differs else scale
        lines.append(f"| {entry.name} | {entry.peer} | {found:.1e} | {remark} |")
    return HEADER.format(version=peer.trl.__version__, tolerance=TOLERANCE) + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page({entry: entry.difference() for entry in ENTRIES}))
