"""Consolidation: an anchor that is zero where it started, F = 1 as L2, replay that leaves the rest alone, and merges
as nodes of a recipe."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from offon.catalogue import registry
from offon.collect.sources.dataset import REHEARSED
from offon.errors import ConfigError, ModelError
from offon.models.model import LoraSpec, Model
from offon.parts.models import Artefact
from offon.pipeline.check import check_recipe
from offon.pipeline.make_node import mean_squared_gradients
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.train.scoring import layout_of
from tests.catalogue.cases import Case, ready_case
from tests.rounding import FLOAT32, FLOAT32_SUM, STORED, close
from tests.support import ParityTask, demonstrations, model, qwen3, tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("user")
    for name, seed in (("base", 0), ("one", 1), ("two", 2)):
        model(seed).save(root / name)
    rows = [{"prompt": f"w{i} w{j}", "completion": "w3 w4"} for i in range(4) for j in range(4)]
    (root / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def made(folder, path, line: str, node: str = "m"):
    text = f"model: ./base\ntask: {{jsonl: ./task.jsonl, verifier: exact}}\nprobe: false\npipeline:\n  m: {line}\n"
    (folder / "task.jsonl").write_text((folder / "demos.jsonl").read_text().replace("completion", "answer"))
    resolved = resolve(parse(text, folder=folder))
    check_recipe(resolved)
    return run_recipe(resolved, path) / "nodes" / node / "final"


# ---- anchors


@pytest.mark.parametrize(
    ("row", "on"),
    [("grpo", "trainable"), ("remax", "!tag:baseline"), ("luffy", "learner | external"), ("sft", "trainable")],
)
def test_an_anchor_reads_what_the_stage_trains_and_nothing_else(row, on):
    """remax's greedy response is a baseline that no term trains; luffy's terms share all tokens between them."""
    (ready,) = ready_case(Case(row, {}, ("kl_anchor", {})))
    *others, anchor = ready.learner.terms
    weights = ready.batch().weights
    trained = sum(weights[term.name] != 0 for term in others) > 0
    assert anchor.on == on and torch.equal(weights["kl_anchor"] != 0, trained)


def test_an_anchor_holds_replayed_rows_only_if_they_were_there_before_it():
    """Replay takes replayed rows out of the terms before it: an anchor named first does not read them."""
    anchor, replay = registry.get("kl_anchor").function, registry.get("replay").function
    remax, data = registry.get("remax").function(ParityTask()), demonstrations()
    assert replay(anchor(remax), data=data).main.terms[1].on == "!tag:baseline & !tag:rehearsed"
    both = "!tag:baseline & !tag:rehearsed | tag:rehearsed"
    assert anchor(replay(remax, data=data)).main.terms[-1].on == both


# ---- merges as nodes


def test_a_soup_of_two_loads_in_transformers_and_is_their_mean(folder, tmp_path):
    final = made(folder, tmp_path / "r", "{method: merge_linear, models: [./one, ./two]}")
    one, two, mean = (load_file(p / "model.safetensors") for p in (folder / "one", folder / "two", final))
    assert all(close(mean[name], (one[name] + two[name]) / 2, STORED) for name in mean)
    assert AutoModelForCausalLM.from_pretrained(final).config.tie_word_embeddings


@pytest.mark.parametrize(
    "line",
    [
        "{method: merge_linear, models: [./one]}",
        "{method: merge_linear, models: [./one, ./two], weights: [1.0, 0.0]}",
        "{method: merge_slerp, models: [./one, ./two], t: 0.0}",
        "{method: task_arithmetic, models: [./one], scale: 1.0}",
        "{method: ties, models: [./one], density: 1.0}",
        "{method: dare, models: [./one], drop: 0.0}",
    ],
)
def test_a_merge_at_its_edge_is_the_one_model(folder, tmp_path, line):
    final = made(folder, tmp_path / "r", line)
    one, merged = load_file(folder / "one" / "model.safetensors"), load_file(final / "model.safetensors")
    assert all(torch.allclose(merged[name], one[name], atol=STORED) for name in one)


def test_an_adapter_is_merged_as_its_product_not_as_its_factors(folder, tmp_path):
    """Half of (B1 A1 + B2 A2) is not (B1 + B2)/2 (A1 + A2)/2: the soup of two adapters computes the mean of weights."""
    lora = LoraSpec(r=2, alpha=4.0, target_modules=("q_proj",))
    for seed, name in ((1, "first"), (2, "second")):
        tuned = Model.load(folder / "base", lora=lora, device="cpu")
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for parameter in tuned.train_parameters().values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        tuned.save(tmp_path / name)
    final = made(folder, tmp_path / "r", f"{{method: merge_linear, models: [{tmp_path}/first, {tmp_path}/second]}}")
    merged = Model.load(final, device="cpu")
    each = [Model.load(tmp_path / name, device="cpu").hf.merge_and_unload() for name in ("first", "second")]
    name = "model.layers.0.self_attn.q_proj.weight"
    mean = sum(dict(hf.named_parameters())[name] for hf in each) / 2
    assert torch.allclose(dict(merged.hf.named_parameters())[name], mean, atol=STORED)
    assert (mean - load_file(folder / "base" / "model.safetensors")[name]).abs().max() > 0.1


def test_other_architectures_and_vocabularies_are_refused(folder, tmp_path):
    Model.wrap(qwen3(0, layers=1), tokenizer(), device="cpu").save(tmp_path / "short")
    with pytest.raises(ModelError, match="different architecture cannot be merged"):
        made(folder, tmp_path / "r", f"{{method: merge_linear, models: [./one, {tmp_path}/short]}}")
    with pytest.raises(ModelError, match="another vocabulary"):
        made(folder, tmp_path / "q", "{method: merge_linear, models: [./one, testbed:student]}")


def test_a_merge_is_measured_like_the_result_of_a_stage(folder, tmp_path):
    (folder / "task.jsonl").write_text((folder / "demos.jsonl").read_text().replace("completion", "answer"))
    text = "model: ./base\ntask: {jsonl: ./task.jsonl, verifier: exact}\n"
    text += "probe: {prompts: 4, samples: 4, k: 2, max_tokens: 4}\n"
    text += "pipeline:\n  m: {method: merge_linear, models: [./one, ./two]}\n"
    done = run_recipe(resolve(parse(text, folder=folder)), tmp_path / "r")
    assert [entry["model"] for entry in json.loads((done / "diagnosis.json").read_text())] == ["m"]


# ---- Fisher information and EWC


def test_fisher_is_the_mean_of_single_responses_squares_not_the_square_of_their_mean():
    """By hand: F = 1/N sum_i g_i^2 with g_i one backward pass each. The square of the mean gradient is another number,
    and much smaller: single gradients point in many directions."""
    groups = demonstrations()[:5]
    found = mean_squared_gradients(qwen3(0), groups)
    own = model(0)
    singles = []
    for group in groups:
        own.hf.zero_grad()
        own.logp(layout_of(group.members, "train")).sum().backward()
        singles.append({n: p.grad.clone() for n, p in own.train_parameters().items()})
    by_hand = {n: sum(s[n].square() for s in singles) / 5 for n in singles[0]}
    squared_mean = {n: (sum(s[n] for s in singles) / 5).square() for n in singles[0]}
    assert all(close(found[n], by_hand[n], FLOAT32_SUM) for n in by_hand)
    total = sum(float(v.sum()) for v in found.values())
    assert sum(float(v.sum()) for v in squared_mean.values()) < 0.7 * total


def test_true_and_empirical_fisher_are_two_numbers_and_no_policy_is_measured(folder, tmp_path):
    empirical = made(folder, tmp_path / "e", "{method: fisher, kind: empirical, data: ./demos.jsonl}")
    true = made(folder, tmp_path / "t", "{method: fisher, samples: 2, max_tokens: 6}")
    F, G = (load_file(p / "model.safetensors") for p in (empirical, true))
    assert all((v >= 0).all() for v in (*F.values(), *G.values()))
    assert any(not torch.allclose(F[n], G[n], rtol=0.1) for n in F)
    assert not json.loads((tmp_path / "t" / "nodes/m/node.json").read_text())["measured"]


def gradients_of_penalty(fisher, moved: bool):
    """The gradient of ewc's term alone."""
    (learner,) = (
        registry.get("ewc")
        .function(registry.get("sft").function(demonstrations()), fisher="teacher", coef=3.0)
        .learners
    )
    term = learner.terms[-1]
    start = {n: p.detach().clone() for n, p in model(0).train_parameters().items()}
    own = {n: (v + 0.1 * moved).clone().requires_grad_() for n, v in start.items()}
    own_need, start_need, fisher_need = term.needs
    assert fisher_need.model == Artefact("teacher")
    loss = term.loss({own_need: own, start_need: start, fisher_need: fisher(start)})
    loss.backward()
    return loss, own, start, term


