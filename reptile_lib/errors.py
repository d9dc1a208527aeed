"""The one exception that means: the input is wrong, not the library."""


class UserError(ValueError):
    """A mistake the caller can mend.

    The message is one line that names the value at fault and the remedy. The
    command line prints it without a traceback and exits with status 2.
    """

    alone = False
    """Whether of several processes this one may be the only one to fail."""
