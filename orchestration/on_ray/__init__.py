"""Cells on Ray: which Ray, how cells share it, and the training of one cell in it."""
