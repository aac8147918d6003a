"""The judgement of the causal matrix by hand, its prices on real recipes, and the instruments of the effects."""

import numpy as np
import pytest
from studies.validation import compete, forgetting, interventions
from studies.validation.matrix import Matrix

from offon.engines.expansion import expand
from offon.models.model import Model
from offon.testbed import TestbedTask, model_path
from offon.testbed.grammar import RESPONSE_TOKENS
from offon.testbed.oracle import exact

pytestmark = pytest.mark.slow


def cell(success, routes=None, rest=None):
    after = {"success": list(success), "routes": routes, "rest": rest}
    return {"after": after, "guard": [1.0], "spent": {}, "rate": 0.0, "seconds": 0.0}


def one_class(kind, before, **after):
    """A matrix of one class and one seed."""
    found = Matrix(classes=(kind,), names=tuple(after), k=64)
    found.before[1, kind] = {"student": before}
    found.calls[1] = {kind: {"ranking": 2, "local": 1}}
    found.cells.update({(1, kind, name): each for name, each in after.items()})
    return found


@pytest.mark.parametrize(("rival", "word"), [(0.84, "best"), (0.86, "tied"), (0.95, "worse")])
def test_an_intervention_is_tied_within_the_margin_and_worse_beyond_it(rival, word):
    """Forty prompts that all differ by the same: the interval has no width, and .02 is the margin."""
    found = one_class("ranking", {"success": [0.1] * 40}, rl=cell([0.85] * 40), route=cell([rival] * 40))
    assert found.verdict("ranking", "rl").word == word


def test_a_difference_that_prompts_disagree_about_is_a_tie():
    """Half of the prompts favour the rival by .4, half the mapped one by .2: ahead by .1 on average, not surely."""
    found = one_class("ranking", {"success": [0.1] * 8}, rl=cell([0.6] * 8), route=cell([1.0, 0.4] * 4))
    verdict = found.verdict("ranking", "rl")
    assert verdict.behind.estimate == pytest.approx(0.1) and verdict.word == "tied"


def test_most_prompts_calls_choose_the_intervention():
    assert one_class("ranking", {"success": [0.1]}, rl=cell([1.0])).chosen(1, "ranking") == ("ranking", "rl")


def test_a_route_that_is_taken_is_credited_to_the_prefix():
    """Right after the route in .9 of cases, the route taken in .1 and then in .9: V00 .09, V10 = V11 = .81, V01 .09.
    Prefix .72, suffix 0; both sides are above eps(64) = .046: all of it is shared."""
    before = {"success": [0.09], "routes": [[0.1, 0.9, 0.0]], "rest": [[0.9, 0.0, 0.0]]}
    parts = one_class("ranking", before, rl=cell([0.81], [[0.9, 0.1, 0.0]], [[0.9, 0.0, 0.0]])).parts("ranking", "rl")
    assert {name: pytest.approx(each[0, 0]) for name, each in parts.items()} == {
        "total": 0.72, "expansion": 0.0, "shared": 0.72, "prefix": 0.72, "suffix": 0.0,
    }  # fmt: skip


def test_a_step_that_is_learned_is_credited_to_the_suffix():
    """The right route always, the rest in .01 and then in .91: suffix .9, prefix 0, from below eps to above."""
    before = {"success": [0.01], "routes": [[1.0, 0.0, 0.0]], "rest": [[0.01, 0.0, 0.0]]}
    parts = one_class("local", before, rl=cell([0.91], [[1.0, 0.0, 0.0]], [[0.91, 0.0, 0.0]])).parts("local", "rl")
    assert [parts[name][0, 0] for name in ("prefix", "suffix", "expansion")] == pytest.approx([0.0, 0.9, 0.9])


def test_recipes_spend_the_budget_they_are_given():
    """What nodes counted, at the declared prices, is within a step of the budget. The format, put right
    in the base's own responses, is learned; the base, as its own teacher, teaches nothing."""
    base, held = model_path("base"), TestbedTask("format").items("heldout")[:8]
    models = interventions.Models(student=base, earlier=base, teacher=base)
    practice = interventions.Practice("format", TestbedTask("format").items("train"))

    def success(path):
        model = Model.load(path)
        return np.mean([row.success for row in exact(model.hf, model.tokenizer, held)])

    start = success(base)
    for name, learned in {"format, whole": True, "teacher on own": False}.items():
        after, spent = interventions.run(name, practice, models, budget=3_000, rate=1e-3, seed=0, then=success)
        assert spent["price"] == pytest.approx(3_000, rel=0.2), name
        assert (after > start + 0.2) == learned, (name, start, after)


def test_sharpening_what_most_prompts_need_turns_pass_at_k():
    """(.5, .5) becomes (1, 0): pass@1 is .5 before and after, pass@2 falls from .75 to .5."""
    assert compete.crossover(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == 2
    assert compete.crossover(np.array([0.2, 0.2]), np.array([0.3, 0.3])) == np.inf
    assert compete.within(np.array([0.5]), 3) == pytest.approx(0.875)


def test_competing_prompts_want_the_route_of_their_reference():
    task = compete.Competing(0.2)
    items = task.items("heldout")
    few = [item for item in items if item.columns["few"]]
    assert 0.1 < len(few) / len(items) < 0.3 and all(item.reference.startswith("forward") for item in few)
    assert all(verdict.score == 1 for verdict in task.verify([(item, item.reference) for item in items]))
    assert not any(item.columns["few"] for item in compete.Competing(0.0).items("heldout"))


def test_divergence_is_that_of_whole_responses():
    """KL by prefix equals sum p log(p / q) over whole responses, and is 0 to itself."""
    items = TestbedTask("rare").items("heldout")[:3]
    base, student = Model.load(model_path("base")), Model.load(model_path("student"))
    prompts = [tuple(base.tokenizer(item.prompt).input_ids) for item in items]
    found = expand([base], prompts, eps=forgetting.MIN_REACH, horizon=RESPONSE_TOKENS)
    total = 0.0
    for prompt, tree in zip(prompts, (one.tree for one in found), strict=True):
        for edge in np.flatnonzero(tree.ends):
            response, mass = tree.path(edge), tree.reach[edge, 0]
            prefixes = [(*prompt, *response[:end]) for end in range(len(response))]
            log_q = forgetting.log_next(student, prefixes)[np.arange(len(response)), list(response)].sum()
            total += mass * (np.log(mass) - log_q) / len(items)
    found, cut = forgetting.divergence(base, student, items)
    assert cut < 0.01 and found == pytest.approx(total, rel=0.02)
    assert forgetting.divergence(base, base, items)[0] == 0


def test_rank_correlation_leaves_out_what_did_not_learn():
    """Forgetting rises with KL over the stages that learned; the one that did not would turn it."""
    stages = {f"s{i}": {"kl": i, "kl of after": -i, "forgot": i / 10, "success": 1.0} for i in range(6)}
    stages["s9"] = {"kl": 9, "kl of after": 0, "forgot": 0.0, "success": 0.5}
    assert forgetting.rank_correlation([stages]) == pytest.approx((1.0, 1.0, 1.0))
    assert forgetting.rank_correlation([stages], "kl of after").estimate == pytest.approx(-1.0)
