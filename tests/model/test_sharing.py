"""Every scheme computes what its paper says, and no head moves what belongs to another."""

import numpy as np
import pytest
import tensorflow as tf
from small_batch import asked
from small_data import planted
from small_model import SCHEMES, implicit_squared, rating, recommender, softmax

from mtrec.distributed.tables import TABLE
from mtrec.errors import UserError
from mtrec.model.features import Bucketized, Categorical, Hashed, History, Numeric
from mtrec.model.pooling import Mean
from mtrec.model.recommender import Recommender
from mtrec.model.sharing import PLE, STEM, MMoE, SharedBottom
from mtrec.model.timestamp import Timestamp
from mtrec.model.tower import Tower
from mtrec.training.evaluate import Evaluator

HEADS = ("click", "rating")
GATED = ("mmoe", "ple", "stem")
EXPERT = {"layers": [6, 4], "activation": "relu", "initializer": "glorot_uniform"}


def created(sharing, *, heads=HEADS, dim=5, seed=1):
    sharing.create(table="query", heads=heads, dim=dim, seed=seed)
    return sharing


def sums(*names, rows=7, dim=5):
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=(rows, dim)).astype(np.float32) for name in names}


def weights_of(sharing):
    """Weights by their path; kernels start random, biases at 0 and are moved here."""
    rng = np.random.default_rng(4)
    for weight in sharing.weights:
        if weight.name == "bias":
            weight.assign(rng.normal(size=weight.shape))
    return {weight.path: weight.numpy() for weight in sharing.weights}


def expert(weights, name, x):
    hidden = x @ weights[f"query_{name}_layer_0/kernel"] + weights[f"query_{name}_layer_0/bias"]
    hidden = np.maximum(hidden, 0)
    return hidden @ weights[f"query_{name}_layer_1/kernel"] + weights[f"query_{name}_layer_1/bias"]


