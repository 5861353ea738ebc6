"""Tokens per second of Candle's decoder and of llama.cpp, on the same GGUF file, taken in turn.

`cargo bench -p mizzen-runtime-candle --bench generation --no-run`, then `python benches/engines/generation.py
MODEL.gguf BENCH` with the program that made; needs `pip install xllamacpp`, llama.cpp's server as a module, by its
defaults but for threads, slots and context. Both get prompts of about as many tokens and answer with 64, greedily.
Beside the time, the processor time a token took: that also tells something on a machine that does other things.
"""

import argparse
import json
import pathlib
import re
import resource
import subprocess
import sys
import threading
import time

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("bench", type=pathlib.Path)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--cases", default="1x1,2x1,1x16,2x16", help="threads x streams")
parser.add_argument("--peer", help=argparse.SUPPRESS)
args = parser.parse_args()

ANSWER = 64


def ours(threads, streams):
    command = [str(args.bench), str(args.model), str(threads), str(streams)]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    prompt, decode = text.splitlines()[1:3]
    numbers = [float(x) for x in re.findall(r"([\d.]+) (?:tokens/s|ms)", decode)]
    rate, cpu, median, longest = numbers[:4]
    reading, reading_cpu = [float(x) for x in re.findall(r"([\d.]+) (?:tokens/s|ms)", prompt)][:2]
    return {"tokens_s": rate, "cpu_ms": cpu, "median_ms": median, "p99_ms": longest,
            "prompt_tokens_s": reading, "prompt_cpu_ms": reading_cpu}


def processor_ms():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1e3


def peer(threads, streams):
    """In a process of its own: one set of threads each."""
    command = [sys.executable, __file__, str(args.model), str(args.bench), "--peer", f"{threads}x{streams}"]
    text = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    return json.loads(text.splitlines()[-1])


def run_peer(threads, streams):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(args.model)
    params.n_parallel, params.n_ctx, params.n_gpu_layers = streams, 1024 * streams, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def ask(prompt, words, stamps):
        request = {"prompt": prompt, "max_tokens": words, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}

        def each(chunk):
            if not chunk["choices"][0]["finish_reason"]:
                stamps.append(time.perf_counter())
            return False

        server.handle_completions({**request, "stream": True}, each)

    def prompt(words):
        return " ".join(f"word{i * 7919 % 1000}" for i in range(words))

    ask(prompt(8), 4, [])
    stamps = []
    begin, cpu = time.perf_counter(), processor_ms()
    ask(prompt(128), 1, stamps)
    reading, reading_cpu = stamps[0] - begin, processor_ms() - cpu
    tokens = server.handle_completions({"prompt": prompt(128), "max_tokens": 1})["usage"]["prompt_tokens"]
    best = None
    for _ in range(2):
        every = [[] for _ in range(streams)]
        clients = [threading.Thread(target=ask, args=(f"{i} " + prompt(6), ANSWER, every[i])) for i in range(streams)]
        cpu = processor_ms()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        cpu = processor_ms() - cpu
        # From where every stream has its first token.
        first = max(stamps[0] for stamps in every)
        after = [stamp for stamps in every for stamp in stamps if stamp > first]
        gaps = sorted(b - a for stamps in every for a, b in zip(stamps, stamps[1:]))
        figures = {"tokens_s": len(after) / (max(after) - first), "cpu_ms": cpu / (streams * ANSWER),
                   "median_ms": gaps[len(gaps) // 2] * 1e3, "p99_ms": gaps[len(gaps) * 99 // 100] * 1e3,
                   "prompt_tokens_s": tokens / reading, "prompt_cpu_ms": reading_cpu / tokens}
        if best is None or figures["tokens_s"] > best["tokens_s"]:
            best = figures
    print(json.dumps(best), flush=True)


def main():
    if args.peer:
        return run_peer(*map(int, args.peer.split("x")))
    print(f"{'threads':>7} {'streams':>7} {'':>9} {'tokens/s':>9} {'CPU ms':>7} {'p50 ms':>7} {'p99 ms':>7} "
          f"{'prompt/s':>8} {'CPU ms':>7}")
    for case in args.cases.split(","):
        threads, streams = map(int, case.split("x"))
        rounds = [(ours(threads, streams), peer(threads, streams)) for _ in range(args.rounds)]
        for index, name in enumerate(["mizzen", "llama.cpp"]):
            best = max((both[index] for both in rounds), key=lambda figures: figures["tokens_s"])
            cpu = min(both[index]["cpu_ms"] for both in rounds)
            print(f"{threads:>7} {streams:>7} {name:>9} {best['tokens_s']:>9.1f} {cpu:>7.2f} {best['median_ms']:>7.1f} "
                  f"{best['p99_ms']:>7.1f} {best['prompt_tokens_s']:>8.0f} {best['prompt_cpu_ms']:>7.2f}", flush=True)


main()
