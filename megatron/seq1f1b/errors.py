"""Every error a user or another process can cause.

A message says what was asked, the numbers, why it cannot work and what to change. Our own broken
invariants are assertions, not these.
"""


def first_line(error: BaseException) -> str:
    """What an error of another library says, without the source lines and stacks that follow."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Seq1F1BError(Exception):
    """Base of all errors this package raises on purpose."""


class ConfigurationError(Seq1F1BError, ValueError):
    """A combination of options that cannot run; raised while parsing, before processes join."""


class AgreementError(ConfigurationError):
    """Processes that do not run the same code, packages or options; all raise it, with the same words."""


class JoinError(Seq1F1BError, RuntimeError):
    """Processes that did not find each other."""


class PlanError(Seq1F1BError, ValueError):
    """A plan that is incomplete, out of order, mismatched or would deadlock."""


class DataError(Seq1F1BError, ValueError):
    """Input data, an index or a tokenizer that is missing, truncated or inconsistent."""


class ParityError(Seq1F1BError, ArithmeticError):
    """A schedule that does not compute what whole sequences compute; all processes raise it alike."""


class CheckpointError(Seq1F1BError, RuntimeError):
    """A checkpoint that is missing, torn, of another model or newer format, or cannot be written."""


class NewerFormatError(CheckpointError):
    """A checkpoint that a newer release wrote, which an older one must not pass over."""


class SaveError(CheckpointError):
    """A checkpoint that some process could not write; all processes raise it with the same words."""


class DamageError(CheckpointError):
    """Checkpoints that are not what was written; all processes raise it with the same words."""


class BackendError(Seq1F1BError, ValueError):
    """An attention backend that cannot serve what was asked; the message names one that can."""


class StepError(Seq1F1BError, RuntimeError):
    """A step that ended with buffers still held, or an action that found its input missing."""


class NotFiniteError(StepError):
    """A loss or gradient that is no finite number; all processes raise it with the same words."""
