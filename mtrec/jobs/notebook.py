"""A job on data frames, and what a job left, for a notebook: `mtrec.fit` and `mtrec.open_run`."""

import base64
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from mtrec.errors import UserError, said

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from mtrec.serving.index import Index
    from mtrec.serving.run import Run


def fit(
    interactions: Any,
    *,
    items: Any = None,
    users: Any = None,
    overrides: Sequence[str] = (),
    directory: str | Path | None = None,
    **columns: Any,
) -> "TrainedRun":
    """Trains on data frames, as `python -m mtrec.launch data=table` does on files.

    Args:
        interactions: One row an interaction: a frame of pandas or Polars, or a table of Arrow.
        items: One row an item; without it, items are the ids of the interactions.
        users: One row a user, likewise.
        overrides: What the command line would say: `["task=retrieval", "train.epochs=5"]`.
        directory: The run directory, in which a job that is there is replaced; without it, a new
            one below `outputs/`.
        columns: Options of `data=table`, which name the columns: `user_key="userId"`.

    Returns:
        The run, which is tracked in MLflow and can be opened again with `open_run(directory)`.

    Raises:
        UserError: If a frame or an option is not as it must be.
    """
    began = time.time()
    from mtrec.jobs import main_job
    from mtrec.jobs.composed import composed

    if isinstance(overrides, str):
        raise UserError(f"`overrides` must be a list; got {overrides}. Write [{overrides!r}].")
    place = Path(directory or f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}").resolve()
    frames = {"interactions": interactions, "items": items, "users": users}
    # Of the three, interactions alone must be there.
    there = {n: frame for n, frame in frames.items() if n == "interactions" or frame is not None}
    tables = {name: _table(name, frame) for name, frame in there.items()}
    files = _written(tables)
    given = [_override(name, value) for name, value in (files | columns).items()]
    asked = ["data=table", *given, "train.resume=never", f"hydra.run.dir={place}", *overrides]
    with composed(asked, place) as config:
        _make(place)
        main_job.run(config, began=began)
    return TrainedRun(place)


def open_run(
    run: str | Path = "latest", *, uri: str | None = None, trusted: Sequence[str] = ()
) -> "TrainedRun":
    """What a job left.

    Args:
        run: A run directory, an MLflow run id or `latest`; see `mtrec.tracking.finished.find_run`.
        uri: See `mtrec.tracking.store.resolve_uri`.
        trusted: The packages, beside mtrec, whose classes its config may name.

    Raises:
        UserError: If there is no such run.
    """
    from mtrec.tracking import finished

    return TrainedRun(finished.find_run(str(run), uri=uri), trusted)


@final
class TrainedRun:
    """What a job left in its run directory.

    Attributes:
        directory: The run directory.
    """

    def __init__(self, directory: Path, trusted: Sequence[str] = ()) -> None:
        self.directory = directory
        self._trusted = trusted

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The metrics by name, `test/rating/rmse`."""
        from mtrec.tracking import run_dir

        return run_dir.load_metrics(self.directory)

    @cached_property
    def run(self) -> "Run":
        """The data, its split and the model.

        Raises:
            UserError: If its config names a class of no package that is trusted, or what the run
                needs is missing or damaged.
        """
        from mtrec.libraries import import_tensorflow

        import_tensorflow()
        from mtrec.jobs.restore import load_run

        return load_run(self.directory, trusted=self._trusted)

    @cached_property
    def index(self) -> "Index":
        """The index of the items.

        Raises:
            UserError: If no head of the run retrieves.
        """
        from mtrec.serving import index
        from mtrec.tracking import run_dir

        if self.run.retrieval is None:
            raise UserError(
                f"{self.directory} must have a retrieval head, and has "
                f"{', '.join(self.run.model.heads)}. Train task=joint or task=retrieval."
            )
        return index.load(self.directory / run_dir.INDEX, digest=self.run.tower_digest)

    def recommend(
        self,
        user_id: str | int,
        *,
        k: int = 10,
        history: Sequence[str] = (),
        features: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> "pd.DataFrame":
        """The best items for a user, one a row; see `mtrec.serving.recommend`."""
        import pandas as pd

        from mtrec.serving.recommend import recommend

        found = recommend(
            self.run,
            self.index,
            str(user_id),
            k=k,
            history=history,
            features=features,
            context=context,
        )
        return pd.DataFrame([asdict(item) for item in found], index=range(1, len(found) + 1))

    def evaluate(self) -> "pd.DataFrame":
        """What the job measured, a metric of a head a row: `validation`, `test` and `baseline`."""
        import pandas as pd

        splits = {"validation": "val/", "test": "test/", "baseline": "baseline/test/"}
        return pd.DataFrame(
            {
                column: {
                    name.removeprefix(prefix): value
                    for name, value in self.metrics.items()
                    if name.startswith(prefix)
                }
                for column, prefix in splits.items()
            }
        )

    @property
    def figures(self) -> "Figures":
        """The figures of the job, which show themselves."""
        return Figures(self.directory / "figures")

    def _repr_html_(self) -> str:
        return f"<p>{self.directory}</p>{self.evaluate().to_html()}{self.figures._repr_html_()}"


@final
class Figures(Mapping[str, Path]):
    """Pictures in a folder by their names."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.stem: path for path in sorted(folder.glob("*.png"))}

    def __getitem__(self, name: str) -> Path:
        return self._files[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _repr_html_(self) -> str:
        return "".join(
            f'<img alt="{name}" width="620" src="data:image/png;base64,'
            f'{base64.b64encode(path.read_bytes()).decode()}">'
            for name, path in self._files.items()
        )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"`directory` must be one that can be made; got {directory} ({error.strerror}). Give "
            "another."
        ) from error


def _table(name: str, frame: Any) -> "pa.Table":
    """A frame as a table of Arrow, without the row labels of pandas."""
    import pandas as pd
    import pyarrow as pa

    from mtrec.data.arrow_columns import decoded

    try:
        if isinstance(frame, pd.DataFrame):
            return pa.Table.from_pandas(frame, preserve_index=False)
        if isinstance(frame, pa.Table) or hasattr(frame, "__arrow_c_stream__"):
            return decoded(pa.table(frame))  # Parquet does not know all of its categories
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"{name} must be a frame whose columns have a name and a type of their own each; got: "
            f"{said(error)}. Correct it."
        ) from error
    raise UserError(
        f"{name} must be a data frame of pandas or Polars or a table of Arrow; got "
        f"{type(frame).__name__}. Make one of it."
    )


def _written(tables: "Mapping[str, pa.Table]") -> dict[str, str]:
    """The tables as files, called by what they hold, so that a frame is prepared once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = {}
    for name, table in tables.items():
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        content = sink.getvalue()
        cache = Path(os.environ.get("MTREC_CACHE", "~/.cache/mtrec")).expanduser()
        folder = cache / "frames" / hashlib.sha256(content).hexdigest()[:16]
        path = folder / f"{name}.parquet"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{name}.{os.getpid()}"
            partial.write_bytes(content)
            partial.replace(path)
        files[name] = str(path)
    return files


def _override(name: str, value: Any) -> str:
    """An option of the data as the command line says it."""
    from mtrec.jobs.command import as_text

    def said(value: Any) -> str:
        if isinstance(value, str):
            return as_text(f"_={value}", ("_",)).removeprefix("_=")
        if isinstance(value, list | tuple):
            return f"[{','.join(map(said, value))}]"
        return "null" if value is None else str(value)

    return f"data.{name}={said(value)}"
