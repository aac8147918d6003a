"""The diagnosis in words and as an entry of diagnosis.json."""

import json

import pytest

from offon.behavior.diagnosis.bottleneck import CALLS, Measured
from offon.behavior.diagnosis.controls import Controls
from offon.behavior.diagnosis.diagnose import diagnose, measured_outcomes, sentence
from offon.behavior.diagnosis.remedies import KINDS, REMEDIES
from offon.behavior.diagnosis.subtypes import LOST, Kind
from offon.behavior.statistics.checker_errors import Checker
from offon.behavior.statistics.counts import Counts
from offon.catalogue import registry
from offon.errors import DataError


def outcomes(successes, n):
    return [[1.0] * c + [0.0] * (n - c) for c in successes]


def prompts(n):
    return [{"id": f"p{i}", "family": "ab"[i % 2], "prompt": f"question {i}"} for i in range(n)]


def test_the_sentence():
    calls = ["solved"] * 61 + ["ranking"] * 84 + ["missing"] * 40 + ["undecided"] * 15
    assert sentence(calls, 64) == (
        "of 200 prompts: 61 solved, 84 reachable at 64 rollouts, 40 missing the skill, 15 undecided; "
        "40 need demonstrations or hints"
    )
    assert sentence(["format", "unsupported"], 8) == (
        "of 2 prompts: 1 right but in the wrong format, 1 not reached at 8 rollouts; "
        "1 needs the format taught or the checker fixed; 1 needs demonstrations or hints"
    )
    assert sentence(["solved"], 8) == "of 1 prompt: 1 solved"
    assert sentence(["fragile", "fragile"], 8, [Kind("scaffold"), Kind(LOST, "sft")]) == (
        "of 2 prompts: 1 right only with help, 1 lost since sft; 1 needs what they "
        "do with help made their own; 1 needs what was lost replayed or distilled back"
    )


def test_every_call_has_a_remedy_of_methods_that_exist():
    known = {info.name for info in registry.catalogue()}
    remedies = [*(REMEDIES[call] for call in CALLS), *KINDS.values()]
    for remedy in remedies:
        for words in remedy.methods:
            assert set(words.split(" with ")) <= known, words
    assert all(remedy.signature and (remedy.avoid or remedy.without_start) for remedy in remedies if remedy.methods)


def test_the_entry_of_diagnosis_json():
    measured = measured_outcomes(outcomes([64, 0, 20, 0], 64), outcomes([64, 60, 22, 0], 64))
    entry = json.loads(json.dumps(diagnose(measured, prompts(4), k=64, model="base", task="chain")))
    assert [prompt["call"] for prompt in entry["prompts"]] == ["solved", "format", "ranking", "unsupported"]
    assert entry["prompts"][1]["strict"] == [0, 64] and entry["prompts"][1]["content"] == [60, 64]
    by_family = {row["family"]: row for row in entry["summary"]}
    assert (by_family["a"]["n"], by_family["a"]["solved"], by_family["a"]["ranking"]) == (2, 1, 1)
    assert (by_family["b"]["format"], by_family["b"]["unsupported"]) == (1, 1)
    assert sum(share["estimate"] for share in entry["prevalence"].values()) == pytest.approx(1)
    methods = {suggestion["call"]: suggestion["methods"] for suggestion in entry["suggestions"]}
    assert "grpo" in methods["ranking"] and "grpo" not in methods["unsupported"]
    assert entry["sentence"].startswith("of 4 prompts: 1 solved")


def test_what_could_not_be_shown_is_said():
    measured = measured_outcomes(outcomes([0, 8], 16) + [[None] * 16], None)
    entry = diagnose(measured, prompts(3), k=64)
    notes = " ".join(entry["notes"])
    assert "16 samples per prompt cannot show that a prompt is not reached at 64 rollouts: that takes 51" in notes
    assert "wrong format cannot be told" in notes
    assert "1 prompt without any scored sample" in notes
    assert [prompt["call"] for prompt in entry["prompts"]] == ["undecided", "ranking", "undecided"]
    assert all(prompt["content"] is None for prompt in entry["prompts"])
    below = diagnose(measured_outcomes(outcomes([0], 64), None), prompts(1), k=64)
    assert any(
        "without a right response to place the model on local, unreachable and missing are not told" in note
        for note in below["notes"]
    )


