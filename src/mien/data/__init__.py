"""From recordings to batches: token clock, windows, drawing, collating.

All recordings lie end to end on one global token axis (`TokenTable`). A window is a start and a length on
that axis, so a batch is one gather per modality and no Python runs per token. Features are read through
`TokenSource`: from memory, or from where the streams lie if a modality would take over 1 GB (`Stored`).
"""

from mien.data.sampling import LabelPool, Statistics, WindowSampler, mixed_seed, statistics, window_weights
from mien.data.token_table import InMemory, Stored, Tokens, TokenSource, TokenTable, table, tokens
from mien.data.windows import Augment, Draw, WindowDataset, collate

__all__ = [
    "Augment",
    "Draw",
    "InMemory",
    "LabelPool",
    "Statistics",
    "Stored",
    "TokenSource",
    "TokenTable",
    "Tokens",
    "WindowDataset",
    "WindowSampler",
    "collate",
    "mixed_seed",
    "statistics",
    "table",
    "tokens",
    "window_weights",
]
