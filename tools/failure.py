"""The error that users read."""


class Failure(Exception):
    """What failed, for which thing, why; then what to do."""
