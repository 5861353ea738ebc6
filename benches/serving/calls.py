"""One request of each protocol, and whether a server's answer to it is right."""

import dataclasses
import http.client
import json
import struct

import numpy as np

V2_PROTOCOLS = ("grpc", "rest-binary", "rest-json")


@dataclasses.dataclass
class Call:
    """A request as the load tools send it."""
    protocol: str
    path: str
    body: bytes
    content_type: str = "application/json"
    json_length: int = 0
    """Bytes of JSON in front of the binary tensors; 0 where there are none."""
    answer_bytes: int = 0
    """Length of a right answer's gRPC frame, known once it was seen."""


def v2(protocol, model, x):
    """An inference request of the Open Inference Protocol for the input `x`."""
    if protocol == "grpc":
        from tritonclient.grpc import service_pb2 as pb

        message = pb.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
        message.inputs.add(name="x", datatype="FP32", shape=x.shape)
        frame = message.SerializeToString()
        return Call("grpc", "/inference.GRPCInferenceService/ModelInfer", struct.pack(">BI", 0, len(frame)) + frame)
    entry = {"name": "x", "datatype": "FP32", "shape": list(x.shape)}
    path = f"/v2/models/{model}/infer"
    if protocol == "rest-json":
        return Call(protocol, path, json.dumps({"inputs": [{**entry, "data": x.ravel().tolist()}]}).encode())
    entry["parameters"] = {"binary_data_size": x.nbytes}
    head = json.dumps({"inputs": [entry], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    return Call(protocol, path, head + x.tobytes(), "application/octet-stream", len(head))


def check(server, call, expected):
    """Sends the call once and holds the answer against what the engine alone gives."""
    got = ask(server, call)
    if not np.allclose(np.ravel(got), np.ravel(expected), rtol=1e-3, atol=1e-4):
        raise RuntimeError(f"{call.protocol}: wrong answer: {np.ravel(got)[:4]} where {np.ravel(expected)[:4]} is right")


def ask(server, call):
    """The values a server answers; raises on an error status."""
    if call.protocol == "grpc":
        return ask_grpc(server, call)
    status, headers, body = post(server.http, call)
    if status != 200:
        raise RuntimeError(f"{call.protocol}: HTTP {status}: {body[:300]!r}")
    length = headers.get("inference-header-content-length")
    if length is not None:
        return np.frombuffer(body[int(length):], np.float32)
    answer = json.loads(body)
    return np.array(answer["outputs"][0]["data"] if "outputs" in answer else answer["y"], np.float32)


def post(address, call):
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    headers = {"Content-Type": call.content_type}
    if call.json_length:
        headers["Inference-Header-Content-Length"] = str(call.json_length)
    connection.request("POST", call.path, call.body, headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def get(address, path):
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.getheaders(), body


def ask_grpc(server, call):
    import grpc
    from tritonclient.grpc import service_pb2 as pb

    with grpc.insecure_channel(server.grpc) as channel:
        raw = channel.unary_unary(call.path)(call.body[5:], timeout=30)
    call.answer_bytes = len(raw) + 5
    answer = pb.ModelInferResponse.FromString(raw)
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], np.float32)
    return np.array(answer.outputs[0].contents.fp32_contents, np.float32)
