"""Cells on Slurm: the site, the submission, the job, how it stands, and the next step when it has ended."""
