"""Speed and memory beside the textbook way; `rankmatch bench` runs them, no test asserts them."""
