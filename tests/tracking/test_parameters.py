"""The parameters of a run are what can set it apart."""

from mtrec.tracking.parameters import parameters


def test_parts_are_told_by_their_class_under_their_own_name():
    config = {
        "balance": {"_target_": "mtrec.Famo", "gamma": 0.1},
        "optimizer": {"dense": {"_target_": "keras.optimizers.Adam"}},
    }
    assert parameters(config) == {
        "balance": "Famo",
        "balance.gamma": "0.1",
        "optimizer.dense": "keras.optimizers.Adam",
    }


def test_what_repeats_another_parameter_is_left_out_unless_it_differs():
    pooling = {"_target_": "mtrec.Mean"}
    history = {"_target_": "mtrec.History", "pooling": pooling}
    config = {
        "seed": 3,
        "index": {"seed": 3},
        "model": {"pooling": pooling},
        "task": {"select_by": "val/a/rmse"},
        "train": {"select_by": "val/b/rmse", "resume": "auto"},
        "tracking": {"uri": "sqlite:///x.db", "experiment": "x"},
        "data": {"features": {"query": {"shared": {"history": history}}}},
    }
    assert parameters(config) == {
        "seed": "3",
        "model.pooling": "Mean",
        "train.select_by": "val/b/rmse",
        "data.features.query.shared.history": "History",
    }
    config["index"]["seed"] = 4
    assert parameters(config)["index.seed"] == "4"
