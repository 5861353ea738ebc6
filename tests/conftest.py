"""Fixtures for tests of the shipped binary against unmodified clients.

Every server gets ports from the kernel and is waited for by its ready line; nothing here sleeps.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MIZZEN = os.environ.get("MIZZEN", str(ROOT / "target/debug/mizzen"))
KUBECTL = str(ROOT / ".cache/bin/kubectl")
HELM = str(ROOT / ".cache/bin/helm")

# Steps and trials run under the `python3` of PATH: the one with the pinned packages.
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith(("MIZZEN", "KUBE", "PORT_BASE", "RUST_BACKTRACE"))},
    "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
}


class Server:
    """A `mizzen serve` or `mizzen up`, its addresses by name."""

    def __init__(self, *command, env=None, data_dir=None):
        self.log = open(pathlib.Path(data_dir or command[-1]).with_suffix(".log"), "ab")
        self.process = subprocess.Popen(
            [MIZZEN, *map(str, command)], stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={**ENVIRONMENT, **(env or {})}, start_new_session=True,
        )
        line = self.process.stdout.readline()
        if not line.startswith("ready "):
            self.process.wait()
            raise RuntimeError(f"no ready line but {line!r}:\n{pathlib.Path(self.log.name).read_text()[-4000:]}")
        self.at = dict(field.split("=", 1) for field in line.split()[1:])

    def stop(self, timeout=30):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self):
        """As a crash would: this process alone, not what it started."""
        self.process.kill()
        self.process.wait()


def run(*command, input=None, check=True, env=None, timeout=120):
    """Runs `mizzen`; returns what it did."""
    done = subprocess.run(
        [MIZZEN, *map(str, command)], input=input, capture_output=True, text=True, timeout=timeout,
        env={**ENVIRONMENT, **(env or {})},
    )
    if check and done.returncode != 0:
        raise AssertionError(f"status {done.returncode}: {done.stderr}")
    return done


def until(condition):
    """What a condition comes to once it holds, asked again and again: what is waited for happens on the server."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := condition():
            return found
    raise AssertionError("it never came to be")


@pytest.fixture
def mizzen():
    return run


@contextlib.contextmanager
def up(data_dir, *flags):
    server = Server(
        "up", "--port-base", 0, "--data-dir", data_dir, *flags, data_dir=data_dir,
    )
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def up_server(tmp_path):
    with up(tmp_path / "data") as server:
        yield server


@pytest.fixture
def kubectl(up_server):
    def call(*command, input=None, check=True):
        done = subprocess.run(
            [KUBECTL, "--server", f"http://{up_server.at['api']}", *command],
            input=input, capture_output=True, text=True, timeout=60, env={**ENVIRONMENT, "HOME": "/nonexistent"},
        )
        if check and done.returncode != 0:
            raise AssertionError(f"status {done.returncode}: {done.stderr}")
        return done
    return call


@pytest.fixture
def serve(tmp_path):
    """Starts `mizzen serve` over a repository; more than one may run."""
    servers = []

    def start(repository, *flags, env=None):
        server = Server(
            "serve", "--model-repository", repository, "--http-port", 0, "--grpc-port", 0,
            "--metrics-port", 0, *flags, data_dir=tmp_path / "serve", env=env,
        )
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()
