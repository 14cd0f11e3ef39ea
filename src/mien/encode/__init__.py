"""One recording and its encoders -> streams: the passes over pictures and audio."""
