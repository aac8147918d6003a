"""Distances between models: none from itself, the sum over every token that could have been, read once and kept."""

import pytest
import torch

from offon.measure import model_distance
from offon.measure.model_distance import LoadedModels, ModelDistance, distances
from offon.measure.probe import run_probe
from offon.models.model import Model
from offon.recipe.fields import Probe
from offon.runs import RunDirectory
from offon.runs.artefacts import external
from offon.testbed import TestbedTask
from offon.types import Sampling
from tests.rounding import FLOAT32_SUM
from tests.support import model

PROBE = Probe(prompts=4, samples=6, k=2, max_tokens=8)


def going() -> bool:
    return False


@pytest.fixture(scope="module")
def probed():
    """Responses of the base model, and the run that they are read in."""
    base = external("testbed:base")
    return run_probe(Model.load(base.path), TestbedTask("rare"), PROBE, "ab12")


@pytest.fixture
def run(tmp_path):
    with RunDirectory.create(tmp_path / "run", recipe_text="") as run:
        yield run


def pair(run, own, other):
    return ModelDistance(run, LoadedModels(going), external(own), external(other))


def test_a_model_is_at_distance_0_from_itself(run, probed):
    itself = external("testbed:base")
    read = ModelDistance(run, LoadedModels(going), itself, itself).distances(probed)
    assert read["kl_nats"] == [0.0] * 4 and read["agreeing"] == read["tokens"]
    # two copies in memory: nothing is equal for being the same object
    twice = distances(Model.load(itself.path), Model.load(itself.path), probed[0].members)
    assert (twice[:, 0] == 0).all() and twice[:, 1].tolist() == [len(m) for m in probed[0].members]
    for scored in ModelDistance(run, LoadedModels(going), itself, itself).successes(probed):
        assert (scored.log_ratio == 0).all()


def test_the_distance_is_the_expected_log_ratio_over_all_tokens_at_the_samplers_temperature(probed):
    """By hand on one response: sum_t sum_v p (log p - log q) with p, q from transformers' own logits at T = .5."""
    own, other = model(0), model(1)
    member = probed[0].members[0]
    member = member.replace(
        tokens=member.tokens % 14, views={"sample": (3, 4)},
        producer=type(member.producer)(model="m", sampling=Sampling(temperature=0.5)),
    )  # fmt: skip
    (found,) = distances(own, other, [member])
    ids = torch.tensor([[3, 4, *member.tokens.tolist()]])
    log_p, log_q = ((m.hf(ids).logits[0, 1:-1].double() / 0.5).log_softmax(-1).detach() for m in (own, other))
    assert found[0] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), rel=FLOAT32_SUM)
    assert found[1] == float((log_p.argmax(-1) == log_q.argmax(-1)).sum())


def test_what_was_read_is_kept(run, probed, monkeypatch):
    first = pair(run, "testbed:base", "testbed:student").distances(probed)
    successes = pair(run, "testbed:base", "testbed:student").successes(probed)
    monkeypatch.setattr(model_distance.Model, "load", lambda *_: pytest.fail("a model was loaded again"))
    assert pair(run, "testbed:base", "testbed:student").distances(probed) == first
    again = pair(run, "testbed:base", "testbed:student").successes(probed)
    assert [s.log_ratio.tolist() for s in again] == [s.log_ratio.tolist() for s in successes]
    assert all(nats > 0 for nats in first["kl_nats"])


def test_vocabularies_are_told_apart_without_weights(run, tmp_path):
    model(0).save(tmp_path / "tiny")
    assert pair(run, "testbed:base", "testbed:student").same_tokens
    assert not pair(run, "testbed:base", str(tmp_path / "tiny")).same_tokens
