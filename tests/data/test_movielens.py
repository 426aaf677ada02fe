"""MovieLens from tiny made-up copies through TensorFlow Datasets' own builders."""

import hashlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from mtrec.data import movielens, sources
from mtrec.data.movielens_tfds import original_order
from mtrec.errors import UserError

FLAGS = "|".join("0" * 19)
FOLDERS = {
    "100k": {
        "u.data": "196\t242\t3\t881250949\n5\t10\t1\t875000000\n196\t10\t5\t881250950\n"
        "12\t2\t4\t880000000\n",
        "u.item": f'2|Babe, "Le Cochon" (1995)||||{FLAGS.replace("0", "1", 3)}\n'
        f"10|unknown||||1|{FLAGS[2:]}\n"
        f"242|Kolya (1996) (V)||||{FLAGS[:-1]}1\n"
        f"7|Never Rated (1971)||||{FLAGS[:-1]}1\n",
        "u.user": "5|33|F|other|V3N4P\n12|17|M|student|02139\n196|49|M|writer|55105\n",
    },
    "1m": {
        "ratings.dat": "1::1193::5::978300760\n1::2::3::978300761\n2::2::1::978300762\n",
        "movies.dat": "2::Jumanji (1995)::Adventure|Children's\n1193::Nest (1975)::Drama\n",
        "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    },
    "latest-small": {
        "ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.5,964982703\n2,3,0.5,964982704\n",
        "movies.csv": "movieId,title,genres\n1,Toy Story (1995),Animation|Children\n"
        '3,"Note, The (2006–2007)",(no genres listed)\n',
    },
}


def folder_of(tmp_path, variant):
    folder = tmp_path / "copy" / variant
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FOLDERS[variant].items():
        encoding = "utf-8" if name.endswith(".csv") else "iso-8859-1"
        (folder / name).write_text(text, encoding=encoding)
    return str(folder)


@pytest.fixture
def offline(monkeypatch):
    """Puts every place but the local ones out of reach."""

    def refuse(*_):
        raise sources.SourceError("out of reach")

    monkeypatch.setattr(sources, "from_grouplens", refuse)
    monkeypatch.setattr(sources, "from_recbole", refuse)


def load(tmp_path, variant, *, data_dir=None, archive=None):
    cache_dir = str(tmp_path / "cache")
    return movielens.load(variant=variant, data_dir=data_dir, archive=archive, cache_dir=cache_dir)


def test_100k_has_the_published_rows_and_every_column(tmp_path, capfd):
    data = load(tmp_path, "100k", archive=folder_of(tmp_path, "100k"))

    users, items, rows = data.users, data.items, data.interactions
    assert users["user_id"].tolist() == ["", "5", "12", "196"]
    assert users["user_gender"].tolist() == ["", "F", "M", "M"]
    assert users["user_occupation"].tolist() == ["", "other", "student", "writer"]
    np.testing.assert_array_equal(users["user_age"], np.float32([np.nan, 33, 17, 49]))
    assert users["user_zip_code"].tolist() == ["", "V3N4P", "02139", "55105"]
    assert items["movie_id"].tolist() == ["", "2", "7", "10", "242"]
    assert items["movie_title"].tolist() == [
        "",
        'Babe, "Le Cochon" (1995)',
        "Never Rated (1971)",
        "unknown",
        "Kolya (1996) (V)",
    ]
    assert items["movie_genres"].tolist() == [
        [],
        ["Unknown", "Action", "Adventure"],
        ["Western"],
        ["Unknown"],
        ["Western"],
    ]
    np.testing.assert_array_equal(
        items["movie_year"], np.float32([np.nan, 1995, 1971, np.nan, 1996])
    )
    assert rows["user"].tolist() == [3, 1, 3, 2]
    assert rows["item"].tolist() == [4, 3, 3, 1]
    assert rows["rating"].tolist() == [3, 1, 5, 4]
    assert rows["timestamp"].tolist() == [881250949, 875000000, 881250950, 880000000]
    assert {name: column.dtype.name for name, column in rows.items()} == {
        "user": "int32",
        "item": "int32",
        "rating": "float32",
        "timestamp": "int64",
    }
    assert (data.name, data.rating_scale) == ("movielens_100k", (1.0, 5.0))
    printed = capfd.readouterr()
    assert printed.out == f"movielens_100k from {data.source}: 4 ratings\n"
    assert printed.err == ""


def test_1m_has_age_groups_and_children_without_the_s(tmp_path):
    data = load(tmp_path, "1m", archive=folder_of(tmp_path, "1m"))

    np.testing.assert_array_equal(data.users["user_age"], np.float32([np.nan, 1, 56]))
    assert data.users["user_occupation"].tolist() == ["", "K-12 student", "self-employed"]
    assert data.items["movie_genres"].tolist() == [
        [],
        ["Adventure", "Children"],
        ["Drama"],
    ]
    assert data.interactions["item"].tolist() == [2, 1, 1]


def test_latest_small_has_half_stars_and_no_columns_of_users(tmp_path, monkeypatch):
    aside = tmp_path / "temporary"
    aside.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(aside))
    data = load(tmp_path, "latest-small", archive=folder_of(tmp_path, "latest-small"))

    assert list(data.users) == ["user_id"]
    assert data.interactions["rating"].tolist() == [4.5, 0.5]
    assert data.rating_scale == (0.5, 5.0)
    np.testing.assert_array_equal(data.items["movie_year"], np.float32([np.nan, 1995, 2006]))
    assert not list(aside.iterdir()), "what TensorFlow Datasets leaves"


