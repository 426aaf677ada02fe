"""What README, CONTRIBUTING and docs/ show is run or composed: Python, commands, YAML, links."""

import json
import re
import runpy
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf
from silent import Silent
from small_config import composed

import mtrec.benchmark.settings  # noqa: F401 (tells Hydra the schema)
from mtrec.data import movielens, synthetic
from mtrec.data.dataset import Dataset
from mtrec.errors import UserError
from mtrec.heads.metrics import LOWER_IS_BETTER
from mtrec.jobs import build, stages, worker
from mtrec.jobs.load import load
from mtrec.jobs.restore import restore_run
from mtrec.jobs.unused import refuse_unused
from mtrec.model.features import Feature
from mtrec.serving.recommend import recommend
from mtrec.tracking import run_dir

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTENDING = ROOT / "docs" / "extending.md"
# Module of mtrec to the config that it composes, and the folder of conf/ that holds it.
COMMANDS = {
    "launch": ("config", ""),
    "prepare": ("prepare", ""),
    "recommend": ("recommend", ""),
    "compare": ("compare", "compare"),
    "doctor": ("doctor", ""),
    "benchmark": ("benchmark", "benchmark"),
}
# What blocks show beside mtrec's own commands.
TOOLS = {".", "curl", "export", "mlflow", "mypy", "ruff", "python3"}
TOOLS |= {".venv/bin/pip", ".venv/bin/python"}


def blocks(path):
    """Kind and text of each fenced block of a page."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", path.read_text(), re.S | re.M)


def lines_of(kind, text):
    """The commands of a block, without prompts, outputs and comments, each on one line."""
    text = text.replace("\\\n", " ")
    if kind == "console":
        text = "\n".join(re.findall(r"^\$ (.*)$", text, re.M))
    return [part.strip() for part in re.split(r"&&|\n", text) if part.strip()]


def commands():
    """The page and each command of its blocks."""
    for path in PAGES:
        for kind, text in blocks(path):
            if kind == "console" or kind.startswith("bash"):
                for line in lines_of(kind, text):
                    yield path.name, shlex.split(line, comments=True)


def of_mtrec(words):
    """Module and overrides of a command of mtrec; None for another."""
    for place, word in enumerate(words):
        if word.startswith("mtrec.") and words[place - 1] == "-m":
            return word.removeprefix("mtrec."), words[place + 1 :]
    return None


def ours():
    for page, words in commands():
        if found := of_mtrec(words):
            yield pytest.param(*found, id=f"{page}: {' '.join(found[1])[:60] or found[0]}")


def first_of_each(overrides):
    """The overrides of the first job of a sweep."""
    for override in OverridesParser.create().parse_overrides(overrides):
        line = override.input_line
        if override.is_sweep_override():
            line = f"{line.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}"
        if not line.lstrip("+").startswith("hydra."):
            yield line


def config_of(module, words, folder):
    """What a command would run with; its own YAML files lie in `folder`."""
    words = list(words)
    options = []
    if "--config-dir" in words:
        place = words.index("--config-dir")
        options = [f"hydra.searchpath=[file://{folder / words[place + 1]}]"]
        del words[place : place + 2]
    overrides = list(first_of_each([word for word in words if not word.startswith("--")]))
    name, where = COMMANDS[module]
    config = OmegaConf.to_object(composed(*overrides, *options, name=name, folder=where))
    if module == "launch":
        refuse_unused(config, overrides)
    return config


@pytest.fixture(scope="module")
def own_parts(tmp_path_factory):
    """A folder with the files that docs/extending.md shows."""
    folder = tmp_path_factory.mktemp("own")
    for kind, text in blocks(EXTENDING):
        name = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if name:
            assert kind == {".py": "python", ".yaml": "yaml"}[Path(name[1]).suffix]
            file = folder / name[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def test_every_block_is_of_a_kind_that_is_tested():
    kinds = {kind for path in PAGES for kind, _ in blocks(path)}
    assert kinds == {"bash main-job", "bash tests", "console", "python", "text", "yaml"}
    assert len([kind for kind, _ in blocks(PAGES[0]) if kind.startswith("bash")]) == 2


@pytest.mark.parametrize(("module", "words"), ours())
def test_every_command_composes_and_leaves_no_option_unread(module, words, own_parts):
    config_of(module, words, own_parts)


def test_commands_of_other_tools_are_those_we_know():
    others = [words for _, words in commands() if not of_mtrec(words)]
    shown = {words[0] for words in others if words[:2] != ["python", "make_plays.py"]}
    assert shown == TOOLS


def test_a_command_with_an_option_that_is_not_there_would_be_noticed(own_parts):
    with pytest.raises(Exception, match="no_such"):
        config_of("launch", ["train.no_such=1"], own_parts)
    with pytest.raises(UserError, match="takes no notice"):
        config_of("launch", ["data.split.fold=2"], own_parts)


def offered():
    """What the README's table of what one can do says, one choice at a time."""
    table = PAGES[0].read_text().split("## What one can do")[1].split("\n## ")[0]
    for cell in re.findall(r"^\| (`.*?`) \|", table, re.M):
        first, *others = re.findall(r"`(.*?)`", cell)
        yield first
        for other in others:
            key = first.rpartition("=")[0]
            yield f"{key}={other}"


