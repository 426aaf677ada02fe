"""What each test user adds to a run's metrics: `evaluation_users.parquet` of the run directory.

One row a user: `user` (the id), and of every head `<head>/count` and `<head>/<metric>`, the sum
over what was counted. `metrics.from_totals` makes metrics of sums over any choice of these rows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from mtrec.heads.head import Report


def save(reports: "Mapping[str, Report]", user_ids: np.ndarray, path: Path) -> None:
    """Writes the file, or adds to the one that is there of the same users.

    Args:
        reports: What each head found on the same held-out rows.
        user_ids: Ids of the held-out users, `[U]`.
        path: The file.
    """
    import pandas as pd

    table = pd.DataFrame({"user": user_ids})
    if path.is_file() and table["user"].equals((there := pd.read_parquet(path))["user"]):
        table = there
    columns: dict[str, np.ndarray] = {}
    for head, report in reports.items():
        if report.per_user is not None:
            columns[f"{head}/count"] = report.per_user.count
            columns |= {f"{head}/{n}": total for n, total in report.per_user.totals.items()}
    table.assign(**columns).to_parquet(path, index=False)


def load(path: Path) -> "pd.DataFrame":
    """The table, indexed by user."""
    import pandas as pd

    return pd.read_parquet(path).set_index("user")
