"""Numbers and their text: estimates, comparisons, tables, formats; pure."""
