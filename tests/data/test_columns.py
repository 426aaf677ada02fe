"""Texts and bags cost what they hold, beyond 2 GiB too, and are rows of a table like numbers."""

import pickle
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from mtrec.data.columns import Bags, Texts, held, of_parts, parts_of, with_unknown
from mtrec.data.files import Files
from mtrec.data.vocabulary import Vocabulary

WORDS = ["", "Amélie", "x,y", "", "日本"]
TAGS = [["a", "b"], [], ["b"], ["c", "a", "b"]]


def test_texts_are_indexed_as_an_array_is():
    texts, array = held(np.array(WORDS)), np.array(WORDS, object)

    assert isinstance(texts, Texts)
    assert texts[1] == "Amélie"
    assert texts[-1] == "日本"
    for rows in (slice(1, 4), slice(None, None, -1), [3, 1, 1], np.array([0, 4]), array != ""):
        assert texts[rows].tolist() == array[rows].tolist()
        # A part of a part counts from its own start.
        assert texts[rows][1:].tolist() == array[rows][1:].tolist()
    assert texts[2:2].tolist() == []
    np.testing.assert_array_equal(texts, array)
    with pytest.raises(IndexError):
        texts[5]


def test_bags_are_indexed_as_an_array_is():
    bags = held(TAGS)

    assert isinstance(bags, Bags)
    assert bags.tolist() == TAGS
    assert bags[3] == ["c", "a", "b"]
    assert bags[[3, 1, 0]].tolist() == [TAGS[3], [], TAGS[0]]
    assert bags[1:3].tolist() == [[], ["b"]]
    assert bags.shape == (4, 3)


def test_blank_and_missing_labels_are_none():
    padded = np.array([["a", ""], ["", ""]])
    assert held(padded).tolist() == [["a"], []]
    lists = pa.chunked_array([pa.array([[" a ", None, " "], None]), pa.array([["b"]])])
    assert Bags.of_arrow(lists).tolist() == [["a"], [], ["b"]]


@pytest.mark.parametrize("values", [WORDS, TAGS])
def test_the_unknown_comes_first_and_the_parts_make_the_column_again(values):
    column = with_unknown(held(values))

    assert column.tolist() == [type(values[0])(), *values]
    assert of_parts(parts_of(column[2:])).tolist() == values[1:]
    assert pickle.loads(pickle.dumps(column)).tolist() == column.tolist()


def test_a_vocabulary_follows_the_first_appearance_in_bags():
    bags = held(TAGS)[[3, 0]]

    assert Vocabulary(bags).rows(["c", "a", "b", "d"]).tolist() == [1, 2, 3, 0]


def test_one_long_text_costs_its_own_length(tmp_path):
    names = ["x" * 20_000, *(f"item {number}" for number in range(1999))]
    rows = "".join(f"{number},{name}\n" for number, name in enumerate(names))
    (tmp_path / "items.csv").write_text("item_id,name\n" + rows)
    files = Files.of(str(tmp_path / "items.csv"), option="items")  # and what it imports
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    try:
        columns = files.whole().features(without="item_id", texts=[], bags=[], separator="|")
        name = with_unknown(columns["name"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # 2,000 cells of 20,000 characters, four bytes each, would be 160 MB.
    assert name[1] == names[0]
    assert sum(part.nbytes for part in name.parts().values()) == sum(map(len, names)) + 8 * 2002
    assert peak + pa.total_allocated_bytes() - before < 1_000_000


def test_a_bag_of_500_labels_costs_500_labels():
    bags = held([[f"t{tag}" for tag in range(500 if row == 7 else 2)] for row in range(2000)])

    assert len(bags.codes) == 500 + 1999 * 2
    assert len(bags.labels) == 500


def test_texts_of_more_than_2_gib_are_read_where_they_are(tmp_path):
    """A sparse file, of which three bytes are on the disk."""
    size = 2**31 + 3
    data = np.memmap(tmp_path / "data", np.uint8, "w+", shape=size)
    data[-3:] = list(b"end")
    texts = Texts(np.array([0, size - 3, size]), data)

    assert texts[1] == "end"
    assert texts[[1, 1]].tolist() == ["end", "end"]
    assert with_unknown(texts)[2] == "end"
    assert with_unknown(texts)[2:].arrow().to_pylist() == ["end"]
