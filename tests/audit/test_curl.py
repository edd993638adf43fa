"""The table of the proxy tests is what the curl of this machine does, and curl's other habits with proxies."""

from __future__ import annotations

import pytest
from curl_proxy import TABLE, ask_curl, rows

ROWS = rows(TABLE.read_text())


@pytest.mark.parametrize(("host", "no_proxy", "curl"), [row[:3] for row in ROWS])
def test_curl_still_answers_as_the_table_says(host, no_proxy, curl):
    assert ask_curl(host, no_proxy) == curl


@pytest.mark.parametrize(
    ("variables", "way"),
    [
        ({"http_proxy": ""}, "direct"),
        ({"http_proxy": "", "HTTP_PROXY": "PROXY"}, "direct"),
        ({"https_proxy": "PROXY"}, "proxy"),
    ],
)
def test_what_curl_makes_of_the_variables(variables, way):
    """curl reads HTTP_PROXY in lower case only; stella reads both (test_proxy)."""
    assert ask_curl("stella.example", "", **variables) == way
