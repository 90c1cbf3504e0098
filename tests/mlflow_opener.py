"""Launches as far as the first opening of an MLflow store goes: several processes at the same moment."""

import os
import sys
import time


def main(uri: str, names: list[str]) -> None:
    """Open a store once for each name, and print the id of its experiment or what went wrong."""
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401

    from orchestration.mirror.mlflow_store import Store, StoreError

    start, children = time.time() + 0.2, []
    for name in names:
        child = os.fork()
        if child == 0:
            time.sleep(max(0.0, start - time.time()))
            try:
                answer = Store(uri).experiment(name)
            except StoreError as error:
                answer = str(error)
            os.write(1, f"{name} {answer}\n".encode())
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
