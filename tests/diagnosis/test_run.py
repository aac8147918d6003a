"""The planted bottlenecks of the testbed are told apart, and rollouts go where they are needed."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from offon.diagnosis.exact_successes import logps
from offon.diagnosis.gold_labels import read_labels
from offon.diagnosis.measurements import DiagnosisSampler
from offon.diagnosis.prefixes import placements
from offon.diagnosis.run import diagnose_model
from offon.engines.api import Request
from offon.engines.native import NativeEngine
from offon.errors import DataError
from offon.measure.probe_diagnosis import diagnosis as diagnosis_of
from offon.models.model import Model
from offon.tasks import open_task
from offon.testbed import model_path
from offon.testbed.oracle import exact
from offon.types import Group, Item, Sampling, Source, Trajectory, Verdict
from tests.rounding import FLOAT32_SUM

pytestmark = pytest.mark.slow

PLANTED = {"rare": "ranking", "absent": "missing", "format": "format", "scaffold": "fragile", "guard": "solved"}


@pytest.fixture(scope="module")
def diagnosis():
    return diagnose_model("testbed:base", {"testbed": list(PLANTED)}, prompts=40, budget=96, k=32, max_tokens=8, seed=1)


def test_decided_prompts_have_their_planted_bottleneck(diagnosis):
    """Thresholds are far from the planted rates; one prompt in twenty may be off (confidence .9)."""
    calls = [(PLANTED[prompt["family"]], prompt["call"]) for prompt in diagnosis["prompts"]]
    decided = [(planted, call) for planted, call in calls if call != "undecided"]
    assert len(decided) >= 0.9 * len(calls)
    assert sum(planted == call for planted, call in decided) >= 0.95 * len(decided)


def test_rollouts_go_where_they_are_needed(diagnosis):
    """A solved prompt is called after the first rollouts; one below support is placed and given no further ones."""
    for prompt in diagnosis["prompts"]:
        if prompt["call"] == "solved":
            assert prompt["strict"][1] == 32 and "placed" not in prompt
        if prompt["call"] == "missing":
            assert prompt["placed"][1] > 0 and prompt["strict"][1] <= 48
    assert diagnosis["cost"]["rollouts"] < 0.6 * 40 * 96


def test_controls_are_reported(diagnosis):
    notes = " ".join(diagnosis["notes"])
    assert "after another prompt's prefix the model succeeds in 0%" in notes
    assert "prefixes already hold the answer" in notes
    controls = diagnosis["controls"]
    assert controls["shuffled"]["success"]["estimate"] == 0 and not controls["shuffled"]["failed"]
    assert controls["leaks"]["share"]["estimate"] == 0.25  # of forward, x1, x2, x3: after x3 only the sign is missing


def test_the_same_seed_gives_the_same_diagnosis(diagnosis):
    again = diagnose_model(
        "testbed:base", {"testbed": list(PLANTED)}, prompts=40, budget=96, k=32, max_tokens=8, seed=1
    )
    first, second = ({**entry, "cost": {**entry["cost"], "seconds": 0}, "plan": ""} for entry in (diagnosis, again))
    assert first == second


def test_a_teacher_without_the_skill_places_nobody():
    """Its four tries fail, the references stand in, and even they do not help: the skill is missing."""
    entry = diagnose_model(
        "testbed:base", {"testbed": ["absent"]}, teacher="testbed:base", prompts=6, budget=96, max_tokens=8
    )
    assert {prompt["call"] for prompt in entry["prompts"]} == {"missing"}
    assert entry["cost"]["teacher_tokens"] > 0


def test_no_reachable_prompt_is_called_before_its_scaffold_was_tried():
    """Untried, a scaffold counts as no help: a fragile prompt with some successes would be called ranking."""
    entry = diagnose_model("testbed:base", {"testbed": ["scaffold", "guard"]}, prompts=12, budget=64, max_tokens=8)
    for prompt in entry["prompts"]:
        assert ("scaffold" in prompt) == (prompt["family"] == "scaffold")


def test_one_failing_prompt_has_no_placebo():
    """The placebo is a wrong response to another prompt; with nobody else failing there is none, and no crash."""
    entry = diagnose_model(
        "testbed:base", {"testbed": ["absent"]}, teacher="testbed:base", prompts=1, budget=96, max_tokens=8
    )
    assert "placebo" not in entry["prompts"][0]


def test_the_plan_is_said_before_anything_but_the_pilot_is_spent(diagnosis):
    """40 prompts: 32 rollouts each, at most 96."""
    said = []
    entry = diagnose_model("testbed:base", "testbed:guard", prompts=4, budget=40, max_tokens=8, progress=said.append)
    notes = [event["note"] for event in said if "note" in event]
    assert notes == [entry["plan"]]
    assert [event["generated"][1] for event in said[: said.index({"note": entry["plan"]})]] == [32] * len(said[:1])
    assert diagnosis["plan"].startswith("40 prompts x 32 rollouts first, 96 at most: 1,280 rollouts, ")


def test_tries_until_solved_hold_the_exact_rate(diagnosis):
    """Of 40 intervals of .95 at most 5 miss in 986 of 1,000 draws."""
    task = open_task({"testbed": list(PLANTED)})
    items = {item.id: item for item in task.items("heldout")}
    model, tokenizer = (kind.from_pretrained(model_path("base")) for kind in (AutoModelForCausalLM, AutoTokenizer))
    rows = exact(model, tokenizer, [items[prompt["id"]] for prompt in diagnosis["prompts"]])
    missed = 0
    for prompt, row in zip(diagnosis["prompts"], rows, strict=True):
        fewest, most = prompt["k_to_solve"]
        missed += not fewest <= 1 / row.success <= most
    assert missed <= 5


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_scorer_agrees_with_the_sampler(temperature):
    model, task = Model.load(model_path("base")), open_task("testbed:rare")
    sampling = Sampling(temperature=temperature, max_tokens=8)
    prompt = tuple(model.tokenizer(task.items("heldout")[0].prompt).input_ids)
    completions = NativeEngine().generate([Request(prompt, sampling, (1, i)) for i in range(16)], model)
    group = Group(item=task.items("heldout")[0], views={"prompt": prompt})
    scored = logps(model, [group], [(0, tuple(c.tokens)) for c in completions], sampling)
    np.testing.assert_allclose(scored, [sum(c.logp) for c in completions], atol=FLOAT32_SUM)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory):
    """The base with another first word: it takes no right route any more, and could before."""
    at = tmp_path_factory.mktemp("forgetful")
    model, tokenizer = (kind.from_pretrained(model_path("base")) for kind in (AutoModelForCausalLM, AutoTokenizer))
    with torch.no_grad():
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("forward")] = 0
    model.save_pretrained(at)
    tokenizer.save_pretrained(at)
    return str(at)


def test_what_an_earlier_checkpoint_could_is_called_lost(forgetful):
    """Guard prompts: the base solves them, the damaged model none. It is asked only where it could matter: what the
    base solves is solved, whatever another could."""
    options = {"prompts": 6, "budget": 96, "max_tokens": 8, "earlier": ["testbed:base"]}
    entry = diagnose_model(forgetful, "testbed:guard", **options)
    assert {(p["call"], p["sub"], p["since"]) for p in entry["prompts"]} == {("fragile", "lost", "testbed:base")}
    assert all(p["previous"] == [8, 8] and p["strict"][1] == 32 for p in entry["prompts"])
    assert "6 lost since testbed:base" in entry["sentence"]
    intact = diagnose_model("testbed:base", "testbed:guard", **options)
    assert {p["call"] for p in intact["prompts"]} == {"solved"} and all("previous" not in p for p in intact["prompts"])


class Noisy:
    """The testbed's guard family behind a checker that accepts right answers with TPR and wrong ones with FPR."""

    name = "noisy"

    def __init__(self, tpr, fpr, families="guard"):
        self.task, self.rates, self.random = open_task({"testbed": families}), (tpr, fpr), np.random.default_rng(0)

    def items(self, split):
        return self.task.items(split)

    def verify(self, pairs):
        right = [verdict.score == 1 for verdict in self.task.verify(pairs)]
        return [Verdict(float(self.random.random() < self.rates[0 if one else 1])) for one in right]


