"""The truth: run folders and their files, how attempts end, and the contract of the schedulers."""
