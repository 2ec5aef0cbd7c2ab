"""The errors a user can cause. Each message says what happened, where, and what to do.

The CLI prints the message alone and exits with 2, or with 3 for an UnexpectedError.
"""


class ReconError(Exception):
    """Base of every error whose message is meant for the user."""


class SourceError(ReconError):
    """The input cannot be read: missing path, no images, a file that is not a video."""


class OutputError(ReconError):
    """The output folder cannot be written: it exists, is read-only, or its disk is full."""


class SettingsError(ReconError):
    """An option has a value that cannot work, alone or with another."""


class ResourceError(ReconError):
    """The run would not fit into this machine's memory or disk."""


class ReconstructionError(ReconError):
    """The frames were read, but no geometry could be estimated from them."""


class InsaneMapError(ReconstructionError):
    """The estimated poses cannot belong to a real scene."""


class MapError(ReconError):
    """A map folder is missing, damaged, unfinished, or of another version."""


class DependencyError(ReconError):
    """A package, system library or weight file that the command needs is not installed."""


class WeightsError(ReconError):
    """A weight file is damaged, unsafe, or of another network."""


class UnexpectedError(ReconError):
    """A run ended in an unexpected error, its cause. Finished work is kept."""
