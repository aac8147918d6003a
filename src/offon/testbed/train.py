"""Make the testbed's models: `python -m offon.testbed.train [--write]`. About four minutes on one core.

Documents are drawn from the families' shares; the loss is cross-entropy on response tokens. With one thread and one
seed the weights are equal bit for bit on one machine. Without `--write` the shipped files are left alone and
compared: weights bit for bit, the oracle's table within TOLERANCE (other machines round differently). Either way
the planted margins are asserted by the oracle first.

B documents, T positions of a document.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from offon.errors import ModelError
from offon.testbed import MODELS
from offon.testbed.grammar import (
    EOS,
    FAMILIES,
    HINT,
    KNOWN_OPS,
    N_STATES,
    OPERATIONS,
    PAD,
    RESPONSE_TOKENS,
    RIGHT_FORMAT,
    RIGHT_ROUTE,
    ROUTES,
    STATES,
    UNKNOWN,
    VOCABULARY,
    WRONG_FORMAT,
    programs,
)
from offon.testbed.oracle import family_table
from offon.testbed.task import TestbedTask

Table = Mapping[str, Mapping[str, float]]  # family -> quantity -> exact value

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content + ' ' }}{% endif %}"
    "{% endfor %}"
)
TOKEN = {word: index for index, word in enumerate(VOCABULARY)}
NEXT_STATE = np.array([[int(OPERATIONS[op][state]) for state in STATES] for op in KNOWN_OPS])  # [op, state]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size and pretraining of one model. `slip`: share of steps in its documents that go to a random state, and on
    from there; a model trained on them is right on a step with probability 1 - slip * 15/16 and lost in no state."""

    hidden: int
    layers: int
    head_dim: int
    intermediate: int
    steps: int
    seed: int
    slip: float = 0.0
    documents: int = 256  # per step
    learning_rate: float = 3e-3  # after 50 steps of warmup; then linearly to 0
    warmup: int = 50


PLANS = {
    "base": Plan(hidden=96, layers=3, head_dim=24, intermediate=256, steps=800, seed=1),
    "student": Plan(hidden=64, layers=2, head_dim=16, intermediate=160, steps=700, seed=1, slip=0.2),
}

HEAD_GAIN = 16  # a power of two, so that moving it changes no bit of any logit
SUPPORT_AT_64 = 1 - 0.05 ** (1 / 64)  # 4.6%: seen within 64 rollouts with probability 0.95
TOLERANCE = {"base": 0.03, "student": 0.06}  # of the means in the oracle's table, on another machine


def make_tokenizer(vocabulary: Sequence[str] = VOCABULARY) -> PreTrainedTokenizerFast:
    """One token per word, so a prompt and a response tokenise alike alone and joined; EOS, PAD, UNK are special."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN, chat_template=CHAT_TEMPLATE
    )


def make_model(plan: Plan, vocabulary: Sequence[str] = VOCABULARY) -> Qwen3ForCausalLM:
    """Input and output embeddings are separate: tied, every unseen word would be pushed the same way. A vocabulary
    begins as the testbed's does: PAD, EOS, UNKNOWN."""
    torch.manual_seed(plan.seed)
    special = {"bos_token_id": None, "eos_token_id": TOKEN[EOS], "pad_token_id": TOKEN[PAD]}
    config = Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=plan.hidden,
        num_hidden_layers=plan.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=plan.head_dim,
        intermediate_size=plan.intermediate,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        dtype="float32",
        **special,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, max_new_tokens=RESPONSE_TOKENS, **special)
    return model


@dataclass(frozen=True)
class DocumentKind:
    share: float
    family: int
    hint: bool
    order: tuple[int, ...]
    route: int
    form: int


def document_kinds() -> list[DocumentKind]:
    """What a document can be, with its share of all documents."""
    kinds = []
    for family in FAMILIES.values():
        routes = [(True, RIGHT_ROUTE, family.hinted)]
        routes += [(False, route, (1 - family.hinted) * share) for route, share in family.routes.items()]
        for hint, route, share in routes:
            for form, part in ((RIGHT_FORMAT, family.right_format), (WRONG_FORMAT, 1 - family.right_format)):
                weight = family.share * share * part
                kinds.append(DocumentKind(weight, TOKEN[family.name], hint, ROUTES[route], TOKEN[route], TOKEN[form]))
    return [kind for kind in kinds if kind.share > 0]


