"""TRL's own trainers on the tokens of a contract case: what its loss is, and the gradient it gives.

A trainer is built once per class and configuration, with models of transformers' own (padded batches, its attention);
its loss is called with the batch its collator makes. Weights are those of the case: learner, start, teacher.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
import trl
from datasets import Dataset
from torch import Tensor
from transformers import Qwen3ForSequenceClassification

from offon.parts.models import SELF, SELF_START, Artefact
from tests.catalogue.cases import Ready
from tests.support import qwen3, tokenizer

COMMON = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}


def arguments(config: type, **changes) -> Any:
    return config(output_dir=tempfile.mkdtemp(prefix="trl-"), **{**COMMON, **changes})


def plain_model(of) -> torch.nn.Module:
    """transformers' own model with another's weights, and with its own attention."""
    hf = qwen3()
    hf.load_state_dict(of.hf.state_dict())
    return hf


def gradient_of(loss: Tensor, model: torch.nn.Module) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def rows_of(ready: Ready) -> list[tuple[list[int], list[int], Any]]:
    """(prompt ids, response ids, member) of every member a learner trains on."""
    return [(list(m.prefix()), m.tokens.tolist(), m) for g in ready.groups for m in g.members]


def pairs_of(ready: Ready) -> list[dict[str, list[int]]]:
    return [
        {
            "prompt_ids": list(g.members[c.winner].prefix()),
            "chosen_ids": g.members[c.winner].tokens.tolist(),
            "rejected_ids": g.members[c.loser].tokens.tolist(),
        }
        for g in ready.groups
        for c in g.comparisons
    ]


def padded(rows: list[list[int]], value: float = 0, side: str = "right") -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([
        r + [value] * (width - len(r)) if side == "right" else [value] * (width - len(r)) + r for r in rows
    ])  # fmt: skip


# --- likelihood and preferences -------------------------------------------------------------------------------------


@functools.cache
def _text(*columns: str) -> Dataset:
    return Dataset.from_dict({name: ["w1 w2"] for name in columns})


def sft(ready: Ready, *, tag: str = "", **options) -> dict[str, Tensor]:
    """On every member, or on those with a tag."""
    model = plain_model(ready.models(SELF))
    trainer = trl.SFTTrainer(
        model, args=arguments(trl.SFTConfig, **options), train_dataset=_text("prompt", "completion"),
        processing_class=tokenizer(),
    )  # fmt: skip
    rows = [row for row in rows_of(ready) if not tag or tag in row[2].tags]
    batch = {
        "input_ids": padded([p + r for p, r, _ in rows]),
        "attention_mask": padded([[1] * len(p + r) for p, r, _ in rows]),
        "labels": padded([[-100] * len(p) + r for p, r, _ in rows], -100),
    }
    return gradient_of(trainer.compute_loss(trainer.model, batch), trainer.model)


def dpo(ready: Ready, **options) -> dict[str, Tensor]:
    model = plain_model(ready.models(SELF))
    trainer = trl.DPOTrainer(
        model, plain_model(ready.models(SELF_START)), args=arguments(trl.DPOConfig, **options),
        train_dataset=_text("prompt", "chosen", "rejected"), processing_class=tokenizer(),
    )  # fmt: skip
    batch = trainer.data_collator(pairs_of(ready))
    return gradient_of(trainer.compute_loss(trainer.model, batch), trainer.model)


def contrastive(ready: Ready, trainer_class: type, config: type, **options) -> dict[str, Tensor]:
    """CPO and ORPO: experimental trainers with a collator of their own."""
    model = plain_model(ready.models(SELF))
    trainer = trainer_class(
        model, args=arguments(config, **options), train_dataset=Dataset.from_dict(
            {"prompt": ["w1 w2"], "chosen": [" w3"], "rejected": [" w4"]}
        ), processing_class=tokenizer(),
    )  # fmt: skip
    features = [
        {
            "prompt_input_ids": p["prompt_ids"],
            "prompt_attention_mask": [1] * len(p["prompt_ids"]),
            **{
                f"{kind}_{name}": values
                for kind in ("chosen", "rejected")
                for ids in [p["prompt_ids"] + p[f"{kind}_ids"]]
                for name, values in (
                    ("input_ids", ids),
                    ("attention_mask", [1] * len(ids)),
                    ("labels", [-100] * len(p["prompt_ids"]) + p[f"{kind}_ids"]),
                )
            },
        }
        for p in pairs_of(ready)
    ]
    batch = trainer.data_collator(features)
    return gradient_of(trainer.compute_loss(trainer.model, batch), trainer.model)


def cpo(ready: Ready, **options) -> dict[str, Tensor]:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return contrastive(ready, CPOTrainer, CPOConfig, **options)


def orpo(ready: Ready, **options) -> dict[str, Tensor]:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return contrastive(ready, ORPOTrainer, ORPOConfig, **options)


def orpo_without_prompts(ready: Ready, *, beta: float) -> dict[str, Tensor]:
    """ORPOTrainer's odds term, with SFTTrainer's likelihood of the chosen responses in place of its own."""
    parts = orpo(ready, beta=beta), orpo(ready, beta=0.0), sft(ready, tag="chosen")
    return {name: both - likelihood + parts[2][name] for (name, both), likelihood in zip(
        parts[0].items(), parts[1].values(), strict=True
    )}  # fmt: skip


def kto(ready: Ready, **options) -> dict[str, Tensor]:
    """The mismatched responses are the row's own."""
    model = plain_model(ready.models(SELF))
    given = arguments(trl.KTOConfig, per_device_train_batch_size=2, **options)
    trainer = trl.KTOTrainer(
        model, plain_model(ready.models(SELF_START)), args=given,
        train_dataset=Dataset.from_dict({"prompt": ["w1", "w2"], "completion": ["w3", "w4"], "label": [True, False]}),
        processing_class=tokenizer(),
    )  # fmt: skip
    examples = []
    for group in ready.groups:
        judged, other = sorted(group.members, key=lambda m: "mismatched" in m.tags)
        ids = {"completion_ids": judged.tokens.tolist(), "KL_completion_ids": other.tokens.tolist()}
        examples.append({"prompt_ids": list(judged.prefix()), **ids, "label": "desirable" in judged.tags})
    batch = trainer.data_collator(examples)
    return gradient_of(trainer.compute_loss(trainer.model, batch), trainer.model)


