"""Seeds: functions of the root and of every label, the same for ever."""

import numpy as np

from raysys.seeds import derive_seed, generator


def test_seeds_are_pinned_so_that_old_runs_can_be_repeated():
    assert derive_seed(0) == PINNED[()]
    assert derive_seed(0, "files", 3) == PINNED["files", 3]
    assert derive_seed(7, "samples", 0, 1) == PINNED["samples", 0, 1]


def test_every_label_its_type_and_its_place_count():
    seeds = [
        derive_seed(0),
        derive_seed(1),
        derive_seed(0, "a"),
        derive_seed(0, "a", "b"),
        derive_seed(0, "b", "a"),
        derive_seed(0, "ab"),
        derive_seed(0, 1),
        derive_seed(0, "1"),
        derive_seed(0, "a", 1),
        derive_seed(0, "a", 2),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat_and_differ_by_label():
    first = generator(5, "x").integers(0, 2**62, 4)
    assert np.array_equal(first, generator(5, "x").integers(0, 2**62, 4))
    assert not np.array_equal(first, generator(5, "y").integers(0, 2**62, 4))


def test_numbers_of_the_root_do_not_depend_on_their_type():
    assert derive_seed(np.int64(3), "x") == derive_seed(3, "x")


PINNED = {
    (): 2_033_344_993_903_900_207,
    ("files", 3): 8_196_983_103_080_028_715,
    ("samples", 0, 1): 5_144_136_370_293_250_214,
}
