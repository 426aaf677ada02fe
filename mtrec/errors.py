"""The one exception that stands for a user's mistake, and the one for a job asked to stop."""


class UserError(Exception):
    """Something the user can put right: bad data, a bad option, a missing file.

    Its message is one sentence that states the rule, the value received and the remedy. The
    commands print it without a traceback and exit with status 1.
    """


def user_error(error: BaseException) -> UserError | None:
    """The `UserError` that an exception is, was raised from, or amounts to; None for any other.

    Hydra wraps what the constructor of a `_target_` raises; that it does not take an option is the
    user's mistake as well.
    """
    from hydra.errors import InstantiationException

    if isinstance(error, UserError):
        return error
    cause = error.__cause__
    wrapped = isinstance(error, InstantiationException)
    if wrapped and isinstance(cause, TypeError) and "keyword argument" in str(cause):
        return UserError(f"an option must be one that its _target_ takes: {cause}. Leave it out.")
    return user_error(cause) if cause else None


class PreemptedError(Exception):
    """Training was asked to stop (SIGTERM) and has left a checkpoint to go on from."""
