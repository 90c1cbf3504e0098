"""Cells on Slurm: the site, the submission, the job, the state of the queue, and the next step when a job has ended."""
