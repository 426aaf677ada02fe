"""What a job tells people while it runs: lines on the terminal and the run in MLflow."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
from rich.table import Table

from mtrec.data.dataset import Dataset
from mtrec.data.facts import facts_of
from mtrec.data.split import Split
from mtrec.heads.metrics import MARGIN
from mtrec.jobs.terminal import Terminal
from mtrec.reports import data_page, figures
from mtrec.tracking.notes import commands_note, results_note
from mtrec.tracking.run_dir import DATA_PAGE, USERS
from mtrec.tracking.tracker import Tracker

if TYPE_CHECKING:  # they import TensorFlow, which the driver of other workers does without
    from mtrec.heads.head import Report
    from mtrec.jobs.worker import Listener
    from mtrec.serving.manifest import Manifest
    from mtrec.training.loop import Metrics

# The metrics of the table that ends a job, of which a head has some; of others, the first.
SHOWN = (
    "recall_at_10",
    "recall_at_20",
    "ndcg_at_10",
    "rmse",
    "rmsle",
    "mae",
    "xauc",
    "auc",
    "grouped_auc",
    "log_loss",
)
# What an epoch's line shows of each head, likewise.
SHOWN_EACH_EPOCH = ("ndcg_at_10", "rmse", "rmsle", "auc")
MOST_OTHERS = 3


class Reporter:
    """Prints progress and results, and logs them to MLflow.

    Args:
        tracker: The MLflow run of the job.
        terminal: Who follows its stages.
    """

    def __init__(self, tracker: Tracker, terminal: Terminal) -> None:
        self.tracker = tracker
        self._told: list[str] = []
        self.terminal = terminal
        self.console = terminal.console

    def data(self, dataset: Dataset, parts: Split) -> None:
        """The data and its split, as lines, in MLflow and as a page."""
        counts = {name: len(rows) for name, rows in vars(parts).items()}
        sizes = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        self.console.print(
            f"{dataset.name} from {dataset.source}: {dataset.num_users:,} users, "
            f"{dataset.num_items:,} items, interactions: {sizes}"
        )
        facts = facts_of(dataset, parts)
        table = Table(box=None, show_header=False)
        for name, told in data_page.lines(facts):
            table.add_row(name, told)
        self.console.print(table)
        text = data_page.page(facts, title=dataset.name, source=dataset.source)
        self.tracker.log_text(text, DATA_PAGE)
        copies = facts.copies
        if copies:
            self.console.print(
                f"{copies:,} interactions are like an earlier one in every column: they stay, in "
                "the same part as that one"
            )
        self.tracker.log_dataset(dataset, split_counts=counts | {"copies": copies})

    def training(self, epochs: int) -> "Listener":
        """Who listens to the training."""
        return _TrainingLog(self.tracker, self.terminal, epochs)

    def evaluation(
        self, history: "list[Metrics]", metrics: "Metrics", reports: "Mapping[str, Report]"
    ) -> None:
        """Test metrics beside their baselines, and the figures."""
        selected = next(int(m["epoch"]) for m in history if m["selected"])
        self.console.print(f"selected epoch {selected} of {len(history)}")
        rows = _results(metrics, reports)
        table = Table("test", "model", "baseline", box=None, header_style="bold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
        self._tell(results_note(metrics, [name.removeprefix("test/") for name, *_ in rows]))
        test = {name: value for name, value in metrics.items() if name.startswith("test/")}
        self.tracker.log_metrics(test, step=0)
        self.tracker.log_summary({n: v for n, v in metrics.items() if n not in test})
        self.tracker.log_file(self.tracker.run_dir / USERS, "")
        for name, figure in _figures(history, selected, metrics, reports):
            self.tracker.log_figure(figure, name)

    def index(self, manifest: "Manifest") -> None:
        """What index was built and how well it finds."""
        line = (
            f"index: {manifest.kind}, {manifest.catalogue_size:,} items, recall@{manifest.k} "
            f"against exact search {manifest.recall_at_k:.4f}"
        )
        self.console.print(line)
        self._tell(line)
        self.tracker.log_summary({"index/recall_against_exact": manifest.recall_at_k})

    def answer(self, metrics: "Metrics") -> None:
        """What whole answers reach, and what their stages leave of it."""
        self.tracker.log_metrics(metrics, step=0)
        shown = "filter_recall", "candidates_recall", "recall_at_10", "ndcg_at_10"
        told = [f"{name} {metrics[f'test/answer/{name}']:.4f}" for name in shown if metrics]
        if told:
            self.console.print(f"answer: {', '.join(told)}")

    def model(self, signatures: Sequence[str], address: str | None) -> None:
        """What the SavedModel answers, and its address in MLflow if it has one."""
        served = f"; in MLflow {address}" if address else ""
        self.console.print(f"model: SavedModel with {', '.join(signatures)}{served}")
        if "recommend" in signatures:
            self._tell(commands_note(str(self.tracker.run_dir), address))

    def _tell(self, text: str) -> None:
        """Adds to the run's description."""
        self._told.append(text)
        self.tracker.set_note("\n\n".join(self._told))