def reward(ready: Ready, **options) -> dict[str, Tensor]:
    model = Qwen3ForSequenceClassification(ready.models(SELF).hf.config)
    model.load_state_dict(ready.models(SELF).hf.state_dict())
    trainer = trl.RewardTrainer(
        model, args=arguments(trl.RewardConfig, **options), train_dataset=_text("chosen", "rejected"),
        processing_class=tokenizer(),
    )  # fmt: skip
    pairs = [
        {f"{kind}_ids": pair["prompt_ids"] + pair[f"{kind}_ids"] for kind in ("chosen", "rejected")}
        for pair in pairs_of(ready)
    ]
    return gradient_of(trainer.compute_loss(trainer.model, trainer.data_collator(pairs)), trainer.model)


# --- rewards --------------------------------------------------------------------------------------------------------


def rollouts(ready: Ready, **columns: Tensor) -> dict[str, Tensor]:
    rows = rows_of(ready)
    return {
        "prompt_ids": padded([p for p, _, _ in rows], side="left"),
        "prompt_mask": padded([[1] * len(p) for p, _, _ in rows], side="left"),
        "completion_ids": padded([r for _, r, _ in rows]),
        "completion_mask": padded([[1] * len(r) for _, r, _ in rows]),
        "old_per_token_logps": padded([m.behavior_logp.tolist() for _, _, m in rows], 0.0),
        "num_items_in_batch": torch.tensor(float(sum(len(r) for _, r, _ in rows))),
        **columns,
    }


