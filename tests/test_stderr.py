"""A model server whose stderr takes nothing: full, closed, or a pipe that nobody reads."""

import contextlib
import fcntl
import http.client
import os
import subprocess
import urllib.request

import models
import pytest
from conftest import ENVIRONMENT, MIZZEN


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models"
    models.place(folder, "double", models.affine(2.0))
    return folder


@contextlib.contextmanager
def serving(repository, stderr, *flags, shell=None):
    """A server that logs every request; its process, and its addresses by name."""
    command = [MIZZEN, "serve", "--model-repository", str(repository), "--http-port", "0", "--grpc-port", "0",
               "--metrics-port", "0", "--log", "debug", *flags]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=ENVIRONMENT)
    try:
        line = process.stdout.readline()
        assert line.startswith("ready "), line
        yield process, dict(field.split("=", 1) for field in line.split()[1:])
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def ask(at, times):
    connection = http.client.HTTPConnection(at["http"], timeout=20)
    for _ in range(times):
        connection.request("GET", "/v2/models/none")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 404


def lost(at):
    page = urllib.request.urlopen(f"http://{at['metrics']}/metrics", timeout=20).read().decode()
    (line,) = [line for line in page.splitlines() if line.startswith("mizzen_log_lines_lost_total ")]
    return float(line.split()[1])


def test_a_full_disk_behind_stderr_is_counted_and_no_more(repository):
    with open("/dev/full", "w") as full, serving(repository, full) as (_, at):
        before = lost(at)
        assert before > 0, "the start was logged"
        ask(at, 100)
        assert lost(at) >= before + 100


def test_a_closed_stderr_is_no_trouble(repository):
    with serving(repository, None, shell="2>&-") as (_, at):
        ask(at, 100)


def test_a_reader_that_left_is_no_trouble(repository):
    reader, writer = os.pipe()
    os.close(reader)
    with serving(repository, writer) as (_, at):
        os.close(writer)
        ask(at, 100)
        assert lost(at) >= 100


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_reader_that_reads_nothing_keeps_nobody_waiting(repository, format):
    """What waits is there once it reads: in order, and with nothing lost below the bound."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with serving(repository, writer, "--log-format", format) as (process, at):
        os.close(writer)
        ask(at, 500)  # far more than the pipe holds
        assert lost(at) == 0
        process.terminate()
        with open(reader) as log:
            lines = [line for line in log if "GET /v2/models/none" in line]
    assert len(lines) == 500 and lines == sorted(lines)


def test_a_stuck_stderr_does_not_hold_the_exit(repository):
    """Guard: the end waits a second for stderr; `serving` asserts that it comes."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with serving(repository, writer) as (_, at):
        os.close(writer)
        ask(at, 500)
    os.close(reader)


@pytest.mark.parametrize("shell", ["2>/dev/full", "2>&-"])
def test_a_failure_that_nobody_reads_of_still_has_its_status(shell):
    command = [MIZZEN, "serve"]  # of no models
    read = subprocess.run(command, env=ENVIRONMENT, timeout=30, capture_output=True)
    unread = subprocess.run(["sh", "-c", f'exec "$@" {shell}', "sh", *command], env=ENVIRONMENT, timeout=60)
    assert read.stderr and unread.returncode == read.returncode != 0