def softmax_rows(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def weighted(gate, experts):
    """`sum_k g_k f_k`, row by row."""
    rows = []
    for row in range(len(gate)):
        rows.append(sum(gate[row, k] * f[row] for k, f in enumerate(experts)))
    return np.stack(rows)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for head, values in expected.items():
        np.testing.assert_allclose(found[head], values, rtol=1e-5, atol=1e-6)


def test_a_shared_bottom_gives_every_head_the_same():
    sharing = created(SharedBottom(**EXPERT))
    given, weights = sums("shared"), weights_of(sharing)
    found, gates = sharing(given)

    bottom = expert({f"query_x_{k[6:]}": v for k, v in weights.items()}, "x", given["shared"])
    assert_equal(found, {"click": bottom, "rating": bottom})
    assert gates == {}


def test_mmoe_follows_its_equations():
    sharing = created(MMoE(experts=3, **EXPERT))
    given, weights = sums("shared"), weights_of(sharing)
    found, gates = sharing(given)

    x = given["shared"]
    experts = [expert(weights, f"shared_{k}", x) for k in range(3)]
    gate = {head: softmax_rows(x @ weights[f"query_gate_{head}/kernel"]) for head in HEADS}
    assert_equal(found, {head: weighted(gate[head], experts) for head in HEADS})
    for head in HEADS:
        assert [*gates[head][0]] == ["shared_0", "shared_1", "shared_2"]
        np.testing.assert_allclose(np.stack([*gates[head][0].values()], 1), gate[head], rtol=1e-5)
    assert np.abs(found["click"] - found["rating"]).max() > 0.1


def test_ple_follows_its_equations_over_two_levels():
    sharing = created(PLE(shared_experts=2, task_experts=1, levels=2, **EXPERT))
    given, weights = sums("shared"), weights_of(sharing)
    found, gates = sharing(given)

    def level(number, x):
        """Outputs of both heads' gates and of the shared one, for the inputs of each."""
        name = f"level_{number}"
        shared = [expert(weights, f"{name}_shared_{k}", x["shared"]) for k in range(2)]
        own = {head: expert(weights, f"{name}_{head}_0", x[head]) for head in HEADS}
        outputs = {}
        for head in HEADS:
            gate = softmax_rows(x[head] @ weights[f"query_{name}_gate_{head}/kernel"])
            outputs[head] = weighted(gate, [*shared, own[head]])
        if number == 1:
            gate = softmax_rows(x["shared"] @ weights[f"query_{name}_gate_shared/kernel"])
            outputs["shared"] = weighted(gate, [*shared, own["click"], own["rating"]])
        return outputs

    first = level(1, dict.fromkeys(("shared", *HEADS), given["shared"]))
    assert_equal(found, level(2, first))
    assert "query_level_2_gate_shared/kernel" not in weights
    assert [[*gate] for gate in gates["click"]] == [["shared_0", "shared_1", "click_0"]] * 2


def test_stem_follows_its_equations():
    sharing = created(STEM(shared_experts=1, task_experts=2, **EXPERT))
    given, weights = sums("shared", *HEADS), weights_of(sharing)
    found, _ = sharing(given)

    experts = [expert(weights, "shared_0", given["shared"])]
    experts += [expert(weights, f"{head}_{k}", given[head]) for head in HEADS for k in range(2)]
    expected = {}
    for head in HEADS:
        asked = given[head] + given["shared"]
        gate = softmax_rows(asked @ weights[f"query_gate_{head}/kernel"])
        expected[head] = weighted(gate, experts)
    assert_equal(found, expected)


def copy_weights(source, target, renamed):
    values = {weight.path: weight.numpy() for weight in source.weights}
    assert len(values) == len(target.weights)
    for weight in target.weights:
        weight.assign(values[renamed(weight.path)])


def test_ple_without_experts_of_its_heads_is_mmoe():
    mmoe = created(MMoE(experts=3, **EXPERT))
    ple = created(PLE(shared_experts=3, task_experts=0, levels=1, **EXPERT), seed=2)
    copy_weights(mmoe, ple, lambda path: path.replace("level_1_", ""))

    assert_equal(ple(sums("shared"))[0], mmoe(sums("shared"))[0])


def test_mmoe_with_one_expert_is_a_shared_bottom():
    bottom, mmoe = created(SharedBottom(**EXPERT)), created(MMoE(experts=1, **EXPERT), seed=2)
    values = weights_of(bottom)
    for weight in mmoe.weights:
        if "gate" not in weight.path:
            weight.assign(values[weight.path.replace("shared_0_", "")])

    assert_equal(mmoe(sums("shared"))[0], bottom(sums("shared"))[0])


@pytest.mark.parametrize("scheme", GATED)
def test_the_weights_of_every_gate_sum_to_one(scheme):
    heads = {"retrieval": implicit_squared(), "rating": rating()}
    model = recommender(planted(), heads, scheme=scheme)
    rows, owners = tf.constant([3, 4, 5]), tf.constant([0, 0, 2])
    towers = model.gates(asked(rows, tf.constant([1, 2, 9]), owners), rows)

    assert towers.keys() == {"query", "candidate"}
    for gates in towers.values():
        assert gates.keys() == heads.keys()
        for levels in gates.values():
            assert len(levels) == (2 if scheme == "ple" else 1)
            for gate in levels:
                np.testing.assert_allclose(sum(gate.values()), np.ones(3), rtol=1e-6)
                assert all((weight.numpy() > 0).all() for weight in gate.values())


def two_heads(scheme):
    heads = {"retrieval": implicit_squared(), "rating": rating()}
    return recommender(planted(), heads, scheme=scheme)


def gradients(model, head):
    """By path, the gradient of what a head reads in both towers."""
    variables = [w.value for w in model.trainable_variables]
    with tf.GradientTape() as tape:
        rows = tf.constant([1, 2, 3])
        query = model.queries(asked(rows, tf.constant([4, 5, 6]), tf.constant([0, 1, 2])))[head]
        total = tf.reduce_sum(query**2) + tf.reduce_sum(model.candidates(rows)[head] ** 2)
    found = tape.gradient(total, variables)
    return {
        w.path: None if g is None else tf.convert_to_tensor(g).numpy()
        for w, g in zip(model.trainable_variables, found, strict=True)
    }


@pytest.mark.parametrize(("head", "other"), [("retrieval", "rating"), ("rating", "retrieval")])
def test_no_gradient_of_a_head_reaches_another_heads_tables_and_experts(head, other):
    model = two_heads("stem")
    found = gradients(model, head)

    assert f"candidate_shared_{other}_item_id/embeddings" in found
    for path, gradient in found.items():
        if f"shared_{other}" in path or f"{other}_0_layer" in path or f"{other}_1_layer" in path:
            assert gradient is None or not gradient.any(), path
    for own in (
        f"candidate_shared_{head}_item_id/embeddings",
        "candidate_shared_item_id/embeddings",
        f"query_{head}_0_layer_0/kernel",
        f"query_gate_{head}/kernel",
    ):
        assert found[own].any(), own


def test_a_head_reads_another_heads_tables_nevertheless():
    model = two_heads("stem")
    of = tf.constant([1]), tf.constant([4]), tf.constant([0])
    before = [model.queries(asked(*of))["retrieval"], model.candidates(of[1])["retrieval"]]
    (foreign,) = [w for w in model.weights if "candidate_shared_rating_item_id" in w.path]
    foreign.assign(foreign + 1.0)
    after = [model.queries(asked(*of))["retrieval"], model.candidates(of[1])["retrieval"]]

    for one, other in zip(before, after, strict=True):
        assert np.abs(one - other).max() > 1e-3


def test_every_head_has_a_table_of_each_shared_feature_and_pools_histories_in_it():
    model = two_heads("stem")
    tables = {w.path.split("/")[0]: w.numpy() for w in model.candidate.weights if w.name == TABLE}
    names = ["candidate_shared_item_id"]
    names += [f"candidate_shared_{head}_item_id" for head in ("retrieval", "rating")]
    assert {*names, "candidate_rating_item_id"} == tables.keys()
    assert len({tables[name][1:].tobytes() for name in names}) == 3

    captured = {}
    sharing = model.query.sharing
    model.query.sharing = lambda sums: captured.update(sums) or sharing(sums)
    model.queries(asked(tf.constant([1]), tf.constant([4, 7]), tf.constant([0, 0])))
    for space, name in zip(("shared", "retrieval", "rating"), names, strict=True):
        expected = (tables[name][4] + tables[name][7]) / np.sqrt(2)
        np.testing.assert_allclose(captured[space][0], expected, rtol=1e-5)


def test_each_space_pools_its_histories_with_weights_of_its_own():
    heads = {"retrieval": implicit_squared(), "rating": rating()}
    model = recommender(planted(), heads, scheme="stem", pooling="attention")
    for weight in model.query.poolings["rating"]["history"].weights:
        weight.assign(weight + 1.0)
    captured = {}
    sharing = model.query.sharing
    model.query.sharing = lambda sums: captured.update(sums) or sharing(sums)
    model.queries(asked(tf.constant([1]), tf.constant([4, 7]), tf.constant([0, 0])))

    for space, tower in model.candidate.spaces.items():
        items = tower["item_id"].table.embeddings.numpy()[[4, 7]]
        alike = np.allclose(captured[space][0], items.sum(0) / np.sqrt(2), rtol=1e-5)
        assert alike == (space != "rating")  # the others weigh items alike, as at the start
    kernels = [w.numpy() for w in model.weights if "history_inner/kernel" in w.path]
    assert len({kernel.tobytes() for kernel in kernels}) == 3


def test_histories_need_tables_of_their_own_in_the_candidate_tower():
    item = Categorical(column="item_id")
    model = Recommender(
        query=Tower(
            features={"shared": {"past": History(candidate="item_id", pooling=Mean())}},
            dim=8,
            sharing=SCHEMES["stem"](),
            stddev=0.1,
        ),
        candidate=Tower(
            features={"shared": {"item_id": item}},
            dim=8,
            sharing=SCHEMES["mmoe"](),
            stddev=0.1,
        ),
        heads={"retrieval": implicit_squared()},
    )
    with pytest.raises(UserError, match=r"`sharing.candidate` must have tables for each head"):
        model.adapt(planted(), np.arange(9), seed=1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_head_more_or_less_changes_no_other_weight(scheme):
    heads = {
        "retrieval": lambda: implicit_squared(),
        "rating": lambda: rating(),
        "other": lambda: softmax(dim=5),
    }

    def columns(names):
        """Every weight by path; those of gates by column, which belong to one expert each."""
        model = recommender(planted(), {name: heads[name]() for name in names}, scheme=scheme)
        found = {}
        for weight in model.weights:
            if "gate" not in weight.path:
                found[weight.path] = [weight.numpy().tobytes()]
            else:
                found[weight.path] = [column.tobytes() for column in weight.numpy().T]
        return found

    whole = columns(heads)
    for head in heads:
        alone = columns([head])
        for path, values in alone.items():
            assert set(values) <= set(whole[path]), path


@pytest.mark.parametrize("scheme", GATED)
def test_no_two_experts_or_gates_start_alike(scheme):
    model = two_heads(scheme)
    kernels = [w.numpy() for w in model.weights if w.path.endswith("/kernel")]

    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)
    other = recommender(
        planted(), {"retrieval": implicit_squared(), "rating": rating()}, scheme=scheme, seed=2
    )
    for kernel, moved in zip(
        kernels, [w.numpy() for w in other.weights if w.path.endswith("/kernel")], strict=True
    ):
        assert (kernel != moved).any()


def logged(scheme):
    model = two_heads(scheme)
    rows = np.arange(500)
    return model, Evaluator(planted(), known=rows[:400], held_out=rows[400:])


def test_means_and_entropies_of_gates_are_reported_by_tower_and_head():
    model, evaluator = logged("mmoe")
    found = evaluator.gates(model)

    expected = {
        f"train/{head}/gate/{tower}/{name}"
        for head in ("retrieval", "rating")
        for tower in ("query", "candidate")
        for name in ("shared_0", "shared_1", "shared_2", "entropy")
    }
    assert found.keys() == expected
    items = model.candidate.features["shared"]["item_id"].table.embeddings.numpy()[1:]
    (kernel,) = [w.numpy() for w in model.weights if "candidate_gate_rating" in w.path]
    gate = softmax_rows(items @ kernel)
    for k, mean in enumerate(gate.mean(axis=0)):
        assert found[f"train/rating/gate/candidate/shared_{k}"] == pytest.approx(mean, rel=1e-5)
    entropy = -(gate * np.log(gate)).sum(axis=1).mean()
    assert found["train/rating/gate/candidate/entropy"] == pytest.approx(entropy, rel=1e-5)


def test_gates_of_every_level_are_reported():
    model, evaluator = logged("ple")
    found = evaluator.gates(model)

    for level in (1, 2):
        place = f"train/rating/gate/query/level_{level}"
        means = [found[f"{place}/{name}"] for name in ("shared_0", "shared_1", "rating_0")]
        assert sum(means) == pytest.approx(1, rel=1e-5)
        assert 0 < found[f"{place}/entropy"] < np.log(3)


def test_a_model_without_gates_reports_none():
    model, evaluator = logged("shared_bottom")
    assert evaluator.gates(model) == {}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MMoE(experts=0, **EXPERT), "`experts` must be at least 1; got 0"),
        (lambda: MMoE(experts=2, **{**EXPERT, "layers": []}), "`layers` of MMoE must name"),
        (
            lambda: PLE(shared_experts=0, task_experts=0, levels=1, **EXPERT),
            r"`shared_experts \+ task_experts` must be at least 1",
        ),
        (
            lambda: PLE(shared_experts=1, task_experts=1, levels=0, **EXPERT),
            "`levels` must be at least 1; got 0",
        ),
        (
            lambda: STEM(shared_experts=1, task_experts=2, **{**EXPERT, "layers": []}),
            "`layers` of STEM must name",
        ),
    ],
)
def test_counts_that_leave_nothing_to_weigh_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


@pytest.mark.parametrize(
    "feature",
    [
        Categorical(column="values"),
        Hashed(column="values", bins=4),
        Bucketized(column="values", bins=2),
        Numeric(column="values"),
        Timestamp(column="values"),
    ],
)
def test_a_twin_reads_the_same_values_with_weights_of_its_own(feature):
    values = np.array([np.nan, 3.0, 4.0, 8.0])
    feature.adapt(values)
    twin = feature.twin()
    for one, name in ((feature, "first"), (twin, "second")):
        one.create(name=name, dim=3, stddev=1.0, seed=1)

    np.testing.assert_array_equal(twin.encode(values), feature.encode(values))
    (first,), (second,) = feature.weights, twin.weights
    assert first.shape == second.shape
    assert (first.numpy()[1:] != second.numpy()[1:]).all()
    before = feature(feature.encode(values)).numpy()
    second.assign(second + 1.0)
    np.testing.assert_array_equal(feature(feature.encode(values)), before)
