"""The error that a person reads."""


class Failure(Exception):
    """What failed, for which thing, why; then what to do."""
