"""The one error shape of the house: what happened, the value, what follows, what to do.

Every error a user can cause is a `MienError`; the command line prints it without a traceback and turns it
into an exit code (1 for an input that failed, 2 for usage and configuration).
"""

from __future__ import annotations


class MienError(Exception):
    """An error that teaches.

    Args:
        what: what is wrong, naming the file or key and the value seen.
        follows: what that means for the run ("nothing was written", "the other 3 inputs were finished").
        remedy: what to do, as a command or an edit where there is one.
    """

    exit_code = 1

    def __init__(self, what: str, *, follows: str = "", remedy: str = "") -> None:
        self.what, self.follows, self.remedy = what, follows, remedy
        super().__init__("\n".join(part for part in (what, follows, remedy) if part))


class MediaError(MienError):
    """A media file that cannot be read: missing, empty, not media, unreadable codec, too large."""


class ArtefactError(MienError):
    """A network or file from outside that is missing, damaged, or not what was pinned."""


class OutputError(MienError):
    """A result that cannot be written: no permission, full disk, a name that is taken."""


class CorpusError(MienError):
    """A corpus that is not what its layout promises."""


class ConfigError(MienError):
    """A recipe, option or checkpoint that cannot be used as given."""

    exit_code = 2
