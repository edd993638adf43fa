"""The gateway of the download and start-up benchmarks: Debian's nginx, which serves run documents and their bundles.

Started on free loopback ports and ended with the `with` block; everything it needs lies in one scratch folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

NGINX = ("nginx", "nginx-light")
START_SECONDS = 10
CONFIG = """
daemon off;
master_process off;
pid %(folder)s/nginx.pid;
error_log %(folder)s/error.log;
events { }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  default_type application/octet-stream;
  client_body_temp_path %(folder)s/t1; proxy_temp_path %(folder)s/t2; fastcgi_temp_path %(folder)s/t3;
  uwsgi_temp_path %(folder)s/t4; scgi_temp_path %(folder)s/t5;
  server {
    listen 127.0.0.1:%(port)d;
    listen 127.0.0.1:%(tls_port)d ssl;
    ssl_certificate %(folder)s/server.pem;
    ssl_certificate_key %(folder)s/server.key;
%(locations)s
  }
}
"""
LOCATIONS = """
    location = /api/export/runs/%(run)s { default_type application/json; alias %(folder)s/%(run)s.json; }
    location = /api/export/runs/%(run)s/download { alias %(bundle)s; }
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens on the port."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("nginx does not listen")


def make_bundle(path: Path, size: int) -> str:
    """A file of `size` bytes that no program can shorten, written in pieces; its SHA-256."""
    digest, seed = hashlib.sha256(), hashlib.shake_128(b"stella").digest(1 << 20)
    with path.open("wb") as file:
        for number in range(0, size, 1 << 20):
            piece = (number.to_bytes(8, "big") + seed)[: min(1 << 20, size - number)]
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


class Gateway:
    """`url` and `tls_url` are gateway roots, `ca` trusts the latter; `port` is that of the former."""

    def __init__(self, port: int, tls_port: int, ca: Path) -> None:
        self.url, self.tls_url = f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}"
        self.port, self.ca = port, ca


@contextlib.contextmanager
def nginx(folder: Path, runs: Mapping[str, tuple[Path, str]]) -> Iterator[Gateway]:
    """Serves `runs`: run id to (bundle, its SHA-256)."""
    port, tls_port = free_ports(2)
    make_certificate(folder)
    locations = ""
    for run, (bundle, sha256) in runs.items():
        facts = {"name": bundle.name, "size": bundle.stat().st_size, "sha256": sha256,
                 "mediaType": "application/octet-stream"}
        document = {"runId": run, "profileId": "prof-json-raw", "status": "succeeded", "bundle": facts,
                    "createdAt": "2025-10-29T13:40:02Z", "distribution": [{"type": "http"}], "error": None}
        (folder / f"{run}.json").write_text(json.dumps(document))
        locations += LOCATIONS % {"run": run, "folder": folder, "bundle": bundle}
    config = CONFIG % {"folder": folder, "port": port, "tls_port": tls_port, "locations": locations}
    (folder / "nginx.conf").write_text(config)
    # -e: or it would look into the system's log folder before it reads the configuration
    words = ["nginx", "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    with subprocess.Popen(words) as process:
        try:
            wait_for(port, process)
            yield Gateway(port, tls_port, folder / "server.pem")
        finally:
            process.terminate()


def make_certificate(folder: Path) -> None:
    """server.key, and server.pem for 127.0.0.1, which signs itself."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-addext", "keyUsage=critical,digitalSignature,keyCertSign",
                    "-keyout", folder / "server.key", "-out", folder / "server.pem"],
                   check=True, stderr=subprocess.DEVNULL)
