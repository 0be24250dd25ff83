"""The one exception that stands for a user's mistake."""


class InputError(Exception):
    """Something the user gave is wrong: the message says what, where and what to do, in one line.

    The command line prints it and exits with 2; nothing else in the two packages catches it.
    """


class Busy(InputError):
    """Another build is writing the same output."""
