import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from mtrec.reports import figures

HISTORY = [
    {
        "epoch": epoch,
        "train/loss": 9.0,
        "train/retrieval/loss": 4.0 / epoch,
        "train/retrieval/weight": 1.0,
        "train/rating/loss": 2.0 / epoch,
        "val/retrieval/recall_at_10": 0.01 * epoch,
        "val/retrieval/ndcg_at_10": 0.1 * epoch,
        "val/rating/mae": 0.5,
        "val/rating/rmse": 1.0 - 0.1 * epoch,
    }
    for epoch in (1, 2, 3)
]
TABLE = [
    {"predicted": 2.0, "observed": 1.5, "count": 30, "stderr": 0.1},
    {"predicted": 3.0, "observed": 3.25, "count": 60, "stderr": 0.05},
    {"predicted": 4.0, "observed": 4.5, "count": 10, "stderr": 0.2},
]
SLICES = [
    {
        "slice": "items",
        "value": "head",
        "metric": "recall_at_10",
        "model": 0.3,
        "baseline": 0.2,
        "count": 80,
    },
    {
        "slice": "items",
        "value": "tail",
        "metric": "recall_at_10",
        "model": 0.1,
        "baseline": 0.0,
        "count": 1234,
    },
    {
        "slice": "gender",
        "value": "F",
        "metric": "rmse",
        "model": 0.9,
        "baseline": None,
        "count": 50,
    },
]
RECALL = {
    f"{prefix}test/retrieval/recall_at_{k}": value
    for prefix, values in {
        "": (0.04, 0.14, 0.24, 0.36, 0.56, 0.72),
        "baseline/": (0.01, 0.07, 0.11, 0.17, 0.29, 0.41),
    }.items()
    for k, value in zip((1, 5, 10, 20, 50, 100), values, strict=True)
}
COUNTS = np.array([[6, 2, 0], [0, 0, 0], [1, 1, 2]])
EDGES = np.array([1.0, 2.0, 4.0, 5.0])
RATINGS = np.array([1.0, 3.0, 5.0])


def every_figure() -> dict[str, Figure]:
    return {
        "loss_curves": figures.loss_curves(HISTORY, selected_epoch=2),
        "recall_curve": figures.recall_curve(RECALL, split="test", head="retrieval"),
        "calibration": figures.calibration(TABLE, head="rating"),
        "heat": figures.predicted_against_true(COUNTS, predicted_edges=EDGES, ratings=RATINGS),
        "slices": figures.slices(SLICES),
    }


def panels(figure: Figure) -> dict[tuple[str, str], matplotlib.axes.Axes]:
    columns = figure.axes[0].get_gridspec().ncols
    tasks = [axis.get_title(loc="left") for axis in figure.axes[:columns]]
    return {
        (tasks[place % columns], axis.get_ylabel()): axis for place, axis in enumerate(figure.axes)
    }


def xs(line: matplotlib.lines.Line2D) -> list[float]:
    return list(line.get_xdata())


def ys(line: matplotlib.lines.Line2D) -> list[float]:
    return list(line.get_ydata())


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_loss_curves_show_each_tasks_loss_and_its_main_validation_metric() -> None:
    found = panels(figures.loss_curves(HISTORY, selected_epoch=2))
    expected = {
        ("retrieval", "training loss"): [4.0, 2.0, 4 / 3],
        ("retrieval", "validation NDCG@10"): [0.1, 0.2, 0.3],
        ("rating", "training loss"): [2.0, 1.0, 2 / 3],
        ("rating", "validation RMSE"): [0.9, 0.8, 0.7],
    }
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert xs(found[key].lines[0]) == [1, 2, 3]
        np.testing.assert_allclose(found[key].lines[0].get_ydata(), values)


def test_loss_curves_mark_the_selected_epoch_with_its_value() -> None:
    figure = figures.loss_curves(HISTORY, selected_epoch=3)
    axis = panels(figure)["rating", "validation RMSE"]
    marks = [line.get_xydata().tolist() for line in axis.lines[1:]]
    assert marks[0] == [[3, 0], [3, 1]]
    np.testing.assert_allclose(marks[1], [[3, 0.7]])
    assert "epoch 3 selected" in texts(figure)


def test_loss_curves_of_a_head_with_a_metric_of_its_own_leave_gaps_for_missing_values() -> None:
    history = [
        {"epoch": 1, "train/clicks/loss": 1.0},
        {"epoch": 2, "train/clicks/loss": 0.5, "val/clicks/loss": 3.0, "val/clicks/auc": 0.7},
    ]
    figure = figures.loss_curves(history, selected_epoch=1)
    line = panels(figure)["clicks", "validation auc"].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, 0.7])


