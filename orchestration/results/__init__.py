"""From run folders to tables: collected, cached, printed, compared and put to the test."""
