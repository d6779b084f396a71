"""Every exception that nstcore raises on purpose.

    NstcoreError                 anything below; `exit_code` is what the command line ends with
    |-- UsageError      (2)      what was asked for cannot be done; nothing was computed, nothing was written
    |   |-- OptionError          an option's value, or a combination of options
    |   |   `-- TooLarge         a picture that does not fit the memory
    |   |-- LayerError           a layer that the network does not have, or that the picture is too small for
    |   |-- ShapeError           arrays whose shapes do not fit together
    |   |-- PictureError         a file that is no picture, or one that cannot be used
    |   |-- WeightsError         a weights file that is missing, damaged, foreign or incomplete
    |   |-- OutputError          a place where nothing can be written
    |   |   `-- Occupied         one that another process is writing to
    |   |-- SnapshotError        a snapshot that is damaged, or of other settings or weights
    |   `-- DeviceError          a device, precision or library that is not there
    `-- RunError        (1)      the work began and could not be finished
        `-- NotFinite            a loss or a gradient became infinite or not a number

    KeyboardInterrupt            no error
    `-- Stopped (130, 143, 129)  Ctrl-C, SIGTERM, SIGHUP, before there was anything to keep

A message is one line that says what was expected, what came, and the way out.
"""

INTERRUPTED = 130  # exit code after Ctrl-C; after another signal it is 128 and the signal's number


class NstcoreError(Exception):
    """Base of all; `str(error)` is one line for a person."""

    exit_code = 1


class UsageError(NstcoreError):
    """What was asked for cannot be done."""

    exit_code = 2


class OptionError(UsageError, ValueError):
    """An option's value, or a combination of options, makes no sense."""


class TooLarge(OptionError):
    """A picture that does not fit the memory at hand."""


class LayerError(UsageError, LookupError):
    """No such layer, or the picture is too small to reach it."""


class ShapeError(UsageError, ValueError):
    """Arrays whose shapes do not fit together."""


class PictureError(UsageError):
    """Not a picture, or one that cannot be used."""


class WeightsError(UsageError):
    """A weights file that is missing, damaged, foreign or incomplete."""


class OutputError(UsageError):
    """A place where nothing can be written."""


class Occupied(OutputError):
    """A place that another process is writing to."""


class SnapshotError(UsageError):
    """A snapshot that is missing, damaged, or of other settings or weights."""


class DeviceError(UsageError):
    """A device, a precision or a library that this machine does not have."""


class RunError(NstcoreError):
    """The work began and could not be finished."""


class NotFinite(RunError):
    """A loss or a gradient became infinite or not a number."""


class Stopped(KeyboardInterrupt):
    """A signal ended the work before there was anything to keep; `exit_code` is 128 and the signal's number."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code
