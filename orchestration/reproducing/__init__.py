"""A recorded training, repeated with its own code and compared with what was recorded."""
