"""Text made for one client and for many, through Mizzen's server and through llama.cpp's, of one GGUF file.

`python benches/engines/chat.py MODEL.gguf --peer PYTHON` after `make build`; PYTHON is an interpreter that has the
package `xllamacpp`, which carries llama.cpp's server. Writes benches/results/. Both are asked by one small client over
`/v1/completions` with `stream`, with the same prompts, of which none begins like another, greedily, for the same number of
tokens; they run in turn, and never at once.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benches/serving")]

import measure  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", type=pathlib.Path, help="a GGUF file")
parser.add_argument("--mizzen", default=str(ROOT / "target/release/mizzen"))
parser.add_argument("--peer", help="Python that has xllamacpp; without it only Mizzen is measured")
parser.add_argument("--tokens", type=int, default=96, help="tokens of each answer")
parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turn")
parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches/results", help="folder of the result")
args = parser.parse_args()

LLAMA = """
import sys, time, xllamacpp
path, threads, streams = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
p = xllamacpp.CommonParams()
p.model.path, p.n_parallel, p.n_ctx = path, streams, 1024 * streams
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
p.n_gpu_layers, p.hostnames, p.port = 0, ["127.0.0.1"], 0
server = xllamacpp.Server(p)
print("ready", server.listening_address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def mizzen(threads, streams):
    """Mizzen over the file alone; yields its address and process id."""
    with tempfile.TemporaryDirectory(prefix="mizzen-chat-") as scratch:
        model = pathlib.Path(scratch) / "m"
        (model / "1").mkdir(parents=True)
        os.symlink(args.model.resolve(), model / "1/model.gguf")
        (model / "config.pbtxt").write_text(
            'backend: "candle"\n'
            f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}\n'
            'parameters { key: "max_model_len" value { string_value: "1024" } }\n')
        process = subprocess.Popen(
            [args.mizzen, "--log", "warn", "serve", "--model-repository", scratch, "--http-port", "0", "--grpc-port",
             "0", "--metrics-port", "0"], stdout=subprocess.PIPE, text=True)
        try:
            yield dict(field.split("=", 1) for field in process.stdout.readline().split()[1:])["http"], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@contextlib.contextmanager
def llama(threads, streams):
    process = subprocess.Popen([args.peer, "-c", LLAMA, str(args.model), str(threads), str(streams)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        for line in process.stdout:
            if line.startswith("ready "):
                break
        yield line.split()[1].removeprefix("http://"), process.pid
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(30)


async def ask(address, stream):
    """When each token of one answer came."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    prompt = f"Note {stream}: the history of the city on the river begins long before its first stone bridge, when"
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": args.tokens, "temperature": 0, "stream": True,
                       "ignore_eos": True}).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\nconnection: close\r\n"
                 b"content-length: %d\r\n\r\n%s" % (len(body), body))
    began, times = time.monotonic(), []
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"{status!r} {await reader.read(2000)!r}")
    async for line in reader:
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["text"]:
                times.append(time.monotonic())
        elif line.startswith(b"data: [DONE]"):
            break
    writer.close()
    return began, times


def cpu_seconds(pid):
    return sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[11:13])) / 100


async def load(address, streams, pid):
    await asyncio.gather(*(ask(address, 1000 + stream) for stream in range(streams)))  # warm
    before = cpu_seconds(pid)
    answers = await asyncio.gather(*(ask(address, stream) for stream in range(streams)))
    cpu = cpu_seconds(pid) - before
    began, ended = min(began for began, _ in answers), max(times[-1] for _, times in answers)
    gaps = sorted(b - a for _, times in answers for a, b in zip(times, times[1:]))
    first = sorted(times[0] - began for began, times in answers)
    tokens = streams * args.tokens
    return {"tokens_per_second": tokens / (ended - began), "first_token_p50_ms": first[len(first) // 2] * 1e3,
            "between_p50_ms": gaps[len(gaps) // 2] * 1e3, "between_p99_ms": gaps[int(len(gaps) * 0.99)] * 1e3,
            "cpu_ms_per_token": cpu * 1e3 / tokens}


def command():
    """As it was called, without where this machine keeps its interpreters."""
    words = ["PYTHON" if word == args.peer else word for word in sys.argv[1:]]
    return "python benches/engines/chat.py " + " ".join(words)


def main():
    machine = measure.machine(ROOT, command())
    peers = {"mizzen": mizzen} | ({"llama.cpp": llama} if args.peer else {})
    rows = []
    for threads in args.threads:
        for streams in args.streams:
            runs = {peer: [] for peer in peers}
            for _ in range(args.rounds):
                for peer, serve in peers.items():
                    with serve(threads, streams) as (address, pid):
                        runs[peer].append(asyncio.run(load(address, streams, pid)))
            for peer, measured in runs.items():
                row = {key: statistics.median(run[key] for run in measured) for key in measured[0]}
                rows.append({"peer": peer, "threads": threads, "streams": streams, **row, "runs": measured})
                print(f"{peer:10} {threads} threads {streams:3} streams " + " ".join(
                    f"{key} {value:.1f}" for key, value in row.items()), flush=True)
    result = {"machine": machine, "model": args.model.name, "tokens": args.tokens, "rows": rows}
    args.out.mkdir(exist_ok=True)
    file = args.out / f"{machine['date']}-{machine['commit']}-chat.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {file}")


main()
