"""Filtering: what is kept and why, what a made data set may not hold, and the limits that make one method another."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from offon.collect.signals.perplexity import by_prompt, top_share
from offon.errors import DataError
from offon.models.model import Model
from offon.pipeline.check import check_recipe
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.runs import ledger
from offon.types import Group, Item, Source, Trajectory
from tests.rounding import FLOAT32, FLOAT64
from tests.support import WORDS, model, qwen3, tokenizer

pytestmark = pytest.mark.slow

EASY = """\
def score(prompts, completions, **columns):
    return [float(len(c.split()) % 2) for c in completions]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a task whose checker calls about half of all answers right, and data with several answers a prompt."""
    root = tmp_path_factory.mktemp("user")
    ending = model(18)
    with torch.no_grad():  # so that greedy answers end, too
        ending.core.model.embed_tokens.weight[1] *= 1.6
    ending.save(root / "base")
    prompts = [f"w{i} w{j}" for i in range(6) for j in range(6)]
    rows = [{"prompt": p, "answer": "w3", "views": {"answer": f"{p} w9 w9"}} for p in prompts]
    (root / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "easy.py").write_text(EASY)
    answers = ("w3 w4", "w5", "w1 w2 w3", "w5")
    demos = [{"prompt": p, "completion": answer, "answer": "w3"} for p in prompts[:6] for answer in answers]
    (root / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demos))
    return root


def unigram(folder) -> None:
    """A model whose next-token distribution depends on nothing: all embeddings are the same vector."""
    hf = qwen3(3)
    hf.config.tie_word_embeddings = False
    torch.manual_seed(0)
    head = torch.nn.Linear(32, len(WORDS) + 2, bias=False)
    with torch.no_grad():
        hf.model.embed_tokens.weight[:] = hf.model.embed_tokens.weight[0]
    hf.lm_head = head
    Model.wrap(hf, tokenizer(), device="cpu").save(folder / "unigram")


def candidates(folder) -> None:
    """The model's greedy answer to one prompt beside others, and a prompt with a single answer."""
    own = Model.load(folder / "base")
    ids = own.tokenizer("w0 w0", return_tensors="pt").input_ids
    greedy = own.hf.generate(ids, max_new_tokens=5, do_sample=False)[0, 2:]
    text = own.tokenizer.decode(greedy, skip_special_tokens=True) or "w7"
    rows = [{"prompt": "w0 w0", "completion": c} for c in ("w1 w1 w1", text, "w6")]
    rows += [{"prompt": "w5 w2", "completion": "w8"}]
    (folder / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def resolved(folder, nodes: str):
    task = f"{{python: '{folder}/easy.py:score', data: {folder}/task.jsonl}}"
    return resolve(parse(f"model: ./base\ntask: {task}\nprobe: false\npipeline:\n{nodes}", folder=folder))


NODES = """\
  one: {method: best_of_n, n: 1, max_tokens: 12}
  many: {method: best_of_n, n: 10, max_tokens: 12}
  capped: {method: best_of_n, n: 8, keep: 2, at_least: 1.0, max_tokens: 12}
  told: {method: rationales, max_tokens: 12}
  untold: {method: rationales, rationalize: false, max_tokens: 12}
  all: {method: best_of_n, n: 4, keep: 4, max_tokens: 12}
  good: {method: above, data: $all}
  any: {method: above, data: $all, at_least: -1.0}
  flat-perplexity: {method: superfiltering, init: ./unigram, data: ./demos.jsonl, ratio: perplexity}
  flat-nll: {method: superfiltering, init: ./unigram, data: ./demos.jsonl, ratio: nll}
  perplexity: {method: superfiltering, data: ./demos.jsonl, ratio: perplexity, share: 1.0}
  nll: {method: superfiltering, data: ./demos.jsonl, ratio: nll, share: 1.0}
  grape: {method: grape, data: ./candidates.jsonl}
  rewritten: {method: rewritten, data: ./demos.jsonl, template: '{prompt} w9 {reference} w9', max_tokens: 12}
  em: {method: rest_em, iterations: 2, n: 4, cap: 4, steps: 3, max_tokens: 12, learning_rate: 1e-2, prompts_per_step: 4}
"""


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """One run with a node for each thing that is said below: every run has a checker's process and a report."""
    unigram(folder)
    candidates(folder)
    return run_recipe(resolved(folder, NODES), tmp_path_factory.mktemp("run") / "r")


def rows_of(done, node: str) -> list[dict]:
    return [json.loads(line) for line in (done / "nodes" / node / "final" / "data.jsonl").read_text().splitlines()]


def trajectories(done, node: str, columns: str, where: str = "true") -> list[dict]:
    return ledger.query(done, f"select {columns} from trajectories where node = '{node}' and {where}").to_pylist()


# ---- best of n, on what can be enumerated


def test_the_density_of_the_best_of_n_and_its_bound_on_the_divergence():
    """Answers a, b, c with probabilities 1/2, 1/3, 1/6 and rewards 1 < 2 < 3. P(best of n = y) = F(y)^n - F(y-)^n.

    Best of 2: 1/4, 25/36 - 9/36 = 16/36, 11/36; enumerated below. KL(best || pi) <= log n - (n - 1)/n."""
    p = [1 / 2, 1 / 3, 1 / 6]
    for n in (1, 2, 3, 8):
        best = [0.0] * 3
        for drawn in itertools.product(range(3), repeat=n):
            best[max(drawn)] += math.prod(p[i] for i in drawn)
        cumulative = [0.0, 1 / 2, 5 / 6, 1.0]
        assert best == pytest.approx([b**n - a**n for a, b in itertools.pairwise(cumulative)])
        kl = sum(q * math.log(q / r) for q, r in zip(best, p, strict=True))
        assert kl <= math.log(n) - (n - 1) / n + FLOAT64
    assert best[2] == pytest.approx(1 - (5 / 6) ** 8)


def test_best_of_one_is_the_models_own_samples_and_of_many_the_best_there_is(done):
    assert {row["fate"] for row in trajectories(done, "one", "fate")} <= {
        "kept",
        "dropped: says nothing",
        "dropped: truncated: it has no end to learn",
    }
    best, one = ([row["offon"]["signals"]["reward"] for row in rows_of(done, node)] for node in ("many", "one"))
    assert min(best) == 1.0 > min(one)


def test_a_cap_keeps_easy_prompts_from_dominating_and_nobody_is_kept_twice(done):
    kept: dict[str, list[str]] = {}
    for row in rows_of(done, "capped"):
        kept.setdefault(row["prompt"], []).append(row["completion"])
    assert max(map(len, kept.values())) == 2
    assert all(len(set(answers)) == len(answers) for answers in kept.values())
    reasons = {row["fate"] for row in trajectories(done, "capped", "distinct fate")}
    assert {"dropped: said before", "dropped: not among the best", "dropped: below threshold"} <= reasons


# ---- star


def test_a_rationalised_answer_is_trained_under_the_prompt_that_does_not_show_the_answer(done):
    """w9 w9 is what only the view with the answer holds; it may stand in no prompt and in no trained prefix."""
    rows, hint = rows_of(done, "told"), tokenizer()("w9 w9").input_ids
    told = [row for row in rows if "guided" in row["offon"]["tags"]]
    assert told and len(told) < len(rows)
    assert not any("w9 w9" in row["prompt"] for row in rows)
    columns = "prompt_tokens, train_prompt_tokens, tags, temperature"
    for row in trajectories(done, "told", columns, "fate = 'kept'"):
        assert row["train_prompt_tokens"][-2:] != hint and row["temperature"] == 0.0
        assert (row["prompt_tokens"][-2:] == hint) == ("guided" in row["tags"])
    prompts = [row["prompt"] for row in rows]
    assert len(set(prompts)) == len(prompts), "one answer a prompt: told only where the first was wrong"


@pytest.mark.parametrize("method", ["rationales", "star"])
def test_a_template_that_the_tokenizer_cannot_say_is_found_before_anything_runs(folder, method):
    """The items bring a view "answer"; the view "told" would be written by the template, in words this world lacks."""
    steps = ", iterations: 1" if method == "star" else ""
    with pytest.raises(DataError, match="'told' of item .* cannot be written") as refused:
        check_recipe(resolved(folder, f"  d: {{method: {method}, view: told, max_tokens: 12{steps}}}\n"))
    assert "recipe:5" in refused.value.where and "words that the tokenizer has" in refused.value.fix


def test_without_rationalisation_wrong_prompts_are_left_out(done):
    assert not any("guided" in row["offon"]["tags"] for row in rows_of(done, "untold"))


# ---- rest and rest-em


def test_every_m_step_starts_from_the_base_bit_for_bit_and_samples_come_from_the_model_before(folder, done):
    fingerprint = {name: Model.load(path).fingerprint() for name, path in (
        ("base", folder / "base"), ("first", done / "nodes/em-1-model/final"))}  # fmt: skip
    assert {row["offon"]["producer"] for row in rows_of(done, "em-1-data")} == {fingerprint["base"]}
    assert {row["offon"]["producer"] for row in rows_of(done, "em-2-data")} == {fingerprint["first"]}
    trained = load_file(done / "nodes/em-1-model/final/model.safetensors")
    start = load_file(folder / "base" / "model.safetensors")
    written = resolve(parse((done / "recipe.yaml").read_text()))
    assert {written.node(name).settings.init for name in ("em-1-model", "em")} == {str(folder / "base")}
    assert any(not torch.equal(trained[name], start[name]) for name in start)


def test_one_iteration_is_rejection_sampling_fine_tuning(folder):
    data, sft = resolved(folder, "  em: {method: rest_em, iterations: 1, n: 4, cap: 4, steps: 3}\n").nodes
    assert (data.method, data.arguments["at_least"]) == ("best_of_n", 1.0)
    assert (sft.method, sft.settings.data, sft.settings.init) == ("sft", "$em-data", str(folder / "base"))


def test_above_reads_the_recorded_reward_and_a_low_threshold_is_self_training(done):
    everything, good = rows_of(done, "all"), rows_of(done, "good")
    assert [r["completion"] for r in rows_of(done, "any")] and len(rows_of(done, "any")) == len(everything)
    right = {r["offon"]["id"] for r in everything if r["offon"]["signals"]["reward"] == 1.0}
    assert len(good) == len(right) < len(everything)
    assert json.loads((done / "nodes/good/node.json").read_text())["cost"].get("tokens_generated", 0) == 0


# ---- selection by a model


@pytest.mark.parametrize("ratio", ["perplexity", "nll"])
def test_an_answer_independent_of_its_prompt_has_ifd_one(done, ratio):
    signals = trajectories(done, f"flat-{ratio}", "signals")
    assert [dict(row["signals"])["ifd"] for row in signals] == pytest.approx([1.0] * 24, abs=FLOAT32)


def test_the_two_ratios_are_what_they_say_by_hand(done):
    """From the same two mean NLLs a, b: a / b and exp(a) / exp(b)."""
    found = {}
    for ratio in ("perplexity", "nll"):
        for row in trajectories(done, ratio, "signals, text, prompt_text"):
            s = dict(row["signals"])
            given, alone = -s["mean_logp"], -s["mean_logp/alone"]
            assert s["ifd"] == pytest.approx(given / alone if ratio == "nll" else math.exp(given) / math.exp(alone))
            found.setdefault(ratio, []).append(s["ifd"])
        assert all(row["offon"]["signals"]["ifd"] <= 1.0 for row in rows_of(done, ratio))
    orders = [sorted(range(24), key=lambda i, v=values: v[i]) for values in found.values()]
    assert orders[0] != orders[1], "the two rank differently"


def group(*values: float) -> Group:
    item = Item(id="x", prompt="w1")
    members = [Trajectory.of([5], [3], Source.EXTERNAL, signals={"ifd": v}, id=str(v)) for v in values]
    return Group(item=item, views={"prompt": (3,)}, members=tuple(members))


def test_the_top_share_is_of_all_rows_and_above_one_is_never_kept():
    kept = [
        m.signals["ifd"] for g in top_share([group(0.1, 1.2), group(0.9, 0.8, 0.5)], "ifd", 0.4, 1.0) for m in g.members
    ]
    assert kept == [0.9, 0.8]
    dropped = dict(
        (t.signals["ifd"], why) for g in top_share([group(0.1, 1.2)], "ifd", 0.5, 1.0) for t, why in g.dropped
    )
    assert dropped == {1.2: "ifd above 1"}


def test_grape_keeps_what_the_model_itself_would_say(done):
    """The model's greedy answer beside others; a single candidate stays what it is: sft."""
    kept = {row["prompt"]: row["completion"] for row in rows_of(done, "grape")}
    assert kept["w5 w2"] == "w8" and len(rows_of(done, "grape")) == 2
    scored = trajectories(done, "grape", "text, signals", "prompt_text = 'w0 w0'")
    scores = {row["text"]: dict(row["signals"])["mean_logp"] for row in scored}
    assert kept["w0 w0"] == max(scores, key=scores.get)


def test_rows_of_one_prompt_become_one_group():
    a, b = group(1.0), group(2.0)
    (joined,) = by_prompt([a, b])
    assert [m.id for m in joined.members] == ["1.0", "2.0"]


# ---- self-distillation


def test_rewrites_that_are_right_replace_the_reference_and_the_rest_falls_back(done):
    rows = rows_of(done, "rewritten")
    own = [row for row in rows if row["offon"]["sampling"]]
    gold = [row for row in rows if not row["offon"]["sampling"]]
    assert own and gold and len(rows) <= 24
    assert all(row["offon"]["signals"]["reward"] == 1.0 for row in own)
    assert {row["completion"] for row in gold} <= {"w3 w4", "w5", "w1 w2 w3"}
    assert not any("w9" in row["prompt"] for row in rows)