class Documents:
    """Draws batches of documents. Kinds are drawn systematically: each has its share of a batch, to one document."""

    def __init__(self, plan: Plan):
        self.plan, self.random = plan, np.random.Generator(np.random.Philox(plan.seed))
        kinds = document_kinds()
        self.edges = np.cumsum([kind.share for kind in kinds])
        self.kinds = np.array([(k.family, k.hint, k.route, k.form, *k.order) for k in kinds])
        seen = [program for program in programs(KNOWN_OPS) if not program.heldout]
        self.programs = np.array([(int(p.start), *map(KNOWN_OPS.index, p.ops)) for p in seen])

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids_BT, labels_BT): labels are ids on the response and -100 elsewhere."""
        B, draw = self.plan.documents, self.random
        kind = np.searchsorted(self.edges, (np.arange(B) + draw.random()) / B * self.edges[-1], side="right")
        family, hint, route, form, *order = self.kinds[kind].T
        start, *ops = self.programs[draw.integers(len(self.programs), size=B)].T
        trace = self._walk(start, np.stack(ops), np.stack(order))

        first_state, first_op, column = TOKEN[STATES[0]], TOKEN[KNOWN_OPS[0]], np.ones(B, np.int64)
        lead = np.where(hint, TOKEN[HINT], TOKEN[PAD])
        prompt = [lead, family, first_state + start, *(first_op + op for op in ops), TOKEN["="] * column]
        response = [route, *(first_state + state for state in trace), form, TOKEN[EOS] * column]
        ids_BT = np.stack(prompt + response, axis=1)
        labels_BT = np.where(np.arange(len(prompt + response)) < len(prompt), -100, ids_BT)
        for rows_BT, filler in ((ids_BT, TOKEN[PAD]), (labels_BT, -100)):  # without hint: start one column earlier
            rows_BT[hint == 0] = np.roll(rows_BT[hint == 0], -1, axis=1)
            rows_BT[hint == 0, -1] = filler
        return torch.from_numpy(ids_BT), torch.from_numpy(labels_BT)

    def _walk(self, state, ops, order) -> list[np.ndarray]:
        """The states after each step, [B] each, with slips."""
        trace, rows = [], np.arange(len(state))
        for position in order:
            slips = self.random.random(len(state)) < self.plan.slip
            elsewhere = self.random.integers(N_STATES, size=len(state))
            state = np.where(slips, elsewhere, NEXT_STATE[ops[position, rows], state])
            trace.append(state)
        return trace


def train(plan: Plan, *, progress_every: int = 100) -> Qwen3ForCausalLM:
    """Pretrain one model; the same plan gives the same bits on one machine."""
    with one_thread_deterministic():
        model = fit(make_model(plan), Documents(plan), plan, progress_every)
    settle_head(model)
    return model.eval()


@contextmanager
def one_thread_deterministic() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def fit(model: Qwen3ForCausalLM, documents, plan: Plan, progress_every: int = 100) -> Qwen3ForCausalLM:
    """Train a model on documents: anything with `batch() -> (ids_BT, labels_BT)`."""
    model, start = model.train(), time.monotonic()
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(1, plan.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * min(step / plan.warmup, 1) * (1 - (step - 1) / plan.steps)
        ids_BT, labels_BT = documents.batch()
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % progress_every == 0:
            elapsed_s = time.monotonic() - start
            print(f"step {step}/{plan.steps}  loss {loss.item():.4f} nats  {elapsed_s:.0f} s", flush=True)
    return model


@torch.no_grad()
def settle_head(model: Qwen3ForCausalLM) -> None:
    """Move a gain from the final norm into the output head. The function of the model stays the same, bit for bit.

    AdamW moves every weight by about its learning rate, however small the gradient. Fine-tuning on right answers only
    would lower the decoys' rows of a head of ordinary size (0.1 per weight) until `rare` is solved by that alone;
    rows 16 times as large hardly turn.
    """
    model.model.norm.weight /= HEAD_GAIN
    model.lm_head.weight *= HEAD_GAIN


def measure(model, tokenizer) -> dict[str, dict[str, float]]:
    """The oracle's table on the held-out items, and for `absent` on every program there is."""
    table = family_table(model, tokenizer, TestbedTask().items("heldout"))
    absent = TestbedTask("absent", train=10**6, heldout=10**6)
    table["absent/all"] = family_table(model, tokenizer, absent.items("train") + absent.items("heldout"))["absent"]
    return table


