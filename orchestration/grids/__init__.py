"""From text to checked cells: grid files, overrides, and grids as stored in their folders."""