def test_a_prepared_directory_gives_the_same_columns(tmp_path):
    import tensorflow_datasets as tfds

    archive = folder_of(tmp_path, "100k")
    for table in ("ratings", "movies"):
        builder = tfds.builder(f"movielens/100k-{table}", data_dir=tmp_path / "tfds")
        examples = builder._generate_examples(dir_path=archive)
        builder._split_generators = lambda _, examples=examples: {"train": examples}
        builder.download_and_prepare()

    prepared = load(tmp_path, "100k", data_dir=str(tmp_path / "tfds"), archive="not needed")

    assert prepared.source == f"data_dir={tmp_path / 'tfds'}"
    assert prepared.digest == load(tmp_path, "100k", archive=archive).digest


def test_the_second_call_imports_neither_tensorflow_nor_its_datasets(tmp_path):
    archive = folder_of(tmp_path, "latest-small")
    digest = load(tmp_path, "latest-small", archive=archive).digest
    program = (
        "import sys\n"
        "from mtrec.data import movielens\n"
        f"data = movielens.load(variant='latest-small', data_dir=None, archive={archive!r}, "
        f"cache_dir={str(tmp_path / 'cache')!r})\n"
        "print(data.digest, {'tensorflow', 'tensorflow_datasets'} & set(sys.modules))\n"
    )

    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    assert answer.stdout == f"{digest} set()\n"


def test_a_changed_copy_is_read_again(tmp_path):
    archive = folder_of(tmp_path, "latest-small")
    before = load(tmp_path, "latest-small", archive=archive)
    with open(f"{archive}/ratings.csv", "a") as file:
        file.write("2,1,3.0,964982705\n")

    after = load(tmp_path, "latest-small", archive=archive)

    assert (len(before.interactions["user"]), len(after.interactions["user"])) == (2, 3)


def test_every_place_is_named_when_none_has_the_data(tmp_path, offline, capsys):
    torn = tmp_path / "torn.zip"
    torn.write_text("no zip")

    with pytest.raises(UserError) as raised:
        load(tmp_path, "100k", archive=str(torn))

    outcomes = [
        f"archive={torn}: not a zip that can be read (File is not a zip file)",
        "GroupLens: out of reach",
        "the recbole==1.2.1 wheel: out of reach",
    ]
    assert "; ".join(outcomes) in str(raised.value)
    assert "`mtrec.load_synthetic`" in str(raised.value)
    assert capsys.readouterr().out.splitlines() == [
        "movielens_100k from " + outcome for outcome in outcomes
    ]


@pytest.mark.parametrize("option", ["archive", "data_dir"])
def test_a_copy_that_is_not_there_is_refused_though_another_is_kept(tmp_path, option):
    load(tmp_path, "latest-small", archive=folder_of(tmp_path, "latest-small"))

    with pytest.raises(UserError, match=f"got `{option}`=nowhere, where it is not"):
        load(tmp_path, "latest-small", **{option: "nowhere"})


def test_a_malformed_copy_is_an_outcome_and_not_a_crash(tmp_path, offline):
    archive = folder_of(tmp_path, "1m")
    with open(f"{archive}/ratings.dat", "a") as file:
        file.write("2::9999::1::978300763\n")  # a movie that movies.dat lacks

    with pytest.raises(UserError, match="TensorFlow Datasets could not read it"):
        load(tmp_path, "1m", archive=archive)


def test_rows_in_another_order_than_the_published_one_are_refused(tmp_path, offline, monkeypatch):
    shifted = "mtrec.data.movielens_tfds.original_order"
    monkeypatch.setattr(shifted, lambda rows: np.roll(original_order(rows), 1))

    with pytest.raises(UserError, match="could not be put back into the order"):
        load(tmp_path, "100k", archive=folder_of(tmp_path, "100k"))


def test_an_unknown_variant_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"`variant` must be one of .*; got '20m'"):
        load(tmp_path, "20m")


def test_the_original_order_undoes_a_sort_by_hash():
    keys = sorted(range(50), key=lambda key: hashlib.md5(f"train{key}".encode()).hexdigest())

    assert np.array(keys)[original_order(50)].tolist() == list(range(50))


@pytest.mark.slow
def test_the_real_100k_comes_through_the_package_index(tmp_path):
    data = load(tmp_path, "100k")

    rows = data.interactions
    assert (data.num_users, data.num_items, len(rows["user"])) == (943, 1682, 100_000)
    assert data.users["user_id"][rows["user"][0]] == "196"
    assert data.items["movie_id"][rows["item"][0]] == "242"
    assert (rows["rating"][0], rows["timestamp"][0]) == (3, 881250949)
    assert data.items["movie_title"][267] == "unknown"
    # A figure of the published copy: the mean of all ratings.
    assert rows["rating"].astype(np.float64).mean() == pytest.approx(3.52986)
    assert data.digest == "f99552a73ae5792b9240c3e2135412f96a8adf70841cdc01261ab641cda1189e"
