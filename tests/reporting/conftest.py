import shutil

import pytest

from tests.reporting import handed, synthetic


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    return synthetic.whole_run(tmp_path_factory.mktemp("runs") / "planted")


@pytest.fixture(scope="session")
def interrupted_run(tmp_path_factory):
    return synthetic.interrupted_run(tmp_path_factory.mktemp("runs") / "interrupted")


@pytest.fixture(scope="session")
def empty_run(tmp_path_factory):
    return synthetic.empty_run(tmp_path_factory.mktemp("runs") / "empty")


@pytest.fixture(scope="session")
def measured_run(whole_run, tmp_path_factory):
    return handed.measured_run(shutil.copytree(whole_run, tmp_path_factory.mktemp("runs") / "measured"))
