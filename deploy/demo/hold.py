"""Start a program with a listening socket that another process holds open, by systemd's protocol: `hold.py FD PROGRAM ARGUMENT...`.

Because the holder keeps the socket, requests that come while the program is dead wait instead of failing.
"""

import os
import sys

if __name__ == "__main__":
    os.dup2(int(sys.argv[1]), 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  # the caller's own list of arguments
