"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """Something the user can put right: bad data, a bad option, a missing file.

    Its message is one sentence that states the rule, the value received and the remedy. The
    commands print it without a traceback and exit with status 1.
    """


class PreemptedError(Exception):
    """Training was asked to stop (SIGTERM) and has left a checkpoint to go on from."""
