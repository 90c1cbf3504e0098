"""What a person looks at: figures of a grid, and its report as one page."""
