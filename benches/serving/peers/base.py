"""What all servers have in common: they start on loopback, are known by a mark, and end by their process ids."""

import os
import signal
import socket
import subprocess
import time
import uuid

import calls
import measure

STARTS_WITHIN_S = 90  # the slowest (a cluster of Python processes) takes half a minute on two busy cores
ENDS_WITHIN_S = 20
# No library of anyone's may start threads of its own for a model of one thread.
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}


def free_ports(count):
    """Ports that were free a moment ago, for servers that cannot say which one the kernel gave them."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Running:
    """A started server: its addresses, its processes, its log."""

    def __init__(self, name, command, environment, log, http=None, grpc=None, ready_line=False):
        self.name, self.mark, self.log = name, uuid.uuid4().hex, log
        self.http, self.grpc = http, grpc
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command], env={**os.environ, **QUIET, **environment, measure.MARK: self.mark},
                stdout=subprocess.PIPE if ready_line else output, stderr=output, text=True, start_new_session=True,
                cwd=log.parent)  # some leave files where they start
        if ready_line:
            line = self.process.stdout.readline()
            if not line.startswith("ready "):
                raise RuntimeError(f"{name} did not start: {self.tail()}")
            at = dict(field.split("=", 1) for field in line.split()[1:])
            self.http, self.grpc, self.metrics = at.get("http"), at.get("grpc"), at.get("metrics")

    def tail(self):
        with open(self.log, errors="replace") as log:
            return log.read()[-1500:]

    def wait_for(self, answers):
        """Waits until `answers()` no longer raises."""
        give_up = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                return answers()
            except Exception as error:
                if self.process.poll() is not None or time.monotonic() > give_up:
                    self.stop()
                    raise RuntimeError(f"{self.name} did not answer ({error}): {self.tail()}") from error
            time.sleep(0.05)

    def processes(self):
        return measure.processes(self.mark)

    def cpu(self):
        return measure.cpu_seconds(self.processes())

    def rss_mib(self):
        return measure.rss_mib(self.processes())

    def alive(self):
        return self.process.poll() is None

    def stop(self):
        """SIGTERM to the first process, and to what is left the harder one."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            pass
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return self.process.wait(ENDS_WITHIN_S)


class Peer:
    """A server to compare. Subclasses say what is special about it."""

    name = "?"
    version = ""
    protocols = calls.V2_PROTOCOLS
    idles = True
    """Whether it takes no processor time worth a word while nobody asks, so that it may stay up beside others."""

    def describe(self):
        return f"{self.name} {self.version}".strip()

    def prepare(self):
        """Fetches what is missing; raises `install.Unavailable` with the reason."""

    def start(self, repository, scratch, model=None):
        """Starts over a repository, or over one of its models where the server has no repositories."""
        raise NotImplementedError

    def call(self, protocol, model, x):
        """The request for the input `x`; servers without the V2 protocol have one of their own."""
        return calls.v2(protocol, model, x)
