"""Data sets, split lists, views and loaders."""
