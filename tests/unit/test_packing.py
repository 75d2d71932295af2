"""How many trials a cluster has room for, against counts by hand."""

import pytest

from raysys.distributed.packing import Node
from raysys.distributed.packing import pack as pack_nodes
from raysys.errors import ConfigError
from raysys.run import load_run
from tests.reference.logs import planted_log, run_file


@pytest.fixture
def run(tmp_path):
    planted_log(tmp_path)

    def of(cluster, *overrides):
        return load_run(str(run_file(tmp_path, cluster=cluster)), overrides)

    return of


def pack(run, nodes, most=0):
    """Pack into nodes without labels."""
    return pack_nodes(run, [Node(node) for node in nodes], most)


def test_a_trial_of_one_worker_asks_for_the_worker(run):
    packing = pack(run("workers = 1\nresources_per_worker = { CPU = 2.0 }"), [{"CPU": 5.0}])
    assert (packing.trial, packing.at_once, packing.threads, packing.alone) == ({"CPU": 2.0}, 2, 2, True)
    assert pack(run("workers = 0"), [{"CPU": 3.0}]).at_once == 3


def test_a_trial_of_several_workers_is_a_driver_that_takes_no_cpu(run):
    packing = pack(run("workers = 2"), [{"CPU": 4.0}])
    assert (packing.at_once, packing.alone) == (2, False)
    assert "CPU" not in packing.trial
    assert pack(run("workers = 2"), [{"CPU": 3.0}]).at_once == 1


def test_data_tasks_are_counted_with_the_workers_that_they_feed(run):
    fed = run("workers = 2", "training.source=ray_data")
    assert pack(fed, [{"CPU": 5.0}]).at_once == 1
    assert pack(fed, [{"CPU": 6.0}]).at_once == 2
    with pytest.raises(ConfigError, match="1 CPU for data tasks"):
        pack(fed, [{"CPU": 2.0}])


def test_what_is_left_over_on_two_nodes_makes_no_room(run):
    of_two = run("workers = 1\nresources_per_worker = { CPU = 2.0 }")
    assert pack(of_two, [{"CPU": 3.0}, {"CPU": 3.0}]).at_once == 2  # and not three of six
    assert pack(run("workers = 3", "training.batch_size=60"), [{"CPU": 2.0}, {"CPU": 2.0}]).at_once == 1


def test_gpus_bound_the_trials_that_train_on_them(run):
    on_gpu = run("workers = 1\nuse_gpu = true")
    packing = pack(on_gpu, [{"CPU": 16.0}, {"CPU": 8.0, "GPU": 2.0}])
    assert (packing.trial, packing.at_once) == ({"CPU": 1.0, "GPU": 1.0}, 2)
    with pytest.raises(ConfigError, match=r"needs 1 times 1 CPU, 1 GPU.*the cluster has 16 CPU, 0 GPU"):
        pack(on_gpu, [{"CPU": 16.0}])


def test_the_search_may_ask_for_fewer_at_once(run):
    assert pack(run("workers = 1"), [{"CPU": 8.0}], most=3).at_once == 3
    assert pack(run("workers = 1"), [{"CPU": 2.0}], most=3).at_once == 2


def test_a_cluster_without_room_for_one_trial_is_an_error_and_no_wait(run):
    with pytest.raises(ConfigError, match=r"cluster\.workers: a trial needs 4 times 1 CPU"):
        pack(run("workers = 4"), [{"CPU": 2.0}, {"CPU": 1.0}])


TRAIN, DATA = {"role": "train"}, {"role": "data"}
LABELLED = 'training_labels = { role = "train" }\ndata_labels = { role = "data" }\n'


def test_trials_of_one_worker_have_room_on_nodes_for_training_only(run):
    alone = run(LABELLED + "workers = 1")
    nodes = [Node({"CPU": 8.0}, DATA), Node({"CPU": 2.0}, {**TRAIN, "zone": "a"}), Node({"CPU": 1.0}, TRAIN)]
    packing = pack_nodes(alone, nodes)
    assert (packing.trial, packing.labels, packing.at_once) == ({"CPU": 1.0}, TRAIN, 3)
    assert pack_nodes(run("workers = 1"), nodes).at_once == 11
    assert pack_nodes(run("workers = 1"), nodes).labels == {}
    with pytest.raises(ConfigError, match="has 0 CPU on 0 nodes with role=train;"):
        pack_nodes(alone, nodes[:1])


def test_workers_and_data_tasks_have_room_on_their_own_nodes_and_drivers_go_anywhere(run):
    fed = run(LABELLED + "workers = 2", "training.source=ray_data")
    nodes = [Node({"CPU": 1.0}, DATA), Node({"CPU": 8.0}, TRAIN)]
    packing = pack_nodes(fed, nodes)
    assert (packing.at_once, packing.labels) == (1, {})
    with pytest.raises(ConfigError, match="1 CPU for data tasks"):
        pack_nodes(fed, nodes[1:])


def test_nodes_that_are_for_training_alone_have_gpus_and_no_cpus(run):
    nodes = [Node({"CPU": 8.0}, DATA), Node({"GPU": 2.0}, TRAIN)]
    packing = pack_nodes(run(LABELLED + "workers = 1\nuse_gpu = true"), nodes)
    assert (packing.trial["GPU"], packing.trial["CPU"], packing.at_once) == (1.0, 0.0, 2)
    assert pack_nodes(run(LABELLED + "workers = 2\nuse_gpu = true"), nodes).at_once == 1
