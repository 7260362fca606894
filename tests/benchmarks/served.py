"""What supervisord and circus start: it answers each connection with its pid.

Usage: served.py PATH.
"""

import os
import socket
import sys

path = sys.argv[1]
new = f"{path}.{os.getpid()}"
with socket.socket(socket.AF_UNIX) as listening:
    listening.bind(new)
    listening.listen()
    os.replace(new, path)  # the next connection is to this process
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.send(str(os.getpid()).encode())
