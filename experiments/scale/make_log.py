"""Writes a made-up log of any size as Parquet: eight columns, in order of time.

    python experiments/scale/make_log.py --rows 10_000_000 --output log

Row i is a function of i alone. Users and items are drawn by power laws; user ids are whole numbers,
item ids are texts.
"""

import argparse
from pathlib import Path

import duckdb

_ROWS_A_FILE = 5_000_000
_START = 1_600_000_000  # seconds

_COLUMNS = """
    SELECT
        1_000_000 + floor({users} * pow({drawn[0]}, 1.5))::BIGINT AS user_id,
        'item-' || lpad(floor({items} * pow({drawn[1]}, 3))::BIGINT::VARCHAR, 8, '0') AS item_id,
        CASE WHEN {drawn[2]} < 0.5 THEN (1 + floor(5 * {drawn[3]}))::FLOAT END AS rating,
        {start} + i // 3 AS timestamp,
        ({drawn[4]} < 0.1)::TINYINT AS clicked,
        (600 * {drawn[5]})::FLOAT AS seconds,
        ['phone', 'tablet', 'desktop'][1 + floor(3 * {drawn[6]})::INT] AS device,
        (100 * {drawn[7]})::FLOAT AS price
    FROM range({first}, {end}) t(i)
"""


def main() -> None:
    """Writes the files that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, help="a tenth of the rows unless given")
    parser.add_argument("--items", type=int, help="a hundredth of the rows unless given")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True)
    # Even draws from 0 to 1, one stream a column.
    drawn = [f"(hash(8 * i + {stream}) / 18446744073709551616.0)" for stream in range(8)]
    for number, first in enumerate(range(0, options.rows, _ROWS_A_FILE)):
        query = _COLUMNS.format(
            users=options.users or options.rows // 10,
            items=options.items or options.rows // 100,
            start=_START,
            first=first,
            end=min(first + _ROWS_A_FILE, options.rows),
            drawn=drawn,
        )
        file = options.output / f"part-{number:05}.parquet"
        duckdb.sql(f"COPY ({query}) TO '{file}' (FORMAT parquet, COMPRESSION zstd)")


if __name__ == "__main__":
    main()
