"""The README's Python example runs, line for line, on a small stand-in for MovieLens."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mtrec.data import movielens, synthetic
from mtrec.data.dataset import Dataset

README = Path(__file__).resolve().parent.parent / "README.md"


def like_movielens(**_: object) -> Dataset:
    """Synthetic data under MovieLens' column names."""
    data = synthetic.load(
        num_users=150,
        num_items=100,
        num_interactions=4000,
        num_factors=4,
        popularity_exponent=0.8,
        most_repeats=1,
        noise=0.3,
        rating_share=1.0,
        rating_agreement=1.0,
        seed=0,
    )
    items = {name.replace("item_", "movie_"): column for name, column in data.items.items()}
    return replace(data, items=items, item_key="movie_id", title="movie_title")


def test_the_python_example_recommends_ten_titles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.S | re.M)
    monkeypatch.setattr(movielens, "load", like_movielens)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("{'epoch'")]) >= 4
    titles = set(like_movielens().items["movie_title"].tolist())
    recommended = [line.rsplit(" ", 2) for line in lines if not line.startswith("{")]
    assert len(recommended) == 10
    assert {title for title, _, _ in recommended} <= titles
    assert (tmp_path / "my-run" / "metrics.json").is_file()
