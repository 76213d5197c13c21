"""`make run`: start the order-approval example, and say what to try once it is ready.

What it says is the block of commands in the example's README, so the two
cannot differ.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "order_approval"
PORT = os.environ.get("EVERSTEP_PORT", "3111")


def main() -> int:
    everstep = Path(sys.executable).with_name("everstep")
    with subprocess.Popen([everstep, "dev", *sys.argv[1:]], cwd=EXAMPLE) as server:
        # Ctrl-C reaches the server too, for it is in our group: we only wait for it to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        threading.Thread(target=say_what_to_try, args=(server,), daemon=True).start()
        return server.wait()


def say_what_to_try(server: "subprocess.Popen[bytes]") -> None:
    while not ready():
        if server.poll() is not None:
            return
        time.sleep(0.1)
    time.sleep(0.3)  # let it finish its own lines
    if server.poll() is None:
        print(f"\n{commands()}", flush=True)


def ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def commands() -> str:
    found = re.search(r"## Try it\n.*?```sh\n(.*?)```", (EXAMPLE / "README.md").read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1].replace(":3111", f":{PORT}")


if __name__ == "__main__":
    sys.exit(main())
