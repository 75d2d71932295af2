"""Where work goes, without a cluster: shares of CPUs that fit the nodes."""

from hypothesis import given
from hypothesis import strategies as st

from raysys.distributed.cluster import share_of_cpus


def fits(nodes, workers, share):
    return sum(cpus // share for cpus in nodes) >= workers


@given(st.lists(st.integers(0, 16), max_size=5), st.integers(1, 8))
def test_workers_take_the_most_cpus_that_all_of_them_can_have(nodes, workers):
    share = share_of_cpus(nodes, workers)
    assert share >= 1
    assert share == 1 or fits(nodes, workers, share)
    assert not any(fits(nodes, workers, more) for more in range(share + 1, 17))


def test_two_workers_on_three_nodes_of_two_cpus_do_not_ask_for_three():
    assert share_of_cpus([2, 2, 2], 2) == 2
    assert share_of_cpus([4], 2) == 2
    assert share_of_cpus([16, 2], 3) == 5
    assert share_of_cpus([], 2) == 1
