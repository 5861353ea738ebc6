"""Servers started side by side, loaded in turn, and the medians over rounds."""

import contextlib
import dataclasses
import pathlib
import statistics
import sys
import time

import calls
import install
import load
import measure


@dataclasses.dataclass
class Bench:
    """One run of the harness: who takes part, how long, how often, and where scratch files go."""
    peers: list
    unavailable: dict
    scratch: pathlib.Path
    seconds: float
    rounds: int
    quick: bool

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def those(self, *names):
        """The peers of these names that this machine has."""
        return [peer for peer in self.peers if peer.name in names]

    @contextlib.contextmanager
    def started(self, peers, repository, model, flags=None):
        """Starts the peers over a repository and yields them by name. One that does not start is noted and left out."""
        servers = {}
        try:
            for peer in peers:
                try:
                    more = {"flags": flags[peer.name]} if flags and peer.name in flags else {}
                    servers[peer.name] = peer.start(repository, self.scratch, model, **more)
                except RuntimeError as error:
                    self.unavailable[peer.name] = str(error)
                    self.say(f"{peer.name} did not start: {error}")
            yield servers
        finally:
            for server in servers.values():
                server.stop()

    def ready(self, peers, servers, protocols, model, x, expected):
        """The calls of each started peer by (name, protocol), once it has answered them rightly.

        A protocol that gives a wrong answer or none is noted and left out.
        """
        calls_of = {}
        for peer in peers:
            server = servers.get(peer.name)
            for protocol in (p for p in peer.protocols if p in protocols and server):
                call = peer.call(protocol, model, x)
                try:
                    server.wait_for(lambda: calls.check(server, call, expected))
                    calls_of[peer.name, protocol] = call
                except RuntimeError as error:
                    self.unavailable[f"{peer.name}, {protocol}"] = str(error)
                    self.say(f"{peer.name}, {protocol}, is left out: {error}")
        return calls_of

    def load(self, server, call, concurrency, seconds=None, what=""):
        """A closed load with the server's processor time and memory; `None` if the server is gone."""
        if not server.alive():
            return None
        try:
            once = load.warm(server, call, concurrency, seconds or self.seconds)
            pids, before = server.processes(), server.cpu()
            report = once()
        except RuntimeError as error:
            self.unavailable[f"{what}, {server.name}, {call.protocol}, {concurrency} at once"] = str(error)
            self.say(f"{what}, {server.name}, {call.protocol}, {concurrency} at once: {error}")
            return None
        report.server_cpu_seconds = measure.cpu_between(before, server.cpu())
        report.server_rss_mib = measure.rss_mib(pids)
        if not server.alive():
            report.errors = ", ".join(filter(None, [report.errors, "the server crashed"]))
        cpu = report.figures()["server_cpu_us_per_request"]
        self.say(f"{what}, {server.name}, {call.protocol}, {concurrency} at once: {report.per_second:.0f} requests/s, "
                 f"{figure(cpu)} µs, p99 {report.p99:.2f} ms{', ' + report.errors if report.errors else ''}")
        return report


def prepared(peers, say):
    """Those of the peers that can be had, and why the others cannot."""
    here, missing = [], {}
    for peer in peers:
        began = time.monotonic()
        try:
            peer.prepare()
            here.append(peer)
            if time.monotonic() - began > 1:
                say(f"{peer.name}: fetched in {time.monotonic() - began:.0f} s")
        except install.Unavailable as error:
            missing[peer.name] = str(error)
            say(f"{peer.name} is left out: {error}")
    return here, missing


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def ratio(ours, theirs):
    """The median over rounds of ours to theirs, so that a machine that slows down slows both."""
    pairs = [o / t for o, t in zip(ours, theirs) if o is not None and t]
    return statistics.median(pairs) if pairs else None


def table(header, rows):
    """A Markdown table; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---"] + ["--:"] * (len(header) - 1)) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def figure(value, digits=0):
    """A figure for people; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:,.{digits}f}"
