"""Lock around the construction of torch networks.

transformers sets torch's default number format, which is global, while it builds a network in 16 bits. A network that
another thread builds meanwhile would get 16-bit parameters: prediction loads a checkpoint beside its encoders.
"""

from __future__ import annotations

import threading

NETWORK_LOCK = threading.RLock()
