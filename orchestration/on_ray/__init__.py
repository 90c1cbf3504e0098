"""Cells on Ray: which Ray, who shares what of it, and the training of one cell in it."""