def planted(name: str, table: Table) -> list[tuple[str, bool]]:
    """The promises of the testbed as (sentence with its number, kept)."""

    def low(row, quantity, bound):
        return f"{row} {quantity} {table[row][quantity]:.3g} < {bound:.3g}", table[row][quantity] < bound

    def high(row, quantity, bound):
        return f"{row} {quantity} {table[row][quantity]:.3g} > {bound:.3g}", table[row][quantity] > bound

    step = 1 - PLANS[name].slip * (1 - 1 / N_STATES)
    if name == "student":
        return [
            low("guard", "success", step**3 + 0.02),
            high("guard", "success", 0.5 * step**3),
            low("rare", "success/max", 0.5),
            high("format", "content", 0.5 * step**3),
            low("absent/all", "success", 0.01),
        ]
    return [
        high("rare", "success/min", 2 * SUPPORT_AT_64),
        low("rare", "success/max", 0.25),
        low("absent/all", "success", 1e-5),
        low("absent/all", "content", 1e-5),
        low("absent", "success/max", 1e-5),
        low("format", "success/max", SUPPORT_AT_64),
        high("format", "content", 0.95),
        low("scaffold", "success/max", 0.01),
        high("scaffold/hint", "success/min", 0.9),
        high("guard", "success/min", 0.9),
        *(low(row, "residual", 0.02) for row in table if not row.startswith("absent")),
    ]


def check_planting(name: str, table: Table) -> None:
    broken = [sentence for sentence, kept in planted(name, table) if not kept]
    if broken:
        raise ModelError(
            f"the bottlenecks of {name!r} are not planted as promised",
            where="oracle, held-out items",
            why="not true: " + "; ".join(broken),
            fix="another seed or more steps in PLANS",
        )


def largest_difference(table: Table, shipped: Table) -> tuple[float, str]:
    """Largest absolute difference between two tables, in means of success, content and routes, and where it is."""
    quantities = ("success", "content", *(f"route/{route}" for route in ROUTES))
    return max((abs(table[row][q] - shipped[row][q]), f"{row} {q}") for row in table for q in quantities)


def compare(name: str, model, table: Table) -> str:
    """Say how a fresh model differs from the shipped one; more than TOLERANCE is an error."""
    shipped = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32).state_dict()
    equal = all(torch.equal(tensor, shipped[key]) for key, tensor in model.state_dict().items())
    difference, where = largest_difference(table, json.loads((MODELS / "oracle.json").read_text())[name])
    if difference > TOLERANCE[name]:
        raise ModelError(
            f"{name!r} differs from the shipped model by {difference:.3f}, tolerance {TOLERANCE[name]}", where=where
        )
    return f"weights {'equal bit for bit' if equal else 'differ'}; table within {difference:.2g} ({where})"


def markdown(table: Table) -> str:
    """The table of `docs/testbed.md`."""
    lines = [
        "| prompts | success | lowest | highest | content | forward | backward | rotate | residual |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    routes = (f"route/{route}" for route in ROUTES)
    quantities = ("success", "success/min", "success/max", "content", *routes, "residual")
    lines += [f"| {row} | {' | '.join(f'{values[q]:.2g}' for q in quantities)} |" for row, values in table.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the testbed's models and compare them with what ships.")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=MODELS, metavar="DIR", help="write here, by default where they ship"
    )
    write = parser.parse_args().write
    tokenizer, tables = make_tokenizer(), {}
    for name, plan in PLANS.items():
        model = train(plan)
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters; asking the oracle", flush=True)
        tables[name] = measure(model, tokenizer)
        print(markdown(tables[name]))
        check_planting(name, tables[name])
        if write:
            model.save_pretrained(write / name)
            tokenizer.save_pretrained(write / name)
        else:
            print(f"{name}: {compare(name, model, tables[name])}")
    if write:
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        (write / "oracle.json").write_text(json.dumps({**tables, "versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
