"""Script that a test kills: extract an index with a slow encoder in two worker processes.

usage: python extract_in_workers.py INDEX STORE
"""

from __future__ import annotations

import sys
from pathlib import Path

from mien.datasets.index import Index
from mien.extract import extract

if __name__ == "__main__":
    extract(Index.load(Path(sys.argv[1])), ["tests.extract.toy_encoders:Loud=slow"], sys.argv[2], workers=2)