def labelled(task, number):
    items = task.items("train")[:number]
    right = [{"id": item.id, "response": item.reference, "right": True} for item in items]
    return right + [{"prompt": item.prompt, "response": "forward 1 2 3 :", "right": False} for item in items]


def test_labels_undo_a_checkers_errors():
    """Guard is solved (.95); a checker that rejects a quarter of right answers makes it look like .7."""
    blinded = diagnose_model("testbed:base", Noisy(0.75, 0), prompts=6, budget=96, max_tokens=8)
    assert {p["call"] for p in blinded["prompts"]} <= {"ranking", "undecided"}
    told = Noisy(0.75, 0)
    entry = diagnose_model("testbed:base", told, labels=labelled(told, 400), prompts=6, budget=160, max_tokens=8)
    assert {p["call"] for p in entry["prompts"]} <= {"solved", "undecided"}
    assert sum(p["call"] == "solved" for p in entry["prompts"]) >= 3
    sensitivity = entry["verifier"]["sensitivity"]
    assert sensitivity["low"] < 0.75 < sensitivity["high"] and entry["verifier"]["false_positive"]["estimate"] == 0


def test_labels_that_cannot_be_used_are_refused():
    task = open_task("testbed:guard")
    with pytest.raises(DataError, match="20 right and 20 wrong labelled outputs"):
        read_labels(labelled(task, 20), task)
    with pytest.raises(DataError, match="no item 'nowhere'"):
        read_labels([{"id": "nowhere", "response": "", "right": True}], task)


