"""Launches, steps of a campaign on Slurm and searches, from the plan to the table, and what follows them."""
