"""Long trainings whose results docs/ publishes: the shipped starter, its ablation, system comparisons, EMO-DB."""
