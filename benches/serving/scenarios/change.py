"""What clients notice of a model that is replaced and of a server that is told to end, both under load."""

import asyncio
import os
import signal
import time

import numpy as np

import calls
import zoo
from harness import figure, median, table

MODEL, WIDTHS = "changing", [512] * 5
CLIENTS, RATE = 16, 400  # requests per second of all clients: what one process of Python sends with ease
QUIET_S = 3


class Clients:
    """Clients that keep a connection each, send at a steady rate, and note what became of every request."""

    def __init__(self, address, call):
        self.host, self.port = address.split(":")
        head = (f"POST {call.path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {call.content_type}\r\n"
                f"Inference-Header-Content-Length: {call.json_length}\r\nContent-Length: {len(call.body)}\r\n\r\n")
        self.request, self.seen, self.ending = head.encode() + call.body, [], False

    async def client(self, number):
        reader = writer = None
        due = time.monotonic() + number / RATE
        while not self.ending:
            await asyncio.sleep(max(0, due - time.monotonic()))
            began = time.monotonic()
            due = max(due + CLIENTS / RATE, began)
            if reader is None or reader.at_eof():
                try:
                    reader, writer = await asyncio.open_connection(self.host, int(self.port))
                except OSError:
                    reader = None
                    self.seen.append((began, time.monotonic(), "refused a connection"))
                    continue
            try:
                writer.write(self.request)
                outcome, close = await asyncio.wait_for(answer(reader), 20)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError) as error:
                outcome, close = f"lost: {type(error).__name__}", True
            self.seen.append((began, time.monotonic(), outcome))
            if close:
                writer.close()
                reader = None

    async def during(self, event):
        """Runs the clients around `event()`, which is a coroutine; returns when it began and ended."""
        tasks = [asyncio.create_task(self.client(number)) for number in range(CLIENTS)]
        await asyncio.sleep(QUIET_S)
        began = time.monotonic()
        await event()
        ended = time.monotonic()
        await asyncio.sleep(max(0.0, began + 1.5 - ended))
        self.ending = True
        await asyncio.gather(*tasks)
        return began, ended


async def answer(reader):
    """The status of the next answer, and whether the server wants the connection closed."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status, length = int(head.split()[1]), 0
    for line in head.split("\r\n")[1:]:
        if line.startswith("content-length:"):
            length = int(line.split(":")[1])
    await reader.readexactly(length)
    return ("ok" if status == 200 else f"HTTP {status}"), "connection: close" in head


def figures(clients, began, ended):
    """Outcomes, and the p99 of the second from the event on against that of the time before."""
    latency = lambda low, high: sorted((end - start) * 1e3 for start, end, how in clients.seen if how == "ok" and low <= start < high)
    p99 = lambda values: values[min(len(values) - 1, int(0.99 * len(values)))] if values else None
    outcomes = {}
    for _, _, how in clients.seen:
        outcomes[how] = outcomes.get(how, 0) + 1
    return {"took_s": ended - began, "outcomes": outcomes, "p99_before_ms": p99(latency(began - QUIET_S + 0.5, began)),
            "p99_during_ms": p99(latency(began, began + 1)), "max_during_ms": (latency(began, began + 1) or [None])[-1]}


async def reload(server, repository, clients, turn):
    """Puts a new version beside the old one and asks for it."""
    # Made before, since the clients would wait for it: they share a process with what happens here.
    made = repository.parent / f"{repository.name}-next"
    zoo.models.place(made, MODEL, zoo.perceptron(WIDTHS), 2 + turn)

    async def event():
        os.rename(made / MODEL / str(2 + turn), repository / MODEL / str(2 + turn))
        call = calls.Call("rest-json", f"/v2/repository/models/{MODEL}/load", b"{}")
        status, _, body = await asyncio.to_thread(calls.post, server.http, call)
        if status != 200:
            raise RuntimeError(f"{server.name} did not reload: HTTP {status}: {body[:200]!r}")
    return figures(clients, *await clients.during(event))


async def terminate(server, clients):
    """SIGTERM, until the process has ended."""
    async def event():
        os.kill(server.process.pid, signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 60)
        clients.ending = True
    return {**figures(clients, *await clients.during(event)), "exit_status": server.process.returncode}


def run(bench):
    takers, result = bench.those("Mizzen", "Triton"), []
    x = np.random.default_rng(0).random((1, WIDTHS[0]), np.float32)
    # Triton waits out the whole of this time while clients send on; nobody waits for half a minute here.
    flags = ["--model-control-mode", "explicit", "--load-model", MODEL, "--exit-timeout-secs", "5"]
    for turn in range(bench.rounds):
        for peer in takers:
            repository = bench.scratch / f"change-{turn}-{peer.name}"
            zoo.place(repository, MODEL, zoo.perceptron(WIDTHS), "max_batch_size: 16\ndynamic_batching { }\n")
            expected = zoo.session(repository, MODEL).run(["y"], {"x": x})[0]
            with bench.started([peer], repository, MODEL, {peer.name: flags}) as servers:
                ready = bench.ready([peer], servers, ["rest-binary"], MODEL, x, expected)
                if not ready:
                    continue
                (server,), (call,) = servers.values(), ready.values()
                for event in ("reload", "SIGTERM"):
                    clients = Clients(server.http, call)
                    seen = asyncio.run(reload(server, repository, clients, turn) if event == "reload" else
                                       terminate(server, clients))
                    result.append({"server": peer.name, "event": event, **seen})
                    bench.say(f"change, {event}, {peer.name}: {seen}")
    return result


def markdown(result):
    rows = []
    for event in ("reload", "SIGTERM"):
        for name in dict.fromkeys(r["server"] for r in result):
            turns = [r for r in result if r["server"] == name and r["event"] == event]
            outcomes = {}
            for turn in turns:
                for how, count in turn["outcomes"].items():
                    outcomes[how] = outcomes.get(how, 0) + count
            failed = sum(count for how, count in outcomes.items() if how not in ("ok", "refused a connection"))
            what = ", ".join(f"{count} {how}" for how, count in outcomes.items() if how not in ("ok", "refused a connection"))
            rows.append([f"{name}, {event}", sum(outcomes.values()), failed, what or "–",
                         figure(median([t["took_s"] for t in turns]), 2), figure(median([t["p99_before_ms"] for t in turns]), 1),
                         figure(median([t["p99_during_ms"] for t in turns]), 1)])
    return (f"{CLIENTS} clients with a connection each, {RATE} requests/s together. A request counts as failed once it was sent on an "
            "open connection and got no 200; connections refused after the end are not counted.\n\n" + table(
                ["", "requests", "failed", "how", "took s", "p99 before ms", "p99 in the second of it ms"], rows))
