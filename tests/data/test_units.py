"""How likely a unit brings what, by hand where a user took an item more than once."""

import numpy as np
import pytest
from small_data import all_rows, written_out

from mtrec.data.histories import Histories
from mtrec.data.units import Units

# User 1 takes item 1, item 2, and item 1 again; user 2 takes item 2.
DATA = written_out([(1, 1, 3, 1), (1, 2, 3, 2), (1, 1, 3, 3), (2, 2, 3, 1)], num_items=4)
# Item 3 is given with all three of user 1.
GIVEN = np.array([3, 3, 3, 0])


def brought(given, *, batch_of, chronological, repeats=False):
    histories = Histories.of(DATA, all_rows(DATA))
    how = {"batch_of": batch_of, "chronological": chronological, "repeats": repeats}
    units = Units(histories, history_share=0.6, **how)
    (found,) = units.brings(given)
    return sorted(zip(found.item.tolist(), found.share.tolist(), strict=True))


@pytest.mark.parametrize(
    ("given", "chronological", "expected"),
    [
        # An item is a target once, however often it was taken.
        (None, False, [(1, 0.4), (2, 0.4), (2, 0.4)]),
        # Given with two items, each a target or not.
        (GIVEN, False, [(1, 0.4), (2, 0.4), (2, 0.4), (3, 1 - 0.6 * 0.6)]),
        # The first target is one of two, and what the user takes again is none after the second.
        (None, True, [(1, 1 / 2), (2, 1.0), (2, 1.0)]),
        (GIVEN, True, [(1, 1 / 2), (2, 1.0), (2, 1.0), (3, 1.0)]),
        (np.array([3, 0, 0, 0]), True, [(1, 1 / 2), (2, 1.0), (2, 1.0), (3, 1 / 2)]),
    ],
)
def test_what_a_user_brings_is_hand_worked(given, chronological, expected):
    found = brought(given, batch_of="users", chronological=chronological)

    assert [item for item, _ in found] == [item for item, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # The first target is one of three: item 1 comes last, item 2 with two of the three moments.
        (None, [(1, 1.0), (2, 2 / 3), (2, 1.0)]),
        (np.array([3, 0, 0, 0]), [(1, 1.0), (2, 2 / 3), (2, 1.0), (3, 1 / 3)]),
    ],
)
def test_what_a_user_who_takes_items_again_brings_is_hand_worked(given, expected):
    found = brought(given, batch_of="users", chronological=True, repeats=True)

    assert [item for item, _ in found] == [item for item, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=1e-12)


@pytest.mark.parametrize("chronological", [False, True])
def test_a_row_brings_its_target_and_what_is_given_with_it_for_certain(chronological):
    found = brought(GIVEN, batch_of="rows", chronological=chronological)

    assert found == [(item, 1.0) for item in (1, 1, 2, 2, 3, 3, 3)]
