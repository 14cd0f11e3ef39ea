"""Submission files of the ABAW challenges EXPR and VA on Aff-Wild2: writer and validator.

An EXPR file has the header `image_location,Neutral,...,Other` and rows of two fields, `video/00001.jpg,3`. A VA file
has the header `image_location,valence,arousal` and rows of three fields. The official sample file defines the rows and
their order. Fields are not quoted, and every row has a prediction.
"""

from mien.submission.issues import ERROR, WARNING, Issue
from mien.submission.template import EXPR, VA, Template, read_sample
from mien.submission.validate import validate
from mien.submission.write import SubmissionReport, write_expr, write_va

__all__ = [
    "ERROR",
    "EXPR",
    "VA",
    "WARNING",
    "Issue",
    "SubmissionReport",
    "Template",
    "read_sample",
    "validate",
    "write_expr",
    "write_va",
]
