"""Submission files of the ABAW challenges: writer and validator.

An EXPR file has the header `image_location,Neutral,...,Other` and rows of two fields, `video/00001.jpg,3`; so has a CE
file (compound expressions), with its seven classes. A VA file has the header `image_location,valence,arousal` and rows
of three fields; an AU file (action units) has twelve columns of 0 and 1. An EMI file (Emotional Mimicry Intensity) has
the header `Filename,Admiration,...,Joy` and one row for each clip, with six numbers in [0, 1]. The official sample file
defines the rows and their order. Fields are not quoted, and every row has a prediction.
"""

from mien.submission.issues import ERROR, WARNING, Issue
from mien.submission.template import AU, CE, EMI, EXPR, VA, Template, read_sample
from mien.submission.validate import validate
from mien.submission.write import SubmissionReport, write_au, write_ce, write_emi, write_expr, write_va

__all__ = [
    "AU",
    "CE",
    "EMI",
    "ERROR",
    "EXPR",
    "VA",
    "WARNING",
    "Issue",
    "SubmissionReport",
    "Template",
    "read_sample",
    "validate",
    "write_au",
    "write_ce",
    "write_emi",
    "write_expr",
    "write_va",
]
