"""Errors that a user can mend."""


class UserError(Exception):
    """A mistake the user can mend; its message says what was wrong and what would be right."""
