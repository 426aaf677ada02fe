"""Columns reach the workers of a node in one copy."""

import numpy as np
from small_config import config_of

from mtrec.data.columns import Texts
from mtrec.jobs.cluster import driver


def test_workers_of_a_node_read_one_copy_of_columns_that_are_mapped_from_files(tmp_path):
    column, texts = np.arange(200_000), Texts.of(["a", "bc"] * 100_000)
    for name, values in (("column", column), ("offsets", texts.offsets), ("data", texts.data)):
        np.save(tmp_path / f"{name}.npy", values)
    column, offsets, data = (
        np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("column", "offsets", "data")
    )
    with driver._connected(config_of("cluster=ray_local").cluster):
        kept = driver.ray.put({"column": column, "texts": Texts(offsets, data)})
        one, other = driver.ray.get(kept), driver.ray.get(kept)
        assert np.shares_memory(one["column"], other["column"])
        assert np.shares_memory(one["texts"].data, other["texts"].data)
        np.testing.assert_array_equal(one["column"], column)
        assert one["texts"][:3].tolist() == ["a", "bc", "a"]
