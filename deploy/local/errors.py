"""The one error of the local stack: a single line that says what is wrong and what to do about it."""


class StackError(Exception):
    """Shown to the user as it is, without a traceback."""
