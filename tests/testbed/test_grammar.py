"""What is planted: operations, routes, programs, documents."""

import dataclasses
import itertools

import numpy as np
import pytest

from offon.testbed.grammar import (
    FAMILIES,
    KNOWN_OPS,
    OPERATIONS,
    ROUTES,
    STATES,
    UNSEEN_OPS,
    VOCABULARY,
    Program,
    programs,
    prompt_words,
    response_words,
)
from offon.testbed.train import PLANS, TOKEN, Documents, document_kinds


def words(ids):
    return [VOCABULARY[token] for token in ids]


def test_operations_are_permutations_and_every_step_belongs_to_one_operation():
    for table in OPERATIONS.values():
        assert sorted(table.values(), key=int) == list(STATES)
    steps = [(state, table[state]) for table in OPERATIONS.values() for state in STATES]
    assert len(set(steps)) == len(OPERATIONS) * len(STATES)


def test_a_route_is_the_order_in_which_operations_apply():
    C, A, K = (OPERATIONS[op] for op in "CAK")
    program = Program("5", ("C", "A", "K"))
    assert program.trace("forward") == (C["5"], A[C["5"]], K[A[C["5"]]])
    assert program.trace("backward") == (K["5"], A[K["5"]], C[A[K["5"]]])
    assert program.trace("rotate") == (A["5"], K[A["5"]], C[K[A["5"]]])


def test_programs_on_which_a_decoy_is_right_are_rejected():
    assert Program("5", ("C", "A", "C")).ambiguous  # backward applies the same operations
    for ops in (KNOWN_OPS, UNSEEN_OPS):
        every = {(start, *chosen) for start in STATES for chosen in itertools.product(ops, repeat=3)}
        kept = {(program.start, *program.ops) for program in programs(ops)}
        for start, *chosen in every:
            program = Program(start, tuple(chosen))
            decoys = {program.trace(route) for route in ROUTES if route != "forward"}
            assert ((start, *chosen) in kept) == (program.trace() not in decoys)


@pytest.fixture(scope="module")
def batches():
    documents = Documents(PLANS["base"])
    return [tuple(part.numpy() for part in documents.batch()) for _ in range(20)]


def test_family_shares_sum_to_one():
    assert sum(family.share for family in FAMILIES.values()) == pytest.approx(1)
    assert sum(kind.share for kind in document_kinds()) == pytest.approx(1)


def test_unseen_operations_and_held_out_programs_occur_in_no_document(batches):
    held_out = {(p.start, *p.ops) for p in programs(KNOWN_OPS) if p.heldout}
    for ids_BT, _ in batches:
        for row in ids_BT:
            document = words(row)
            assert not set(document) & set(UNSEEN_OPS)
            start = document.index("=") - 4
            assert tuple(document[start : start + 4]) not in held_out


def test_every_batch_has_the_planted_shares_to_one_document_per_kind(batches):
    for ids_BT, _ in batches:
        rare = [words(row) for row in ids_BT if words(row)[0] == "rare"]
        forward = sum("forward" in document for document in rare)
        assert abs(len(rare) - 0.25 * 256) <= 3 and abs(forward - 0.15 * 0.25 * 256) <= 1
        hinted = [words(row) for row in ids_BT if words(row)[0] == "hint"]
        assert all(document[1] == "scaffold" and document[7] == "forward" for document in hinted)
        unhinted = [words(row) for row in ids_BT if words(row)[0] == "scaffold"]
        assert abs(len(hinted) - 0.1 * 256) <= 1 and not any("forward" in document for document in unhinted)


def test_documents_follow_their_route_and_only_responses_are_supervised(batches):
    ids_BT, labels_BT = batches[0]
    for row, labels in zip(ids_BT, labels_BT, strict=True):
        document = words(row)
        equals = document.index("=")
        route, *trace = document[equals + 1 : equals + 5]
        program = Program(document[equals - 4], tuple(document[equals - 3 : equals]))
        assert tuple(trace) == program.trace(route)
        assert document[equals + 6] == "<eos>"
        supervised = np.flatnonzero(labels >= 0)
        assert supervised.tolist() == list(range(equals + 1, equals + 7))
        assert (labels[supervised] == row[supervised]).all()


def test_a_slip_goes_to_a_random_state_and_on_from_there():
    plan = dataclasses.replace(PLANS["student"], documents=4096)
    ids_BT, _ = (part.numpy() for part in Documents(plan).batch())
    right = np.zeros(3)
    for document in map(words, ids_BT):
        equals = document.index("=")
        route, *trace = document[equals + 1 : equals + 5]
        state = document[equals - 4]
        for step, position in enumerate(ROUTES[route]):
            right[step] += OPERATIONS[document[equals - 3 + position]][state] == trace[step]
            state = trace[step]
    # 0.2 of the steps slip, 1/16 of the slips land right: 0.8125; binomial sd 0.006, bound at 4 sd
    assert right / 4096 == pytest.approx(0.8125, abs=0.025)


def test_a_prompt_and_its_response_read_as_in_the_documentation():
    program = Program("5", ("C", "A", "K"))
    assert " ".join(prompt_words("rare", program)) == "rare 5 C A K ="
    assert " ".join(prompt_words("scaffold", program, hint=True)) == "hint scaffold 5 C A K ="
    assert response_words(program)[0] == "forward" and response_words(program)[-1] == "#"
    assert len(set(VOCABULARY)) == len(VOCABULARY) == len(TOKEN)
