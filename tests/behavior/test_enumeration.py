"""Many prompts at once are each prompt by itself, in bounded memory; what is followed is never cut."""

import numpy as np
import pytest

from offon.behavior.change.enumeration import enumerate_support, most_evaluations
from tests.behavior.tabular import STOP, Table, Tables
from tests.rounding import FLOAT64, FLOAT64_SUM

BEFORE = [Table(seed, 4, 5) for seed in range(12)]
AFTER = [Table(seed + 100, 4, 5) for seed in range(12)]


def union(policies, eps=0.02, **options):
    return enumerate_support(policies, eps=eps, stop={STOP}, horizon=5, **options)


def edges(found):
    tree = found.tree
    return {tree.path(edge): (*tree.reach[edge], bool(tree.ends[edge])) for edge in range(len(tree))}


@pytest.mark.parametrize("limits", [{}, {"rows": 40}, {"rows": 1}, {"logits": 1}, {"rows": 30, "logits": 60}])
def test_prompts_expanded_together_are_each_prompt_by_itself(limits):
    together = union([Tables(BEFORE), Tables(AFTER)], **limits)
    for before, after, found in zip(BEFORE, AFTER, together, strict=True):
        [alone] = union([before, after])
        assert edges(found) == edges(alone)
        assert found.residual == pytest.approx(alone.residual, abs=FLOAT64)


def test_a_level_has_no_more_rows_than_allowed():
    policies = [Tables(BEFORE), Tables(AFTER)]
    union(policies)
    widest = policies[0].widest
    alone = max(sum(1 for path, (*_, ends) in edges(found).items() if len(path) == depth and not ends)
                for found in union(policies) for depth in range(1, 5))  # fmt: skip
    for rows in (alone, 2 * alone):
        policies = [Tables(BEFORE), Tables(AFTER)]
        union(policies, rows=rows)
        assert policies[0].widest <= rows < widest


def test_the_cost_is_counted_and_bounded():
    """Horizon 3, vocabulary 4, eps 0.3, two policies: at most 1, 4 and 2 / 0.3 = 6.67 rows, each under both."""
    assert most_evaluations(0.3, 3, 4, policies=2) == int(2 * (1 + 4 + 2 / 0.3))
    assert most_evaluations(0.0, 3, 4) == 1 + 4 + 16
    for eps in (0.3, 0.05, 0.01):
        for found in union([Tables(BEFORE), Tables(AFTER)], eps=eps):
            inner = sum(not ends and len(path) < 5 for path, (*_, ends) in edges(found).items())
            assert found.evaluations == 2 * (1 + inner) <= most_evaluations(eps, 5, 4, policies=2)


def test_a_followed_response_is_exact_however_rare():
    rarest = [min(table.responses(), key=table.probability) for table in BEFORE]
    trees = union([Tables(BEFORE)], 0.5, follow=[[y] for y in rarest])
    for table, response, found in zip(BEFORE, rarest, trees, strict=True):
        kept = edges(found)
        assert kept[response][0] == pytest.approx(table.probability(response))
        assert {path for path, (reach, _) in kept.items() if reach < 0.5} <= {response[:t] for t in range(1, 6)}
        assert found.residual[0] + sum(reach for reach, ends in kept.values() if ends) == pytest.approx(
            1, abs=FLOAT64_SUM
        )


def test_policies_with_padded_vocabularies_share_the_tokens_both_have():
    plain = Table(3, 4, 5)

    class Wider:
        vocabulary = 5

        def __init__(self, table):
            self.table, self.root, self.extend = table, table.root, table.extend

        def __len__(self):
            return 1

        def log_p(self, rows):
            known = self.table.log_p(rows)
            return np.concatenate([known, np.full((len(known), 1), -40.0)], axis=1)

    [found] = union([plain, Wider(Table(3, 4, 5))])
    assert edges(found).keys() == edges(union([plain])[0]).keys()
    assert np.allclose(found.tree.reach[:, 0], found.tree.reach[:, 1])
