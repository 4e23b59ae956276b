"""The error that a user can mend. It lies at the lowest floor so that every part of the package can raise it."""


class UserError(ValueError):
    """Wrong input or surroundings, not a bug: the message alone must be enough to put it right.

    It says what is wrong, where, what was got, and what is needed or to be done. The command line prints it as one
    line and exits with code 2.
    """