def test_a_gap_in_content_verdicts_does_not_bias_the_strict_rate():
    """Content known only where strict succeeded: dropping the other samples would call this prompt solved."""
    measured = measured_outcomes([[1.0] * 10 + [0.0] * 54], [[1.0] * 10 + [None] * 54])
    entry = diagnose(measured, prompts(1), k=64)["prompts"][0]
    assert entry["call"] == "ranking" and entry["strict"] == [10, 64] and entry["content"] is None


def test_strict_success_with_content_failure_is_refused():
    with pytest.raises(DataError, match="strict success and content failure"):
        measured_outcomes([[1.0, 0.0]], [[0.0, 1.0]])


def one(k=64, **measured):
    """The entry of three like prompts: the placed, finished, scaffold ... counts as given, 0 of 128 plain otherwise."""
    options = {
        name: measured.pop(name) for name in ("controls", "checker", "proper", "known", "previous") if name in measured
    }
    rates = {name: Counts.of([c] * 3, n) for name, (c, n) in {"strict": (0, 128), **measured}.items()}
    previous = {name: Counts.of([c] * 3, n) for name, (c, n) in options.pop("previous", {}).items()}
    return diagnose(Measured(**rates, previous=previous), prompts(3), k=k, **options)


def test_kinds_of_calls():
    """Each from rates far from the limits (.5 for placed and finished, .6 for another condition)."""

    def kind(**measured):
        prompt = one(**measured)["prompts"][0]
        return prompt["call"], prompt["sub"], prompt["since"]

    placed = {"placed": (30, 32), "placebo": (0, 32)}
    assert kind(scaffold=(16, 16)) == ("fragile", "scaffold", None)
    assert kind(scaffold=(0, 16), previous={"sft": (15, 16), "base": (2, 16)}) == ("fragile", "lost", "sft")
    assert kind(placed=(0, 32), finished=(31, 32), placebo=(0, 32)) == ("missing", "live", None)
    assert kind(placed=(0, 32), finished=(0, 32), placebo=(0, 32)) == ("missing", None, None)
    assert kind(strict=(40, 128), finished=(31, 32), **placed) == ("ranking", "steps", None)
    assert kind(strict=(40, 128), finished=(1, 32), **placed) == ("ranking", "route", None)
    assert kind(strict=(40, 128)) == ("ranking", None, None)
    form = {"strict": (0, 128), "content": (120, 128)}
    assert kind(**form) == ("format", None, None)
    assert kind(**form, proper=Counts.of([9] * 3, 9)) == ("format", "checker rejects", None)
    assert kind(**form, proper=Counts.of([0] * 3, 9)) == ("format", "model's format", None)
    assert kind(**form, proper=Counts.of([4] * 3, 9)) == ("format", None, None)


def test_what_was_lost_has_other_remedies_than_what_needs_a_scaffold():
    lost, scaffold = (
        one(**{name: value})["suggestions"][0]
        for name, value in (("previous", {"sft": (16, 16)}), ("scaffold", (16, 16)))
    )
    assert {"replay", "kl_anchor"} <= set(lost["methods"]) and "sft could" in lost["reason"]
    assert not {"replay", "kl_anchor"} & set(scaffold["methods"])


def test_failed_controls_take_calls_away():
    """A prefix of any prompt that helps in 9 of 30 (plain: 0 of 384) says nothing about where it places the model; a
    teacher that succeeds in 20 of 20 after wrong responses to other prompts says nothing of what the model begins. The
    skill that even a placement does not bring stays missing."""
    placed = {"placed": (30, 32), "finished": (30, 32), "placebo": (0, 32)}
    shuffled = {"plain": Counts.of([0], 384)}
    good = Controls(shuffled=Counts.of([0], 30), **shuffled, placebo=Counts.of([0], 20), finished=Counts.of([19], 20))
    helped = Controls(shuffled=Counts.of([9], 30), **shuffled)
    restarts = Controls(placebo=Counts.of([20], 20), finished=Counts.of([20], 20))
    entry = one(**placed, controls=good)
    assert entry["prompts"][0]["call"] == "local" and not any(c.get("failed") for c in entry["controls"].values())
    assert entry["controls"]["shuffled"]["excess"]["high"] == pytest.approx(0.1135, abs=1e-3)  # Wilson's of 0 of 30
    for controls, word in ((helped, "any prefix helps"), (restarts, "the teacher starts over")):
        entry = one(**placed, controls=controls)
        assert entry["prompts"][0]["call"] == "unsupported"
        assert any(word in note for note in entry["notes"])
        assert one(placed=(0, 32), controls=controls)["prompts"][0]["call"] == "missing"


