"""Errors that a user can mend, and those of coding.

Messages speak of what Python calls take. Where a command has a flag that helps, it says so itself:
of the kinds of errors below, with `cli.advising`.
"""


class UserError(Exception):
    """A mistake the user can mend; its message says what was wrong and what would be right."""


class CodingError(Exception):
    """A stream that cannot be coded or decoded; the message says why."""


class FolderTaken(UserError):
    """A folder belongs to another run, or another process works there."""


class NotInZoo(UserError):
    """A file was written by a model that is not in the zoo."""


class OutOfReach(UserError):
    """No file of an image meets a target."""


class ConversionError(UserError):
    """A network that has no faithful integer form; the message names the layer."""


class NotLocal(UserError):
    """A layer's outputs depend on the whole image; the message names the layer."""
