"""Batched TorchScript through the server, against a bare loop over libtorch.

`python benches/engines/torchscript.py` after `make build` and `make torch`; writes benches/results/. The bare loop runs the
same module, in batches of the same size and on as many threads, with nothing around it.
"""

import argparse
import json
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches/serving"))

from measure import machine as measure_machine  # noqa: E402

TOOLS = ROOT / "target/debug/examples"
BATCH = 32
LAYERS = 5
# Heavy enough that batching matters: the ONNX perceptron of benches/run.py, one layer deeper.
MODELS = {
    "perceptron": (1024, "    for w in [self.w0, self.w1, self.w2, self.w3, self.w4]:\n"
                         "        x = torch.relu(torch.matmul(x, w))\n"),
}
# Protocol, rows a request, requests at once: three batches under way either way.
LOADS = [("rest-binary", 1, 3 * BATCH), ("grpc", 1, 3 * BATCH), ("rest-binary", BATCH, 3)]
CONFIG = """backend: "pytorch"
max_batch_size: {batch}
dynamic_batching {{ max_queue_delay_microseconds: 1000 preferred_batch_size: [ {batch} ] }}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
parameters {{ key: "INTRA_OP_THREAD_COUNT" value {{ string_value: "1" }} }}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {width} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {width} ] }} ]
"""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--mizzen", default=str(ROOT / "target/release/mizzen"))
parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements, in turn")
parser.add_argument("--out", type=pathlib.Path, help="where to write; benches/results/ where absent")
args = parser.parse_args()


def place(repository, name, width, body):
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    buffers = [f"w{layer}={width},{width}" for layer in range(LAYERS)]
    subprocess.run([TOOLS / "torchscript", folder / "1/model.pt", *buffers], text=True, check=True,
                   input=f"def forward(self, x: Tensor):\n{body}    return x\n")
    (folder / "config.pbtxt").write_text(CONFIG.format(batch=BATCH, width=width))
    return folder / "1/model.pt"


def bare(model, width):
    """Rows per second of the loop."""
    command = [TOOLS / "bare_torch", model, f"{BATCH},{width}", "1", str(args.seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * BATCH


def served(at, name, protocol, rows, concurrency):
    """Rows per second through the server, and what clients saw."""
    command = [args.mizzen, "bench", name, "-u", at["grpc" if protocol == "grpc" else "http"], "-p", protocol,
               "-c", str(concurrency), "-b", str(rows), "--duration", str(args.seconds), "--warmup", "1", "-o", "json"]
    report, = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return report


def measure(at, name, model, width):
    result = []
    for protocol, rows, concurrency in LOADS:
        # In turn, so that a machine that slows down slows both.
        pairs = [(bare(model, width), served(at, name, protocol, rows, concurrency)) for _ in range(args.rounds)]
        ratios = [report["rows_per_second"] / alone for alone, report in pairs]
        result.append({"protocol": protocol, "rows": rows, "requests_at_once": concurrency,
                       "ratio": statistics.median(ratios), "ratios": ratios,
                       "bare_rows_per_second": [alone for alone, _ in pairs], "served": [report for _, report in pairs]})
        print(f"{name}, batch {BATCH}, {protocol}, {rows} rows a request: "
              f"{statistics.median(r['rows_per_second'] for _, r in pairs):.0f} rows/s served, "
              f"{statistics.median(alone for alone, _ in pairs):.0f} bare: ratio {statistics.median(ratios):.2f} "
              f"({', '.join(f'{ratio:.2f}' for ratio in ratios)})", flush=True)
    return result


def main():
    result = {"machine": measure_machine(ROOT, "python benches/engines/torchscript.py " + " ".join(sys.argv[1:]))}
    print(json.dumps(result["machine"]), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        repository = pathlib.Path(scratch) / "models"
        files = {name: place(repository, name, *model) for name, model in MODELS.items()}
        server = subprocess.Popen(
            [args.mizzen, "--log", "warn", "serve", "--model-repository", repository, "--http-port", "0",
             "--grpc-port", "0", "--metrics-port", "0"], stdout=subprocess.PIPE, text=True)
        try:
            at = dict(field.split("=", 1) for field in server.stdout.readline().split()[1:])
            for name, (width, _) in MODELS.items():
                result[name] = measure(at, name, files[name], width)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    of = result["machine"]
    path = args.out or ROOT / f"benches/results/{of['date']}-{of['commit']}-torch.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


main()