def test_gold_verdicts_on_the_form_are_counted_where_the_checker_rejects_it():
    task = open_task("testbed:format")
    rows = labelled(task, 60)
    for index, row in enumerate(rows[:60]):
        row["response"] = row["response"].replace("#", ":")
        row["format"] = index % 3 == 0
    assert read_labels(rows, task).forms == {"format": (20, 60)}


def test_wrong_forms_among_right_labels_do_not_make_the_checker_blind():
    """A checker without a verdict on content accepts every right answer in its form, and none in another. 80 of each
    among the labels are no TPR of .5."""
    task, checker = open_task("testbed:guard"), Noisy(1.0, 0.0)
    rows = labelled(task, 80)
    formless = [{**row, "response": row["response"].replace("#", ":"), "format": False} for row in rows[:80]]
    known = read_labels([*rows, *formless], checker)
    assert (known.checker.accepted_right, known.checker.right, known.wrong_form) == (80, 80, (0, 80))
    unsaid = [{name: value for name, value in row.items() if name != "format"} for row in formless]
    blurred = read_labels([*rows, *unsaid], checker)
    assert blurred.checker.right == 160 and "80 do not say whether their form is right" in blurred.note


class StrictOnly:
    """The testbed's checker without its verdict on content."""

    name = "strict"

    def verify(self, pairs):
        return [Verdict(verdict.score) for verdict in open_task("testbed:guard").verify(pairs)]


