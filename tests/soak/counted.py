"""Runs a daemon that tells on a socket of its own how many blocks of memory its objects take.

::

    python counted.py SOCKET python -m sysmemd ARGUMENT…
"""

from __future__ import annotations

import socket
import sys
import threading

from sysmemd.__main__ import main


def _tell(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            asking, _ = listener.accept()
            with asking:
                asking.sendall(str(sys.getallocatedblocks()).encode())


if __name__ == "__main__":
    threading.Thread(target=_tell, args=[sys.argv[1]], daemon=True).start()
    sys.exit(main(sys.argv[5:]))
