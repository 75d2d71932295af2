"""Runs that the doctor examines; each is made once."""

import pytest

from tests.integration.doctor.runs import SDM, copied, finish


@pytest.fixture(scope="session")
def mind(tmp_path_factory, ray_cluster):
    return finish(tmp_path_factory.mktemp("doctor_mind"))


@pytest.fixture(scope="session")
def sdm(tmp_path_factory, ray_cluster):
    return finish(tmp_path_factory.mktemp("doctor_sdm"), model=SDM, session="last_n = 3")


@pytest.fixture(scope="session")
def item_cf(tmp_path_factory, ray_cluster):
    return finish(tmp_path_factory.mktemp("doctor_item_cf"), model='name = "item_cf"\nhistory_length = 6')


@pytest.fixture
def broken(mind, tmp_path):
    """A copy of the run, to plant a fault in."""
    return copied(mind, tmp_path)