def placed(task, items, answers):
    tokenizer = AutoTokenizer.from_pretrained(model_path("base"))
    groups = [Group(item=item, views={"prompt": (0,)}) for item in items]
    right = {p: tuple(tokenizer(answer).input_ids) for p, answer in enumerate(answers)}
    found, leaks = placements(right, groups, task, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    return [tokenizer.decode(found[p].last) if p in found else None for p in range(len(items))], leaks


def test_a_prefix_that_anybody_could_finish_holds_the_answer():
    """forward x1 x2 x3 is no right response yet, and no checker of whole responses says it is; but the end of any other
    prompt's answer makes it one."""
    items = open_task("testbed:guard").items("heldout")[:6]
    found, leaks = placed(StrictOnly(), items, [item.reference for item in items])
    assert found == [" ".join(item.reference.split()[:3]) for item in items]
    assert leaks == [False, False, False, True] * 6


def test_equal_answers_are_no_leak():
    """Every prompt's answer ends the same: another's end fits because its whole answer does."""

    class LastWord:
        def verify(self, pairs):
            return [Verdict(float(text.split()[-1:] == ["#"])) for _, text in pairs]

    items = [Item(id=str(i), prompt=str(i)) for i in range(4)]
    found, leaks = placed(LastWord(), items, ["forward 1 2 3 #"] * 4)
    assert found == ["forward 1 2 3"] * 4 and not any(leaks)


def test_a_prefix_with_the_answer_written_in_it_is_not_used():
    class Whole:
        def verify(self, pairs):
            return [Verdict(float(text == "forward 1 12 3 #")) for _, text in pairs]

    found, leaks = placed(Whole(), [Item(id="0", prompt="0", columns={"answer": "12"})], ["forward 1 12 3 #"])
    assert found == ["forward 1"] and leaks == [False, False, True, True]


def test_a_truncated_sampler_is_diagnosed_as_it_samples():
    """At top_p .5 the base takes the likeliest route only, which in the family `rare` is a decoy: out of reach, and the
    probability of a reference under it is not claimed."""
    entry = diagnose_model("testbed:base", "testbed:rare", prompts=6, budget=96, max_tokens=8, top_p=0.4)
    assert {p["call"] for p in entry["prompts"]} <= {"unreachable", "unsupported", "undecided"}
    assert all(p["strict"][0] == 0 and p["k_to_solve"][1] is None for p in entry["prompts"])
    assert entry["sampler"] == {"temperature": 1.0, "top_p": 0.4, "max_tokens": 8}


class NoEntries:
    """A run that nothing was diagnosed in."""

    def read_json(self, name, default):
        return default


def probed(rights):
    """Prompts with 32 responses each, so many of them right, each of probability 1/64."""

    def member(right, n):
        return Trajectory.of(
            [right, n], (0,), Source.LEARNER, behavior_logp=[np.log(1 / 64), 0.0], signals={"reward": float(right)}
        )

    return {
        "task": [
            Group(
                item=Item(id=str(i), prompt=str(i)),
                views={"prompt": (0,)},
                members=tuple(member(n < right, n) for n in range(32)),
            )
            for i, right in enumerate(rights)
        ]
    }


def test_a_run_says_what_a_stage_lost():
    """32 responses before and after a stage: solved twice, lost, gained. What was lost names the model it began with.
    Eight different right responses of probability 1/64 are a success rate of 1/8 for certain: 8 tries."""
    before, after = probed([32, 32, 0, 0]), probed([32, 0, 32, 8])
    entry, *others = diagnosis_of(NoEntries(), "rl", after, 32, {"sft": before})
    assert not others and [(p["call"], p["since"]) for p in entry["prompts"]] == [
        ("solved", None), ("fragile", "sft"), ("solved", None), ("ranking", None)
    ]  # fmt: skip
    assert entry["prompts"][1]["previous"] == [32, 32] and "1 lost since sft" in entry["sentence"]
    assert 8 <= entry["prompts"][3]["k_to_solve"][1] < 8.001
    assert [p["call"] for p in diagnosis_of(NoEntries(), "rl", after, 32)[0]["prompts"]][1] == "unsupported"


def test_a_placebo_begins_as_the_model_does():
    """What a teacher does after a wrong beginning depends on the beginning: prompt 0 fails by way of `backward`, and so
    do the halves of other prompts' failures that it is compared with; prompt 3 has no like, and takes any."""
    model = Model.load(model_path("base"))
    ids = model.tokenizer.convert_tokens_to_ids
    groups = [Group(item=Item(id=str(i), prompt=str(i)), views={"prompt": (i + 1,)}) for i in range(4)]
    sampler = DiagnosisSampler(model, model, None, groups, Sampling(), salt=0, progress=None)
    for p, words in enumerate(("backward 1 2 3 #", "backward 4 5 6 #", "forward 7 8 9 #", "rotate 1 1 1 #")):
        sampler.failures[p].append(tuple(ids(words.split())))
    asked = []
    sampler._record = lambda name, requests: asked.extend(requests)
    sampler.measure("placebo", np.array([0, 3]), 2)
    begun = [" ".join(model.tokenizer.convert_ids_to_tokens(given)) for _, _, given in asked]
    assert begun == ["backward 4 5", "backward 4 5", "backward 1 2", "backward 4 5"]


class Partial:
    """The testbed's guard family behind a checker that sees content only where the form is wrong, as lenient second
    readings do, and accepts a share of everything else."""

    name = "partial"

    def __init__(self, accepts=0.0):
        self.task, self.accepts, self.random = open_task("testbed:format"), accepts, np.random.default_rng(0)

    def items(self, split):
        return self.task.items(split)

    def verify(self, pairs):
        return [
            Verdict(1.0) if v.score == 1 or self.random.random() < self.accepts else Verdict(0.0, content=v.content)
            for v in self.task.verify(pairs)
        ]


def test_content_where_the_checker_gives_it_is_enough_for_format():
    entry = diagnose_model("testbed:base", Partial(), prompts=6, budget=64, max_tokens=8)
    assert {prompt["call"] for prompt in entry["prompts"]} == {"format"}
    assert all(prompt["content"][1] == prompt["strict"][1] for prompt in entry["prompts"])
    assert entry["controls"]["others"]["accepted"]["high"] < 0.02 and not entry["controls"]["others"]["failed"]


def test_false_acceptances_are_found_for_nothing():
    """6% of everything is accepted, on prompts that the model never solves: nothing is called within reach."""
    task = Noisy(1.0, 0.06, "absent")
    entry = diagnose_model("testbed:base", task, prompts=8, budget=96, max_tokens=8)
    others = entry["controls"]["others"]
    assert others["accepted"]["low"] < 0.06 < others["accepted"]["high"] and others["failed"]
    assert "ranking" not in {prompt["call"] for prompt in entry["prompts"]}
    assert entry["sentence"].startswith("mend the checker")


def test_a_response_that_never_ends_is_cut_off():
    """At 4 tokens no response of the testbed can end."""
    entry = diagnose_model("testbed:base", "testbed:guard", prompts=4, budget=40, max_tokens=4)
    assert {prompt["call"] for prompt in entry["prompts"]} == {"truncated"}
    assert entry["sentence"].startswith("100% of all failures")
    assert entry["truncated"]["estimate"] == 1


class Answers:
    """Rows {prompt, answer} and nothing more."""

    name = "answers"

    def __init__(self, whole):
        base = open_task("testbed:absent").items("heldout")[:4]
        columns = [{**item.columns, "answer": item.columns["trace"]} for item in base]
        self.all = [
            Item(id=item.id, prompt=item.prompt, columns=row, reference=item.reference if whole else row["answer"])
            for item, row in zip(base, columns, strict=True)
        ]

    def items(self, split):
        return self.all

    def verify(self, pairs):
        return open_task("testbed:absent").verify(pairs)


def test_a_bare_answer_places_nobody_and_what_to_bring_is_said():
    entry = diagnose_model("testbed:base", Answers(whole=False), prompts=4, budget=96, max_tokens=8)
    assert {prompt["call"] for prompt in entry["prompts"]} == {"unsupported"}
    assert all("placed" not in prompt for prompt in entry["prompts"])
    assert any("bring a teacher" in note and "whole response" in note for note in entry["notes"])
    whole = diagnose_model("testbed:base", Answers(whole=True), prompts=4, budget=96, max_tokens=8)
    assert {prompt["call"] for prompt in whole["prompts"]} == {"missing"}