@final
class _TrainingLog:
    """Prints and logs each epoch once, however often workers start again."""

    def __init__(self, tracker: Tracker, terminal: Terminal, epochs: int) -> None:
        self.begin, self.advance, self.end = terminal.begin, terminal.advance, terminal.end
        self.should_stop = terminal.should_stop
        self._tracker = tracker
        self._console = terminal.console
        self._epochs = epochs
        self._seen: set[int] = set()

    def say(self, text: str) -> None:
        self._console.print(text)

    def on_epoch(self, metrics: "Metrics") -> None:
        epoch = int(metrics["epoch"])
        if epoch in self._seen:
            return
        self._seen.add(epoch)
        self._console.print(_epoch_line(metrics, self._epochs))
        # The first that MLflow hears of are those that its pages of comparison open on.
        names = sorted((name for name in metrics if "/" in name), key=_rank)
        self._tracker.log_metrics({name: metrics[name] for name in names}, step=epoch)


def _rank(name: str) -> tuple[bool, bool]:
    """Sorts the validation before the losses, and what is worth a glance before the rest."""
    return not name.startswith("val/"), name.rsplit("/", 1)[-1] not in SHOWN_EACH_EPOCH


def _epoch_line(metrics: "Metrics", epochs: int) -> str:
    parts = [f"epoch {int(metrics['epoch']):>3}/{epochs}"]
    for key, loss in metrics.items():
        if key.startswith("train/") and key.endswith("/loss"):
            head = key.split("/")[1]
            parts.append(f"{head} loss {loss:.4f}")
            start = f"val/{head}/"
            found = [name.removeprefix(start) for name in metrics if name.startswith(start)]
            for name in _glance(found, SHOWN_EACH_EPOCH):
                margin = metrics.get(f"{start}{name}{MARGIN}")
                within = "" if margin is None else f" ± {margin:.4f}"
                parts.append(f"val {name} {metrics[start + name]:.4f}{within}")
    return "  ".join([*parts, f"{metrics['train/seconds']:.1f} s"])


def _results(metrics: "Metrics", reports: "Mapping[str, Report]") -> list[tuple[str, str, str]]:
    """Name, the model's value and the baseline's, of what is worth a glance."""
    keys = [
        f"test/{head}/{name}"
        for head, report in reports.items()
        for name in _glance(report.metrics, SHOWN)
    ]
    baselines = (metrics.get(f"baseline/{key}") for key in keys)
    return [
        (key, f"{metrics[key]:.4f}", "" if baseline is None else f"{baseline:.4f}")
        for key, baseline in zip(keys, baselines, strict=True)
    ]


def _glance(found: Iterable[str], worth: Sequence[str]) -> list[str]:
    """Those of a head's metrics that are worth a glance, or if none is, the first that it has."""
    own = [name for name in found if not name.endswith(MARGIN)]
    return [name for name in worth if name in own] or own[:MOST_OTHERS]


def _figures(
    history: "list[Metrics]", selected: int, metrics: "Metrics", reports: "Mapping[str, Report]"
) -> Iterator[tuple[str, Any]]:
    """Figures by name; where a second head has one of a kind, its name follows."""
    yield "loss_curves", figures.loss_curves(history, selected_epoch=selected)
    seen: set[str] = set()

    def named(kind: str, head: str) -> str:
        name = f"{kind}_{head}" if kind in seen else kind
        seen.add(kind)
        return name

    together: dict[str, list[dict[str, Any]]] = {}
    for head, report in reports.items():
        if report.slices:
            metric = report.slices[0]["metric"]
            rows = together.setdefault(named("slices", head) if metric in seen else "slices", [])
            rows += report.slices
            seen.update((metric, "slices"))
    for name, rows in together.items():
        yield name, figures.slices(rows)
    for head, report in reports.items():
        if "recall_at_10" in report.metrics:
            yield (
                named("recall_curve", head),
                figures.recall_curve(metrics, split="test", head=head),
            )
        if "calibration" in report.tables:
            figure = figures.calibration(report.tables["calibration"], head=head)
            yield named("calibration", head), figure
        if "spread" in report.tables:
            figure = figures.spread(report.tables["spread"], head=head)
            yield named("spread", head), figure
        if "predicted_against_true" in report.tables:
            heat = report.tables["predicted_against_true"]
            yield (
                named("predicted_against_true", head),
                figures.predicted_against_true(
                    np.asarray(heat["counts"]),
                    predicted_edges=np.asarray(heat["edges"]),
                    ratings=np.asarray(heat["ratings"]),
                ),
            )
