"""One thread and fixed seeds: numeric tests compare to rounding, not to scheduling."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(autouse=True)
def one_thread_fixed_seed():
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


SLOW = ("tests/faults/", "tests/fuzz/", "tests/catalogue/test_numbers.py", "tests/cli/test_contracts.py")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
