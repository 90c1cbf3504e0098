"""Turns a grid file into trained cells, on whatever machines there are, and those into the table of a paper."""
