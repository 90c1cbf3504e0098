"""MLflow as a mirror of run folders: what it shows is read from them, so it can be deleted and made again."""
