"""Training data: recordings on a token clock, windows over them, sampling, augmentation and batches.

All recordings lie end to end on one global token axis (`TokenTable`). A window is a start and a length on that axis, so
a batch is one gather per modality, and no Python code runs per token. `TokenSource` reads the features: from memory, or
from the stored streams if a modality would take more than 1 GB (`StreamTokens`).
"""

from mien.data.mouth_windows import speaking_windows
from mien.data.sampling import (
    InputStatistics,
    SameClassAugment,
    WindowSampler,
    input_statistics,
    mix_seeds,
    window_weights,
)
from mien.data.token_table import (
    InMemoryTokens,
    StreamTokens,
    Tokens,
    TokenSource,
    TokenTable,
    build_table,
    make_tokens,
)
from mien.data.windows import Augment, WindowBatch, WindowDataset, collate

__all__ = [
    "Augment",
    "InMemoryTokens",
    "InputStatistics",
    "SameClassAugment",
    "StreamTokens",
    "TokenSource",
    "TokenTable",
    "Tokens",
    "WindowBatch",
    "WindowDataset",
    "WindowSampler",
    "build_table",
    "collate",
    "input_statistics",
    "make_tokens",
    "mix_seeds",
    "speaking_windows",
    "window_weights",
]
