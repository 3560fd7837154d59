"""Every panel of the dashboard shows data of a real server, by a real Prometheus."""

from __future__ import annotations

import math
import time
from pathlib import Path

from PIL import Image

from tests.deploy.prometheus import Prometheus, scraping
from tests.deploy.test_monitoring import expressions
from tests.server.conftest import Server
from tests.server.test_observability import chat
from tests.server.test_server import data_url

WINDOW_SECONDS = 20
"""What ``$__rate_interval`` stands for."""


def has_data(prometheus: Prometheus, expression: str) -> bool:
    """Whether an expression of the dashboard has a value now."""
    query = (
        expression.replace("$job", "mllama")
        .replace("$instance", ".*")
        .replace("$__rate_interval", f"{WINDOW_SECONDS}s")
    )
    series = prometheus.query(query)
    return any(not math.isnan(float(each["value"][1])) for each in series)


def test_every_panel_has_data(server: Server, tmp_path: Path) -> None:
    target = server.url.removeprefix("http://")
    with scraping(target, tmp_path) as prometheus:
        prometheus.wait_for("mllama_build_info")
        for number in range(3):
            picture = data_url(Image.new("RGB", (31 + number, 47), "olive"))
            assert chat(server, picture).status_code == 200
            assert chat(server, temperature=-1).status_code == 400
            time.sleep(1.2)
        end = time.monotonic() + 120
        missing = expressions()
        while missing and time.monotonic() < end:
            missing = [each for each in missing if not has_data(prometheus, each)]
            # Rates need something in each window.
            assert chat(server, temperature=-1).status_code == 400
            assert chat(server).status_code == 200
        assert missing == []
        assert prometheus.query('up{job="mllama"}')[0]["value"][1] == "1"
        firing = prometheus.query('ALERTS{alertstate="firing"}')
        assert firing == []