def test_ewc_is_zero_where_it_began_and_l2_with_an_importance_of_one():
    loss, own, *_ = gradients_of_penalty(lambda s: {n: torch.rand_like(v) for n, v in s.items()}, moved=False)
    assert loss.item() == 0 and all(not p.grad.any() for p in own.values())
    loss, own, start, term = gradients_of_penalty(lambda s: {n: torch.ones_like(v) for n, v in s.items()}, moved=True)
    n = sum(v.numel() for v in start.values())
    assert loss.item() == pytest.approx(0.5 * 0.01 * n, rel=FLOAT32_SUM) and term.coef == 3.0
    assert all(torch.allclose(p.grad, torch.full_like(p, 0.1), atol=FLOAT32) for p in own.values())


@pytest.mark.parametrize(
    ("fisher", "why"),
    [
        ("./one", "of its model.embed_tokens.weight is negative"),
        ("$sft", "a model that sft makes"),
        ("$soup", "a model that merge_linear makes"),
        ("$f", ""),
        ("$own", ""),
    ],
)
def test_a_model_is_refused_as_fisher_information_before_anything_runs(folder, fisher, why):
    """About half of a model's entries are negative, and no mean of squares is. What a function of the user's makes is
    looked at when it is there."""
    (folder / "own.py").write_text("def importance(directory):\n    pass\n")
    text = f"""
model: ./base
probe: false
pipeline:
  sft: {{method: sft, data: ./demos.jsonl, steps: 1}}
  soup: {{method: merge_linear, models: [./one, ./two]}}
  f: {{method: fisher, kind: empirical, data: ./demos.jsonl}}
  own: {{make: ./own.py:importance}}
  next: {{method: sft, init: ./base, data: ./demos.jsonl, steps: 1, with: [ewc: {{fisher: {fisher}}}]}}
"""
    resolved = resolve(parse(text, folder=folder))
    if not why:
        assert check_recipe(resolved)["nodes"]
        return
    with pytest.raises(ModelError, match="says nothing of how much each parameter matters") as refused:
        check_recipe(resolved)
    assert why in refused.value.why and "method: fisher" in refused.value.fix and "next" in refused.value.where


