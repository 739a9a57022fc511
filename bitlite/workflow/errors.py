"""Errors that are for the user."""


class InputError(ValueError):
    """What the user gave can't be used. The message says which key or file, what happened and what to do."""
