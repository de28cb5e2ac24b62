"""Exit 0 if the process on a port says that it is ready, else 1: ``python healthcheck.py 8080``."""

import sys
import urllib.request

TIMEOUT_S = 4.0


def is_ready(port: int) -> bool:
    """Ask ``/health/ready`` on this machine, past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        # A status other than 200 raises too.
        with opener.open(f"http://127.0.0.1:{port}/health/ready", timeout=TIMEOUT_S):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if is_ready(int(sys.argv[1])) else 1)
