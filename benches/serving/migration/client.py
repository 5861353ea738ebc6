"""What an application that was written for Triton does: `python client.py HTTP_ADDRESS GRPC_ADDRESS`.

Nothing here knows which server answers. It prints one line for each thing it does; a line that fails says with what.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as rpc
import tritonclient.http as rest
from tritonclient.utils import InferenceServerException

http, grpc = sys.argv[1:]
A, B = np.arange(4, dtype=np.int32).reshape(1, 4), np.ones((1, 4), np.int32)
X = np.array([[1, 2, 3, 4]], np.float32)


def step(name, do):
    try:
        print(f"{name}: {do()}", flush=True)
    except InferenceServerException as error:
        print(f"{name}: refused with {error.status()}", flush=True)


def tensors(library, named):
    made = []
    for name, array in named.items():
        made.append(library.InferInput(name, list(array.shape), "INT32" if array.dtype == np.int32 else "FP32"))
        made[-1].set_data_from_numpy(array)
    return made


def infer(library, client, model, named, wanted, **how):
    answer = client.infer(model, tensors(library, named), **how)
    return {name: answer.as_numpy(name).tolist() for name in wanted}


def both(library, client):
    pair = {"INPUT0": A, "INPUT1": B}
    step("live, ready, model ready", lambda: [client.is_server_live(), client.is_server_ready(), client.is_model_ready("simple")])
    metadata = lambda m: m if isinstance(m, dict) else {"name": m.name, "platform": m.platform, "versions": list(m.versions)}
    step("metadata", lambda: {k: metadata(client.get_model_metadata("simple"))[k] for k in ("name", "platform", "versions")})
    step("infer", lambda: infer(library, client, "simple", pair, ["OUTPUT0", "OUTPUT1"], request_id="7"))
    step("infer, one version", lambda: infer(library, client, "versions", {"x": X}, ["y"], model_version="1"))
    step("infer, the newest version", lambda: infer(library, client, "versions", {"x": X}, ["y"]))
    classes = [library.InferRequestedOutput("OUTPUT0", class_count=2)]
    step("classification", lambda: client.infer("simple", tensors(library, pair), outputs=classes).as_numpy("OUTPUT0").tolist())
    step("ensemble", lambda: infer(library, client, "ensemble", {"RAW": X}, ["SCALED"]))
    step("priority and timeout", lambda: infer(library, client, "simple", pair, ["OUTPUT0"], priority=0, timeout=5_000_000))
    step("unknown model", lambda: infer(library, client, "absent", {"x": X}, ["y"]))
    step("wrong shape", lambda: infer(library, client, "bare", {"x": X[:, :3]}, ["y"]))
    step("too many rows", lambda: infer(library, client, "bare", {"x": X.repeat(9, 0)}, ["y"]))
    step("unload and load", lambda: [client.unload_model("double"), client.load_model("double"), client.is_model_ready("double")])
    step("statistics", lambda: bool(client.get_inference_statistics("simple")))


def streaming(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result.as_numpy("OUTPUT0").tolist()))
    for number in range(3):
        client.async_stream_infer("simple", tensors(rpc, {"INPUT0": A + number, "INPUT1": B}), request_id=str(number))
    got = [answers.get(timeout=10) for _ in range(3)]
    client.stop_stream()
    return got


def shared_memory(library, client):
    import tritonclient.utils.shared_memory as shm

    region = shm.create_shared_memory_region("input", "/mizzen_migration", X.nbytes)
    try:
        shm.set_shared_memory_region(region, [X])
        client.register_system_shared_memory("input", "/mizzen_migration", X.nbytes)
        tensor = library.InferInput("x", [1, 4], "FP32")
        tensor.set_shared_memory("input", X.nbytes)
        answer = client.infer("bare", [tensor]).as_numpy("y").tolist()
        client.unregister_system_shared_memory("input")
        return answer
    finally:
        shm.destroy_shared_memory_region(region)


def decoupled(client):
    done = [client.async_infer("simple", tensors(rest, {"INPUT0": A + n, "INPUT1": B})) for n in range(8)]
    return [answer.get_result().as_numpy("OUTPUT1")[0, 0].item() for answer in done]


print("REST")
client = rest.InferenceServerClient(http, concurrency=8)
both(rest, client)
step("asynchronous", lambda: decoupled(client))
step("compressed", lambda: infer(rest, client, "bare", {"x": X}, ["y"], request_compression_algorithm="gzip",
                                 response_compression_algorithm="gzip"))
step("shared memory", lambda: shared_memory(rest, client))
step("trace settings", lambda: bool(client.get_trace_settings()))
step("log settings", lambda: bool(client.get_log_settings()))
print("gRPC")
client = rpc.InferenceServerClient(grpc)
both(rpc, client)
step("stream", lambda: streaming(client))
step("compressed", lambda: infer(rpc, client, "bare", {"x": X}, ["y"], compression_algorithm="gzip"))
step("shared memory", lambda: shared_memory(rpc, client))
step("trace settings", lambda: bool(client.get_trace_settings()))
step("log settings", lambda: bool(client.get_log_settings()))
