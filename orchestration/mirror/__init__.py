"""MLflow as a mirror of run folders: everything it shows is read from them, so it can be deleted and rebuilt."""
