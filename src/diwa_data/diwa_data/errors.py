"""The one error that users see."""


class DiwaError(Exception):
    """Something the user can act on: the message names the value and the cure.

    The command line prints it without a traceback and exits with status 2.
    """
