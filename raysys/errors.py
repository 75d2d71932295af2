"""Every exception that raysys raises on purpose.

A message says what was found, what was expected, where, and what to do. Each class takes one string, so that
an error raised on a worker survives the trip to the driver unchanged.
"""


class RaysysError(Exception):
    """The parent of all raysys errors."""


class ConfigError(RaysysError):
    """A run file, an override or a command line asks for something that cannot be."""


class SchemaError(RaysysError):
    """A table has a missing column, a column of the wrong type, or a feature nobody declared."""


class DataError(RaysysError):
    """The rows themselves are unusable: unreadable file, too many rejected rows, an empty split."""


class ManifestError(RaysysError):
    """A folder is missing, unfinished, of another version, or made from other inputs than this run's."""


class StorageError(RaysysError):
    """An object store gives no answer in as many tries as it is given."""


class TrainingError(RaysysError):
    """Training cannot go on, for example because the loss is not finite."""


class RetrievalError(RaysysError):
    """An index cannot give a complete answer, for example because a shard stays away."""


USER_ERRORS: tuple[type[RaysysError], ...] = (ConfigError, SchemaError, DataError, ManifestError)
"""Errors that the user can mend; a job ends with exit code 2 on them and with 1 on everything else."""
