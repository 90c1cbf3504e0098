"""Numbers and the text about them: estimates, comparisons, tables, formats; pure but for published.py."""
