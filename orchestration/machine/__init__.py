"""Access to the machine: files, processes, the terminal, the sources."""
