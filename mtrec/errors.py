"""The one exception that stands for a user's mistake, and the one for a job asked to stop."""

import math
import re


class UserError(Exception):
    """Something the user can put right: bad data, a bad option, a missing file.

    Its message is one sentence that states the rule, the value received and the remedy. The
    commands print it without a traceback and exit with status 1.
    """


def user_error(error: BaseException) -> UserError | None:
    """The `UserError` that an exception is, was raised from, or amounts to; None for any other.

    Hydra wraps what the constructor of a `_target_` raises; that it does not take an option, or is
    not there, is the user's mistake as well.
    """
    from hydra.errors import InstantiationException

    if isinstance(error, UserError):
        return error
    cause = error.__cause__
    wrapped = isinstance(error, InstantiationException)
    foreign = re.search(r"(\w+)\.__init__\(\) got an .* argument '(\w+)'", str(cause))
    if wrapped and foreign:
        return UserError(
            f"`{foreign[2]}` must be an option that its _target_ takes, and {foreign[1]} has none. "
            "Leave it out."
        )
    if wrapped and str(error).startswith("Error locating target"):
        return UserError(
            f"a _target_ must be what can be imported; got: {said(cause or error)} "
            "Correct its name."
        )
    if wrapped and isinstance(cause, TypeError | ValueError):
        why = said(cause)
        if why.startswith("Can't instantiate abstract class"):
            return UserError(f"a _target_ must have what is asked of its kind; {why}. Write it.")
        return UserError(f"options must be those that their _target_ takes: {why}. Correct them.")
    return user_error(cause) if cause else None


def said(error: BaseException) -> str:
    """What an exception says, as one line."""
    return " ".join(str(error).split())


def require(
    name: str,
    value: float,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Refuses a number that is not finite, or not in its range.

    Args:
        name: What the number is called, as the message's subject.
        value: The number.
        least: It must not be lower.
        above: It must be higher.
        most: It must not be higher.
        below: It must be lower.

    Raises:
        UserError: Naming the rule and the number.
    """
    if math.isfinite(value) and least <= value <= most and above < value < below:
        return
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    rules = [f"{how} {bound:g}" for how, bound in bounds.items() if math.isfinite(bound)]
    raise UserError(f"{name} must be {' and '.join(rules) or 'finite'}; got {value}.")


class PreemptedError(Exception):
    """Training was asked to stop (SIGTERM) and has left a checkpoint to go on from."""
