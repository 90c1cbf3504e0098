"""Whether a machine and a cluster can do what a launch needs, found out before a launch."""