def rewards_of(ready: Ready, key: str = "reward") -> Tensor:
    """[groups, members]"""
    return torch.tensor([[m.signals[key] for m in g.members] for g in ready.groups])


def grpo(ready: Ready, trainer_class=None, config=None, *, advantages=None, correction="", beta=0.0, **options):
    """Advantages are TRL's formula on the case's rewards, unless given; `correction` is for another sampler."""
    reward = rewards_of(ready)
    if advantages is None:
        advantages = reward - reward.mean(1, keepdim=True)
        if options.get("scale_rewards", "group") == "group":
            advantages = advantages / (reward.std(1, keepdim=True) + 1e-4)
    model = plain_model(ready.models(SELF))
    trainer = (trainer_class or trl.GRPOTrainer)(
        model, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments(config or trl.GRPOConfig, per_device_train_batch_size=2, num_generations=2, **options),
        train_dataset=_text("prompt"), processing_class=tokenizer(),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    batch = rollouts(ready, advantages=advantages.flatten())
    if beta:  # set afterwards: a trainer that is built with it loads its reference from where the model came from
        trainer.beta = beta
        start = plain_model(ready.models(SELF_START))
        batch["ref_per_token_logps"] = log_probs(start, batch)
    if correction:
        sampled = batch["old_per_token_logps"]
        prox = padded([m.token_signals["logp@self"].tolist() for _, _, m in rows_of(ready)], 0.0)
        gap = (prox - sampled) * batch["completion_mask"]
        total = gap.sum(1, keepdim=True).exp()
        ratio = gap.exp().clamp(max=1.02) if correction == "truncate" else torch.where(total <= 1.05, total, 0.0)
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        batch |= {"old_per_token_logps": prox, "importance_sampling_ratio": ratio}
    return gradient_of(trainer._compute_loss(trainer.model, batch), trainer.model)


def gmpo(ready: Ready, **options) -> dict[str, Tensor]:
    from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

    return grpo(ready, GMPOTrainer, GMPOConfig, **options)


def rloo(ready: Ready, **options) -> dict[str, Tensor]:
    reward = rewards_of(ready)
    n = reward.shape[1]
    advantages = reward - (reward.sum(1, keepdim=True) - reward) / (n - 1)
    model = plain_model(ready.models(SELF))
    trainer = trl.RLOOTrainer(
        model, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments(trl.RLOOConfig, per_device_train_batch_size=2, num_generations=2, beta=0.0, **options),
        train_dataset=_text("prompt"), processing_class=tokenizer(),
    )  # fmt: skip
    batch = rollouts(ready, advantages=advantages.flatten())
    batch["old_logps"] = (batch["old_per_token_logps"] * batch["completion_mask"]).sum(1)
    return gradient_of(trainer._compute_loss(trainer.model, batch), trainer.model)


@torch.no_grad()
def log_probs(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
    return logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0] * batch["completion_mask"]


# --- teachers -------------------------------------------------------------------------------------------------------


def gkd(ready: Ready, *, teacher: str = "teacher", **options) -> dict[str, Tensor]:
    """GKDTrainer's generalised JSD with its mean over tokens; beta 0 is forward KL, 1 reverse KL."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    rows = rows_of(ready)
    ids, mask = padded([p + r for p, r, _ in rows]), padded([[1] * len(p + r) for p, r, _ in rows])
    labels = padded([[-100] * len(p) + r for p, r, _ in rows], -100)
    student, taught = plain_model(ready.models(SELF)), plain_model(ready.models(Artefact(teacher)))
    with torch.no_grad():
        teacher_logits = taught(input_ids=ids, attention_mask=mask).logits[:, :-1]
    loss = GKDTrainer.generalized_jsd_loss(
        student(input_ids=ids, attention_mask=mask).logits[:, :-1], teacher_logits, labels=labels[:, 1:], **options
    )
    return gradient_of(loss, student)
