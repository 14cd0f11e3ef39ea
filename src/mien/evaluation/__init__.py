"""Evaluation: metrics, calibration, bootstrap, robustness, and the evaluation run."""
