"""Every error that previa raises on purpose; each message says where, what was found, what was expected, what to do.

PreviaError
├── InputError (ValueError)       a value handed in is wrong
│   ├── AlphaError                weights of tasks: negative, not summing to one, wrong number
│   ├── ParamsError               tensors missing, extra or misshapen between tasks
│   ├── NotFiniteError            NaN or infinity in parameters, precisions or scores
│   └── PrecisionError            a precision that is not positive
├── FileError (OSError)           a file is missing, truncated, corrupt, or cannot be written
│   └── StoreError                a result store of another study, another schema, or damaged
├── StudyError (ValueError)       a study file says something that previa cannot follow
├── ScoreError (RuntimeError)     a user's score function raised, or returned something that is no score
└── MissingExtraError (ImportError)    an optional dependency is not installed
"""


class PreviaError(Exception):
    """The root of all errors that previa raises on purpose."""


class InputError(PreviaError, ValueError):
    """A value handed in is wrong."""


class AlphaError(InputError):
    """A weighting of the tasks is negative, does not sum to one, or has the wrong number of entries."""


class ParamsError(InputError):
    """Parameters of two models that should match do not: names or shapes differ."""


class NotFiniteError(InputError):
    """NaN or infinity where a finite number is needed."""


class PrecisionError(InputError):
    """A precision that is zero or negative: no posterior has it."""


class FileError(PreviaError, OSError):
    """A file is missing, truncated, corrupt, or cannot be written."""


class StoreError(FileError):
    """A result store belongs to another study, has another schema, or is damaged."""


class StudyError(PreviaError, ValueError):
    """A study file says something that previa cannot follow."""


class ScoreError(PreviaError, RuntimeError):
    """A score function raised, or returned something that is no score."""


class MissingExtraError(PreviaError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
