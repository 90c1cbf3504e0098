"""From run folders to tables: collect, cache, print, compare and verify results."""
