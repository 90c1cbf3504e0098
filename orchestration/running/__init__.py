"""The body of a job: a cell is trained, and what it keeps is settled."""
