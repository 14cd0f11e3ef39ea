"""Write 10 MB into a store while files of this process are limited to 300 kB, and print the error."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np

from mien.errors import OutputError
from mien.store import FeatureStore

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    try:
        with FeatureStore(Path(sys.argv[1])).writer("tiny", "b", dim=256, provenance={}) as writer:
            for i in range(100):
                writer.append(np.zeros((100, 256)), np.arange(100) + 100.0 * i, np.ones(100, bool))
    except OutputError as error:
        print(error)
