"""The examples of reverse proxies are sound, where the proxies are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.deploy.files import DEPLOY

FOLDER = DEPLOY / "proxy"


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_takes_the_example(tmp_path: Path) -> None:
    example = (FOLDER / "nginx.conf").read_text()
    issued = trustme.CA().issue_cert("llama.example.com")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    example = example.replace("/etc/ssl/llama.example.com.pem", str(certificate))
    example = example.replace("/etc/ssl/private/llama.example.com.key", str(key))
    config = tmp_path / "nginx.conf"
    # What nginx would write lies where only root may.
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    config.write_text(
        f"pid {tmp_path}/pid;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{folders}{example}}}\n"
    )
    done = subprocess.run(
        ["nginx", "-t", "-q", "-e", "stderr", "-c", config],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")
def test_caddy_takes_the_example() -> None:
    done = subprocess.run(
        [
            "caddy",
            "validate",
            "--adapter",
            "caddyfile",
            "--config",
            FOLDER / "Caddyfile",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
