"""ABAW submission files for Aff-Wild2's EXPR and VA challenges: written, and checked before they are sent.

An EXPR file has the header `image_location,Neutral,...,Other` and rows of two fields, `video/00001.jpg,3`; a VA
file has the header `image_location,valence,arousal` and rows of three. Which rows there are, and their order, is
what the official sample file says (PAPERS §0). Nothing is quoted and no row is left unanswered.
"""

from mien.submission.issues import ERROR, WARNING, Issue
from mien.submission.template import EXPR, VA, Template, read_sample
from mien.submission.validate import validate
from mien.submission.write import Written, write_expr, write_va

__all__ = [
    "ERROR",
    "EXPR",
    "VA",
    "WARNING",
    "Issue",
    "Template",
    "Written",
    "read_sample",
    "validate",
    "write_expr",
    "write_va",
]