@pytest.mark.parametrize("choice", [c for c in offered() if "=" in c])
def test_what_the_readme_offers_composes(choice, own_parts):
    config_of("launch", shlex.split(choice), own_parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)(.*?)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
            names = {re.sub(r"[^\w\- ]", "", t).strip().lower().replace(" ", "-") for t in titles}
            assert anchor in names, target


def test_every_file_of_ours_that_is_named_anywhere_is_there():
    ours = ("mtrec", "tests", "conf", "docs", "experiments", "launch")
    named = re.compile(rf"(?<![\w./-])(?:{'|'.join(ours)})/[\w./-]+\.(?:py|yaml|md|sbatch)\b")
    files = [*ROOT.glob("*.md"), ROOT / "pyproject.toml"]
    files += [path for folder in ours for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = {path: path.read_bytes().decode("utf-8", "ignore") for path in files}
    found = [(path, name) for path, text in texts.items() for name in named.findall(text)]
    assert len(found) > 50
    assert [(str(path), name) for path, name in found if not (ROOT / name).is_file()] == []


def test_the_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= 150


def test_the_readme_names_every_file_of_slow_tests():
    tests = ROOT / "tests"
    slow = {
        str(path.relative_to(tests))
        for path in tests.rglob("test_*.py")
        if re.search(r"mark\.slow", path.read_text()) and path != Path(__file__)
    }
    assert set(re.findall(r"^\|.*\| `([\w/]+\.py)` \|", PAGES[0].read_text(), re.M)) == slow


def test_features_of_a_table_are_built_from_the_yaml_that_is_shown():
    (shown,) = (text for kind, text in blocks(ROOT / "docs" / "data.md") if kind == "yaml")
    features = instantiate(yaml.safe_load(shown))
    assert [f.column for f in features.values()] == ["item_id", "genres", "title", "price"]
    assert all(isinstance(feature, Feature) for feature in features.values())


def test_the_answer_that_is_shown_is_made_of_its_stages(tmp_path):
    (shown,) = (text for kind, text in blocks(ROOT / "docs" / "serving.md") if kind == "yaml")
    file = tmp_path / re.match(r"# (\S+)\n", shown)[1]
    file.parent.mkdir(parents=True)
    file.write_text(shown)
    words = ["--config-dir", "my_conf", "answer=shop"]
    made = build.answer(config_of("launch", words, tmp_path))
    assert [source.count for source in made.candidates.values()] == [300, 50]
    assert made.filter.where == "in_stock and price < 20"
    assert made.fuse.weights == {"retrieval": 1.0, "rating": None}
    assert (made.arrange.at_most, made.arrange.of) == (3, "brand")


def test_questions_over_http_name_columns_and_params_of_the_model():
    asked = [words for _, words in commands() if words[0] == "curl"]
    assert len(asked) == 3
    for words in asked:
        content = json.loads(words[words.index("-d") + 1])
        assert set(content) <= {"dataframe_records", "params"}
        assert set(content.get("params", {})) <= {"k"}
        for row in content["dataframe_records"]:
            assert set(row) <= {"user_id", "item_id", "history", "user_gender"}


def test_the_words_of_metrics_that_fall_are_those_that_are_read():
    sentence = re.search(r"A metric with (.*?)improves as it falls", EXTENDING.read_text(), re.S)[1]
    assert set(re.findall(r"`(\w+)`", sentence)) == LOWER_IS_BETTER


def test_own_parts_of_every_kind_train_in_one_job(own_parts, tmp_path, monkeypatch):
    monkeypatch.chdir(own_parts)
    runpy.run_path("make_plays.py")
    (command,) = (
        words for page, words in commands() if page == EXTENDING.name and "--config-dir" in words
    )
    _, words = of_mtrec(command)
    config = config_of("launch", [*words, "train.epochs=2"], own_parts)
    dataset, parts = load(config.data)
    assert (dataset.num_users, dataset.num_items) == (60, 40)
    history = worker.train(config, dataset, parts, tmp_path, Silent())
    assert history[-1]["train/plays/loss"] < history[0]["train/plays/loss"] + 1
    assert np.isfinite([history[-1][f"train/{head}/loss"] for head in ("retrieval", "plays")]).all()
    assert history[-1]["train/plays/weight"] != 0.5  # the balancer's factor is in it
    run_dir.save_config(config, tmp_path)
    with pytest.raises(UserError, match="my_package"):
        run_dir.load_config(tmp_path)
    saved = run_dir.load_config(tmp_path, trusted=["my_package"])
    run = restore_run(saved, dataset, parts, tmp_path)
    assert type(run.model.heads["plays"]).__module__ == "my_package.heads"
    metrics, _ = stages.evaluate(run)
    assert metrics["test/plays/log_loss"] != metrics["baseline/test/plays/log_loss"]
    index = stages.index(run, "retrieval", instantiate(config.index))
    stages.export(run, index)
    score_pairs = tf.saved_model.load(str(tmp_path / run_dir.MODEL)).signatures["score_pairs"]
    user, songs = "u1", [item.item_id for item in recommend(run, index, "u1", k=3)]
    # The answer's own stages: songs up to a length, long and short ones in turn.
    seconds = dict(zip(dataset.items["song_id"].tolist(), dataset.items["seconds"], strict=True))
    middle = np.nanmedian([*seconds.values()])
    many = [seconds[item.item_id] for item in recommend(run, index, "u1", k=8)]
    short = [seconds[song] < middle for song in seconds if seconds[song] <= 480]
    assert max(many) <= 480 < np.nanmax([*seconds.values()])
    assert sum(short) >= 4
    assert [length > middle for length in many[:4]] in ([True, False] * 2, [False, True] * 2)
    served = score_pairs(user_id=tf.constant([user] * 3), item_id=tf.constant(songs))
    # A rate near the mean of the plays, 2.5, not its logarithm, 0.9.
    plays = dataset.interactions["plays"].mean()
    assert served["plays"].numpy() == pytest.approx(plays, rel=0.5)


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


def test_the_notebook_recommends_ten_titles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [text for path in PAGES for kind, text in blocks(path) if kind == "python"]
    # What trains on data frames is run by tests/jobs/test_notebook.py.
    (_, example) = (text for text in shown if not text.startswith("# "))
    monkeypatch.setattr(movielens, "load", like_movielens)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/extending.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("{'epoch'")]) >= 4
    titles = set(like_movielens().items["movie_title"].tolist())
    recommended = [line.rsplit(" ", 2) for line in lines if not line.startswith("{")]
    assert len(recommended) == 10
    assert {title for title, _, _ in recommended} <= titles
    assert (tmp_path / "my-run" / "metrics.json").is_file()
