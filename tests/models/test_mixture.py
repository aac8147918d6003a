"""Several models read as one: the mixture's formulas on the models' own logits, and one model for each item."""

from __future__ import annotations

import pytest
import torch

from offon.errors import ConfigError, DataError
from offon.models.mixture import Mixture, Routed
from offon.models.packed.layout import Layout
from offon.parts.models import SELF, Artefact, Ema, Live, Mix, Need, Route, Start
from offon.train.scoring import score_buffer
from offon.types import Group, Item, Source, Trajectory
from tests.rounding import FLOAT32, close
from tests.support import model

LAYOUT = Layout.of([((2, 3), [4, 5, 1]), ((2, 3), [6, 1]), ((5,), [7])])
NEED = Need("logp", Artefact("t"), when="buffer")


def log_probs(one) -> torch.Tensor:
    return torch.log_softmax(one.next_logits(one.hidden(LAYOUT)), dim=-1).detach()


@pytest.fixture(scope="module")
def two():
    return model(0), model(2, hidden=48)


def test_probabilities_are_averaged(two):
    a, b = map(log_probs, two)
    expected = (0.2 * a.exp() + 0.8 * b.exp()).log()
    assert close(log_probs(Mixture(two, (0.2, 0.8), "probability")), expected, FLOAT32)


def test_averaged_logits_are_the_geometric_mixture(two):
    """prod p_k^w_k, renormalised, whatever constants the logits carry."""
    a, b = map(log_probs, two)
    product = a.exp() ** 0.3 * b.exp() ** 0.7
    expected = (product / product.sum(-1, keepdim=True)).log()
    assert close(log_probs(Mixture(two, (0.3, 0.7), "logit")), expected, FLOAT32)


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_a_mixture_of_one_is_that_one(two, space):
    for weights, alone in (((1.0, 0.0), two[0]), ((0.0, 1.0), two[1])):
        assert close(log_probs(Mixture(two, weights, space)), log_probs(alone), FLOAT32)


def item_group(family: str, index: int) -> Group:
    member = Trajectory.of([4 + index, 5, 1], (2, 3), Source.LEARNER)
    item = Item(id=str(index), prompt="p", family=family, columns={"domain": family})
    return Group(item=item, views={"prompt": (2, 3)}).add(member, member)


@pytest.mark.parametrize("column", ["family", "domain"])
def test_each_item_is_scored_by_its_own_model(two, column):
    routed = Routed(column, dict(zip("ab", two, strict=True)))
    groups = [item_group(family, i) for i, family in enumerate("abba")]
    scored = score_buffer(routed, groups, NEED, 10)
    for group in scored:
        (alone,) = score_buffer(dict(zip("ab", two, strict=True))[group.item.family], [group], NEED, 100)
        for ours, expected in zip(group.members, alone.members, strict=True):
            assert ours.token_signals["logp@t"] == pytest.approx(expected.token_signals["logp@t"], abs=FLOAT32)


def test_an_item_without_a_model_is_named(two):
    with pytest.raises(DataError, match="'c'.*\n.*item 3|'c'"):
        score_buffer(Routed("family", {"a": two[0]}), [item_group("c", 3)], NEED, 10)


def test_references_say_what_they_are_and_refuse_what_they_cannot_be():
    mix = Mix((Artefact("t"), SELF), (0.2, 0.8), "logit")
    assert str(mix) == "mix(0.2 t + 0.8 self, logit)" and set(mix.walk()) == {mix, Artefact("t"), SELF}
    assert str(Route("family", {"a": Start("prm"), "b": Live("prm")})) == "route(family: a start(prm), b prm)"
    assert str(Ema(SELF, 0.05)) == "ema(self, 0.05)" and list(Ema(SELF, 0.05).walk()) == [Ema(SELF, 0.05)]
    with pytest.raises(ConfigError, match="sum 1"):
        Mix((SELF, SELF), (0.5, 0.6))
    with pytest.raises(ConfigError, match="rate"):
        Ema(SELF, 1.5)
