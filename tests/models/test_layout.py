"""The flat form of a batch: which rows exist, what they predict."""

import pytest
import torch

from offon.models.packed.layout import Layout


def test_the_example_of_the_docstring():
    layout = Layout.of([([1, 4], [5, 6, 2]), ([1, 4], [5, 2])])
    assert layout.ids.tolist() == [1, 4, 5, 6, 5]
    assert layout.positions.tolist() == [0, 1, 2, 3, 2]
    assert layout.segments.tolist() == [[0, 2, -1], [2, 2, 0], [4, 1, 0]]
    assert layout.rows.tolist() == [1, 2, 3, 1, 4]
    assert layout.targets.tolist() == [5, 6, 2, 5, 2]
    assert layout.sequence.tolist() == [0, 0, 0, 1, 1]
    assert layout.lengths == [3, 2]


def test_a_lone_sequence_is_one_segment():
    layout = Layout.of([([1, 4], [5, 6, 2])])
    assert layout.segments.tolist() == [[0, 4, -1]]
    assert layout.rows.tolist() == [1, 2, 3]


@pytest.mark.parametrize("share", [True, False])
def test_every_target_is_predicted_from_exactly_its_own_past(share):
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 50, (n,), generator=generator).tolist() for n in (5, 1, 9)]
    sequences = [
        (
            prompts[int(torch.randint(0, 3, (), generator=generator))],
            torch.randint(0, 50, (n,), generator=generator).tolist(),
        )
        for n in (3, 1, 0, 7, 2, 1, 4, 0, 6)
    ]
    layout = Layout.of(sequences, share=share)
    histories = layout.plan.rows_up_to(layout.leaf, layout.plan.longest)
    flat = [(i, t) for i, (_, response) in enumerate(sequences) for t in range(len(response))]
    assert layout.lengths == [len(response) for _, response in sequences]
    for m, (i, t) in enumerate(flat):
        prefix, response = sequences[i]
        past = [*prefix, *response[:t]]
        assert layout.targets[m] == response[t] and layout.sequence[m] == i
        assert layout.positions[layout.rows[m]] == len(past) - 1
        assert layout.ids[histories[i][: len(past)]].tolist() == past
        assert histories[i][len(past) - 1] == layout.rows[m]


def test_sharing_computes_each_prompt_once():
    sequences = [([1, 2, 3, 4], [5, 6])] * 8
    assert Layout.of(sequences).n_rows == 4 + 8 * 1
    assert Layout.of(sequences, share=False).n_rows == 8 * 5


def test_an_empty_prefix_is_refused_with_its_index():
    with pytest.raises(ValueError, match=r"sequences \[1\] of 2 have an empty prefix"):
        Layout.of([([1], [2]), ([], [3])])


def test_arrays_tuples_and_lists_are_alike():
    import numpy as np

    one = Layout.of([((1, 2), np.array([3, 4], dtype=np.int32)), (np.array([1, 2]), [5])])
    two = Layout.of([([1, 2], [3, 4]), ([1, 2], [5])])
    assert torch.equal(one.ids, two.ids) and torch.equal(one.rows, two.rows)
