"""A short form of the matrix of exact resume (`make resume` is all of it): what keeps most state, each killed twice."""

from __future__ import annotations

import pytest

from offon.catalogue import registry
from tests.resume.matrix import OUTSIDE, PIPELINES, cases, files, tried

pytestmark = [pytest.mark.slow, pytest.mark.fault("F31", "F34")]
SHORT = ["ppo", "best_of_n", "lora, replay, anchor", "probe, gate, two stages"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return files(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def recipes(folder):
    return cases(folder)


@pytest.mark.parametrize("name", SHORT)
def test_killed_twice_it_ends_with_the_same_bytes(name, recipes, folder, tmp_path):
    result = tried(name, recipes[name], folder, tmp_path, kills=2, seed=1)
    assert result.touched > 0 and result.differing == ()


def test_every_row_is_in_the_matrix(recipes):
    assert {info.name for info in registry.catalogue()} | PIPELINES.keys() == recipes.keys() | OUTSIDE.keys()
