"""Error types: each error states what failed, the consequence, and the fix.

Every error that a user can cause is a `MienError` with three parts:

* `what`: the file, key or option that failed, and the value that was found. It starts with the name.
* `follows`: the consequence for the run, as a full sentence.
* `remedy`: the fix, as a full sentence with the command or the edit.

    raise ConfigError(
        f"{path}:{line}: {label!r} is not a class of the corpus",
        follows="Nothing was written.",
        remedy=f"Use one of {', '.join(classes)}.",
    )

The command line prints it without a traceback and ends with the error's exit code:

    error  labels.csv:4: 'angry' is not a class of the corpus
           Nothing was written.
           try  Use one of Neutral, Anger.
"""

from __future__ import annotations


class MienError(Exception):
    """Base class of all errors that a user can cause.

    Args:
        what: what failed: the file, key or option, and the value found.
        follows: the consequence: "Nothing was written.", "The other 3 inputs were finished."
        remedy: the fix: "Use --out FOLDER.", "Run `mien hub pull facemesh`."

    Attributes:
        exit_code: of the command line: 1 for an input that failed, 2 for usage and configuration.
    """

    exit_code = 1

    def __init__(self, what: str, *, follows: str = "", remedy: str = "") -> None:
        self.what, self.follows, self.remedy = what, follows, remedy
        super().__init__("\n".join(part for part in (what, follows, remedy) if part))

    def record(self) -> dict[str, str]:
        """The error as JSON values: `type` (name of the class), `what`, `follows`, `remedy`."""
        return {"type": type(self).__name__, "what": self.what, "follows": self.follows, "remedy": self.remedy}


class MediaError(MienError):
    """A media file cannot be read: it is missing, empty, not media, too large, or its codec is unknown."""


class ArtefactError(MienError):
    """A downloaded network or file is missing, damaged, or differs from its pinned hash."""


class OutputError(MienError):
    """A result cannot be written: no permission, a full disk, or a path that is already taken."""


class CorpusError(MienError):
    """A corpus does not follow its documented layout."""


class ConfigError(MienError):
    """A recipe, option or checkpoint cannot be used as given."""

    exit_code = 2


class ServerError(MienError):
    """A mien server cannot be reached, refuses a request, or could not finish a job."""