def test_the_recall_curve_plots_the_model_above_the_most_popular_items() -> None:
    figure = figures.recall_curve(RECALL, split="test", head="retrieval")
    model, popular = figure.axes[0].lines
    assert xs(model) == xs(popular) == [1, 5, 10, 20, 50, 100]
    assert ys(model) == [0.04, 0.14, 0.24, 0.36, 0.56, 0.72]
    assert ys(popular) == [0.01, 0.07, 0.11, 0.17, 0.29, 0.41]
    assert "test split" in texts(figure)


def test_the_recall_curve_leaves_out_cutoffs_above_the_size_of_the_catalogue() -> None:
    small = {key: value for key, value in RECALL.items() if not key.endswith(("_50", "_100"))}
    model, popular = figures.recall_curve(small, split="test", head="retrieval").axes[0].lines
    assert xs(model) == xs(popular) == [1, 5, 10, 20]


def test_the_calibration_plots_means_intervals_and_counts_of_the_bins() -> None:
    figure = figures.calibration(TABLE, head="rating")
    upper, lower = figure.axes
    diagonal, means = upper.lines[0], upper.containers[0]
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_array_equal(
        means.lines[0].get_xydata(), [[2.0, 1.5], [3.0, 3.25], [4.0, 4.5]]
    )
    intervals = [segment[:, 1] for segment in means.lines[2][0].get_segments()]
    np.testing.assert_allclose(intervals[0], [1.5 - 0.196, 1.5 + 0.196])
    assert [bar.get_height() for bar in lower.patches] == [30, 60, 10]
    # (30 x 0.5 + 60 x 0.25 + 10 x 0.5) / 100
    assert "0.350" in texts(figure)


def test_the_heat_map_shares_each_true_rating_out_among_the_predictions() -> None:
    figure = figures.predicted_against_true(COUNTS, predicted_edges=EDGES, ratings=RATINGS)
    axis = figure.axes[0]
    mesh = axis.collections[0]
    np.testing.assert_allclose(
        mesh.get_array(), [[75.0, 0.0, 25.0], [25.0, 0.0, 25.0], [0.0, 0.0, 50.0]]
    )
    exact, mean = (line.get_ydata() for line in axis.lines)
    np.testing.assert_array_equal(exact, [1.0, 3.0, 5.0])
    # Bin centres 1.5, 3 and 4.5: (6 x 1.5 + 2 x 3) / 8 and (1.5 + 3 + 2 x 4.5) / 4.
    np.testing.assert_allclose(mean, [1.875, np.nan, 3.375])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1\nn 8", "3\nn 0", "5\nn 4"]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("$a_$", "$a_$"),
        ("$5-$10", "$5-$10"),
        ("x" * 20_000, "x" * 39 + "…"),
        ("two\nlines", "two lines"),
    ],
)
def test_a_group_may_be_called_anything(value: str, label: str) -> None:
    figure = figures.slices([row | {"slice": value, "value": value} for row in SLICES[:1]])
    figure.savefig(io.BytesIO())
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [label]


def test_slices_draw_a_bar_for_each_value_and_a_tick_for_its_baseline() -> None:
    figure = figures.slices(SLICES)
    recall, rmse = figure.axes
    assert [recall.get_title(loc="left"), rmse.get_title(loc="left")] == ["recall@10", "RMSE"]
    assert [bar.get_width() for bar in recall.patches] == [0.3, 0.1]
    assert [xs(line) for line in recall.lines] == [[0.2, 0.2], [0.0, 0.0]]
    assert [bar.get_width() for bar in rmse.patches] == [0.9]
    assert list(rmse.lines) == []
    assert {"items", "gender", "1,234", "0.300", "0.200"} <= set(texts(figure).splitlines())


def test_the_bars_of_a_slice_stand_beside_their_names() -> None:
    recall, rmse = figures.slices(SLICES).axes
    names = {
        label.get_text(): place
        for place, label in zip(recall.get_yticks(), recall.get_yticklabels(), strict=True)
    }
    middles = [bar.get_y() + bar.get_height() / 2 for bar in (*recall.patches, *rmse.patches)]
    np.testing.assert_allclose(middles, [names["head"], names["tail"], names["F"]])
    assert recall.get_ylim() == rmse.get_ylim()


@pytest.mark.parametrize("name", every_figure())
def test_every_figure_has_titles_and_labels_and_leaves_the_global_style_alone(name: str) -> None:
    before = dict(matplotlib.rcParams)
    figure = every_figure()[name]
    file = io.BytesIO()
    figure.savefig(file)
    assert dict(matplotlib.rcParams) == before
    assert file.getvalue().startswith(b"\x89PNG")
    assert figure.get_suptitle()
    width = figure.get_size_inches()[0] * figure.dpi
    assert width == 1200
