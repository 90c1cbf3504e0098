"""Searches: spaces of settings, their points, and Optuna's draws from them."""
