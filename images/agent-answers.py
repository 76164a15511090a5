"""Whether the agent starts in this image and serves the daemon that it dials."""

import socket
import subprocess
import tempfile

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
SETTINGS_FRAME = 4

with tempfile.TemporaryDirectory() as state, socket.socket(socket.AF_UNIX) as daemon:
    daemon.bind(f"{state}/daemon.sock")
    daemon.listen()
    daemon.settimeout(10)
    agent = subprocess.Popen(
        ["/compy-agent", "serve", "--user", "dev", "--state", state, "--link", f"{state}/daemon.sock"]
    )
    try:
        link, _ = daemon.accept()
        link.settimeout(10)
        link.sendall(PREFACE + EMPTY_SETTINGS)
        frame = link.recv(9, socket.MSG_WAITALL)
        if len(frame) < 9 or frame[3] != SETTINGS_FRAME:
            raise SystemExit(f"the agent dialled and did not answer: {frame!r}")
    finally:
        agent.terminate()
        agent.wait(10)
print("the agent answers")
