"""The families of the survey (arXiv:2604.07941), as its Table 6 has them: what each is usually good for, and what a
next stage inherits from it. Usual tendencies, never claims: what a stage did is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    name: str
    title: str
    provenance: str
    strength: str
    handoff_risk: str

    @property
    def page(self) -> str:
        """The name of its page of the documentation."""
        return self.name.replace(" ", "-") + ".md"


FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="sft",
            title="Supervised fine-tuning and its model-aware forms",
            provenance="off-policy",
            strength="puts behaviour the model does not reach within its reach, at the cost of forward passes",
            handoff_risk="narrows what a later RL stage explores; overwrites skills the data does not show",
        ),
        Family(
            name="offline preference",
            title="Preference optimisation on given pairs",
            provenance="off-policy",
            strength="re-ranks answers the model can already give, from comparisons alone, without sampling",
            handoff_risk="both likelihoods can fall; pairs far from the learner teach about states it never visits",
        ),
        Family(
            name="filtering and replay",
            title="Filtering, selection and replay of sampled or given data",
            provenance="off-policy",
            strength="turns a checker into token targets; simple, stable, and its data can be inspected",
            handoff_risk="easy prompts dominate and diversity shrinks with every round; nothing wrong is pushed down",
        ),
        Family(
            name="off-policy distillation",
            title="Learning from a teacher on given prefixes",
            provenance="off-policy",
            strength="moves a teacher's answers, or its whole next-token distribution, into the learner",
            handoff_risk="the learner is never corrected on prefixes of its own; copied traces need not be portable",
        ),
        Family(
            name="rl",
            title="Reinforcement learning on rewards of whole responses",
            provenance="on-policy",
            strength="makes frequent what is reached but rare, on the learner's own states, from a checker alone",
            handoff_risk="needs a success among the samples; mass concentrates, so that pass@k at large k can fall",
        ),
        Family(
            name="reward source",
            title="Where rewards come from: reward models, verifiers, judges, combinations",
            provenance="any",
            strength="extends supervision to tasks without an exact checker",
            handoff_risk="the policy learns the evaluator's mistakes; another evaluator later undoes the gain",
        ),
        Family(
            name="online preference",
            title="Preference optimisation on fresh samples",
            provenance="on-policy",
            strength="comparisons on the learner's own states, without fitting a reward model's scale",
            handoff_risk="inherits the judge's bias; exploration is only as wide as the sampler",
        ),
        Family(
            name="process supervision",
            title="Rewards for steps, and where they come from",
            provenance="on-policy",
            strength="says which step of a failed attempt was wrong: credit where outcome rewards are silent",
            handoff_risk="step rewards are exploited; a step model is valid only near the policy that made its labels",
        ),
        Family(
            name="refinement",
            title="Critique, revision and self-correction",
            provenance="on-policy",
            strength="makes a second attempt better than the first, and can move the gain into the first",
            handoff_risk="gains that need the extra turns at deployment; collapse to not changing the answer",
        ),
        Family(
            name="on-policy distillation",
            title="A teacher on the learner's own rollouts",
            provenance="on-policy",
            strength="dense targets at the states the learner visits: little is forgotten, transfer is cheap",
            handoff_risk="says little on prefixes the teacher would never write; capped by the teacher",
        ),
        Family(
            name="guided",
            title="Guidance that fades: hints, prefixes, templates, rubrics",
            provenance="on-policy",
            strength="reaches successes that plain sampling does not, so that RL has something to reinforce",
            handoff_risk="success under guidance that does not survive its removal",
        ),
        Family(
            name="mixed",
            title="Demonstrations and rollouts in one stage",
            provenance="mixed",
            strength="demonstrations where the learner fails, reinforcement where it sometimes succeeds",
            handoff_risk="the two gradients interfere; the balance decides what is kept",
        ),
        Family(
            name="consolidation",
            title="Keeping earlier behaviour: replay, anchors, merging",
            provenance="any",
            strength="what earlier stages gained survives later ones",
            handoff_risk="an anchor holds back new behaviour as well; merges can lose both parents' skills",
        ),
        Family(
            name="own",
            title="Methods of your own",
            provenance="any",
            strength="",
            handoff_risk="",
        ),
    )
}
