"""Errors that a user can mend, and those of coding."""


class UserError(Exception):
    """A mistake the user can mend; its message says what was wrong and what would be right."""


class CodingError(Exception):
    """A stream that cannot be coded or decoded; the message says why."""
