"""Asks the real curl what it does with a proxy; also the recorder: python tests/audit/curl_proxy.py

Everything stays on loopback: every name and address is resolved to a server of ours, the direct way's end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from wire import Wire, reply

TABLE = Path(__file__).resolve().parent.parent / "data" / "no_proxy.txt"


def rows(text: str) -> list[list[str]]:
    """[host, NO_PROXY, curl's answer, ours and why] of each row."""
    return [
        [cell.strip() for cell in (line + "|||").split("|")][:4]
        for line in text.splitlines()
        if line and line[0] != "#"
    ]


def ask_curl(host: str, no_proxy: str, **more: str) -> str:
    """`direct` or `proxy`: where curl's request for http://host:PORT/ arrived."""
    with Wire(reply(200)) as direct, Wire(reply(200)) as proxy:
        plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        # An address in brackets cannot be resolved otherwise; the device `lo` knows no way to it: exit 7, direct.
        literal = host[0] == "[" and host != "[::1]"
        aside = ["--interface", "lo"] if literal else ["--resolve", f"{host}:{direct.port}:127.0.0.1"]
        aside = [] if host == "[::1]" else aside
        environment = {
            "http_proxy": proxy.url,
            **{name: value.replace("PROXY", proxy.url) for name, value in more.items()},
            "NO_PROXY": no_proxy.replace("PORT", str(direct.port)),
        }
        done = subprocess.run(
            ["curl", "-q", "-s", "-g", "-m", "2", *aside, f"http://{host}:{direct.port}/"],
            env={**plain, **environment},
            check=False,
            capture_output=True,
        )
        arrived = len(direct.seen) + len(proxy.seen)
        assert (done.returncode, arrived) in ((0, 1), (7, 0), (28, 0) if literal else (0, 1)), done
        return "proxy" if proxy.seen else "direct"


if __name__ == "__main__":
    lines = []
    for row in TABLE.read_text().splitlines():
        line = row
        if line and line[0] != "#":
            host, no_proxy, _, ours = rows(line)[0]
            line = f"{host:23}| {no_proxy:37}| {ask_curl(host, no_proxy):7}{'| ' + ours if ours else ''}".rstrip()
        lines.append(line)
    TABLE.write_text("\n".join(lines) + "\n")
