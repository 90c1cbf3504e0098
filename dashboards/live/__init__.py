"""Grids looked at while they run: pages that a browser asks for, made of run folders, which nothing here changes."""