def test_a_checker_that_cannot_tell_leaves_only_format():
    """J = .6 - .5: its interval reaches below .2."""
    blind = Checker(accepted_right=60, right=100, accepted_wrong=50, wrong=100)
    entry = one(strict=(70, 128), content=(70, 128), checker=blind)
    assert entry["prompts"][0]["call"] == "undecided" and not entry["suggestions"]
    assert entry["sentence"].startswith("mend the checker first: it accepts 60% [50%, 69%] of right answers and 50%")
    assert one(strict=(0, 128), content=(120, 128), checker=blind)["prompts"][0]["call"] == "format"
    assert "verdicts are taken as they are" in " ".join(one()["notes"]) and one()["verifier"] is None


def test_tries_until_solved_from_counts_and_known_successes():
    """0 of 128: at most 1 - .025^(1/128) = .0284, 35.2 tries or more. A known success of probability .001 makes it
    1,000 at most; without one there is no bound above."""
    assert one()["prompts"][0]["k_to_solve"] == [pytest.approx(35.2, abs=0.1), None]
    tries = one(known=[{(1, 2): -6.907755}] * 3)["prompts"][0]["k_to_solve"]
    assert tries == [pytest.approx(35.2, abs=0.1), pytest.approx(1000, rel=1e-4)]


def test_without_teacher_and_references_what_cannot_be_told_apart_is_said():
    entry = one()
    assert {(prompt["call"], prompt["next"]) for prompt in entry["prompts"]} == {("unsupported", "placed")}
    assert any(
        "without a right response to place the model on local, unreachable and missing are not told" in note
        for note in entry["notes"]
    )


def test_what_the_checker_accepts_of_anything_withholds_rare_successes():
    """At k = 64 within reach begins at .0457. 50 of 1,000 responses to other prompts are accepted: 14 of 128
    successes may be errors for the most part, 90 of 128 are not. 1 of 1,000 leaves both."""
    often, seldom = (Controls(others=Counts.of([c], 1000)) for c in (50, 1))
    rare, many = ((c, 128) for c in (14, 90))
    assert one(strict=rare, controls=seldom)["prompts"][0]["call"] == "ranking"
    entry = one(strict=rare, controls=often)
    assert entry["prompts"][0]["call"] == "undecided" and entry["controls"]["others"]["failed"]
    assert entry["sentence"].startswith(
        "mend the checker, or label outputs (--labels): it accepts 5.0% [3.8%, 6.5%] of responses to other prompts, "
        "too close to the 4.6% from which success counts as within reach of 64 rollouts; 3 calls that would rest on "
        "rare successes are withheld; of 3 prompts: 3 undecided"
    )
    assert "RL" not in entry["sentence"]
    assert one(strict=many, controls=often)["prompts"][0]["call"] == "ranking"
    assert one(strict=(0, 128), placed=(0, 32), controls=often)["prompts"][0]["call"] == "missing"


def test_lenient_content_is_no_format_where_anything_has_it():
    """Content right in 40 of 128, and in 300 of 1,000 responses to other prompts: chance."""
    form = {"strict": (0, 128), "content": (50, 128)}
    chance = Controls(others=Counts.of([40], 1000), others_content=Counts.of([300], 1000))
    assert one(**form)["prompts"][0]["call"] == "format"
    assert one(**form, controls=chance)["prompts"][0]["call"] == "undecided"


def test_what_is_cut_off_is_said_first():
    strict, cut = outcomes([0, 0, 60], 64), [[1.0] * 64, [1.0] * 60 + [0.0] * 4, [0.0] * 64]
    entry = diagnose(measured_outcomes(strict, None, cut=cut), prompts(3), k=32)
    assert [prompt["call"] for prompt in entry["prompts"]] == ["truncated", "truncated", "solved"]
    assert entry["prompts"][1]["cut"] == [60, 64] and entry["truncated"]["estimate"] == pytest.approx(124 / 132)
    assert (
        entry["sentence"].startswith("94% of all failures [")
        and "were cut off before the response ended; of 3" in (entry["sentence"])
    )
    assert "2 need a higher limit, or to learn to end" in entry["sentence"]
    few = diagnose(
        measured_outcomes(outcomes([0] * 20, 64), None, cut=[[1.0] * 64] + [[0.0] * 64] * 19), prompts(20), k=32
    )
    assert few["prompts"][0]["call"] == "truncated" and few["sentence"].startswith("of 20 prompts: 1 cut off")
