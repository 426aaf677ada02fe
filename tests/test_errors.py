"""A user's mistake is found wherever it was wrapped."""

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from mtrec.errors import UserError, user_error
from mtrec.serving.answers.fuse import Fusion


class Refusing:
    """What cannot be made."""

    def __init__(self) -> None:
        raise UserError("dim must be positive.")


def test_a_mistake_that_hydra_wrapped_is_found() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"_target_": f"{__name__}.Refusing"})
    assert str(user_error(raised.value)) == "dim must be positive."


def test_an_option_that_its_target_does_not_take_is_a_mistake() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"_target_": f"{__name__}.Refusing", "dims": 3})
    assert str(user_error(raised.value)) == (
        "`dims` must be an option that its _target_ takes, and Refusing has none. Leave it out."
    )


def test_options_that_a_foreign_target_refuses_are_a_mistake() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"_target_": "keras.optimizers.Adam", "momentum": 3})
    assert "Argument(s) not recognized: {'momentum': 3}" in str(user_error(raised.value))
    with pytest.raises(InstantiationException) as raised:
        instantiate({"_target_": "mtrec.Numeric"})
    assert "missing 1 required" in str(user_error(raised.value))


def test_a_target_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"inner": {"_target_": "mtrec.Nothing"}})
    assert "a _target_ must be what can be imported" in str(user_error(raised.value))
    assert "'mtrec.Nothing'" in str(user_error(raised.value))


def test_a_mistake_is_itself_and_another_error_is_none() -> None:
    mistake = UserError("no")
    assert user_error(mistake) is mistake
    assert user_error(ValueError("no")) is None
    # Raised while a mistake was handled, not from it.
    another = KeyError("k")
    another.__context__ = mistake
    assert user_error(another) is None


class Unfinished(Fusion):
    """A part of one's own that lacks what is asked of all of its kind."""


def test_a_part_that_lacks_a_method_is_told_so_and_no_option_is_blamed() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"_target_": f"{__name__}.Unfinished"})
    told = str(user_error(raised.value))
    assert told.startswith("a _target_ must have what is asked of its kind; Can't instantiate")
    assert "Unfinished" in told
    assert "combined" in told