def test_fisher_information_that_lies_in_a_folder_is_accepted(folder, tmp_path):
    made(folder, tmp_path / "f", "{method: fisher, kind: empirical, data: ./demos.jsonl}")
    text = f"""
model: ./base
probe: false
pipeline:
  next: {{method: sft, data: ./demos.jsonl, steps: 1, with: [ewc: {{fisher: {tmp_path}/f/nodes/m/final}}]}}
"""
    assert check_recipe(resolve(parse(text, folder=folder)))["nodes"][0]["node"] == "next"


# ---- replay


def test_replayed_rows_are_read_by_their_own_term_and_by_no_other():
    (ready,) = ready_case(Case("grpo", {}, ("replay", {"share": 0.5})))
    replayed = [REHEARSED in m.tags for g in ready.groups for m in g.members]
    assert any(replayed) and not all(replayed)
    weights = ready.batch().weights
    batch = ready.batch()
    of_token = torch.tensor(replayed)[batch.sequence]
    for term in ready.learner.terms:
        read = weights[term.name] != 0
        assert not (read & (of_token != (term.name == "replay"))).any(), term.name
    assert weights["replay"].sum() == pytest.approx(1.0) and weights["replay"].any()


def test_replayed_rows_are_none_of_the_stages_own_earlier_rollouts_and_come_from_one_replay():
    """repo tags its past rollouts "replay"; with one tag for both its own term would read nothing."""
    replay, data = registry.get("replay").function, demonstrations()
    stage = replay(registry.get("repo").function(ParityTask()), data=data)
    assert {term.name: term.on for term in stage.main.terms} == {
        "fresh": "!tag:replay & !tag:rehearsed", "replays": "tag:replay & !tag:rehearsed", "replay": "tag:rehearsed",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="already"):
        replay(stage, data=data)


def test_no_share_is_the_stage_itself_and_the_coefficient_is_the_unions():
    assert registry.get("replay").function(
        registry.get("sft").function(demonstrations()), data=demonstrations(), share=0.2
    ).main.terms[-1].coef == pytest.approx(0.25)
    (ready,) = ready_case(Case("sft", {}, ("replay", {"share": 0.0})))
    assert not any(REHEARSED in m.tags for g in ready.groups for m in g.members)
    assert not ready.batch().weights["replay"].any()


def test_replay_in_a_recipe_reads_what_a_node_made(folder, tmp_path):
    text = """
model: ./base
task: {jsonl: ./task.jsonl, verifier: exact}
probe: false
pipeline:
  best: {method: best_of_n, n: 2, max_tokens: 12}
  sft: {method: sft, data: ./demos.jsonl, steps: 3, prompts_per_step: 8, with: [replay: {data: $best, share: 0.5}]}
"""
    (folder / "task.jsonl").write_text((folder / "demos.jsonl").read_text().replace("completion", "answer"))
    resolved = resolve(parse(text, folder=folder))
    assert ("data", "$best") in {(e.kind, e.source) for e in resolved.node("sft").inputs}
    assert check_recipe(resolved)["nodes"][1]["node"] == "sft"
    done = run_recipe(resolved, tmp_path / "r")
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss/replay"] > 0 for line in lines)
