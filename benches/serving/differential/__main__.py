"""Asks Triton and Mizzen the same and says where their answers differ: `python benches/serving/differential`.

Both start on the same repository with the same flags. Compared are statuses, headers that clients read, and bodies as
data; the words of an error are shown but not compared, since Mizzen's say more. What differs on purpose is listed in
`known.py` with the reason. Exits 1 if something else differs, or if a listed difference is gone.
"""

import argparse
import concurrent.futures
import http.client
import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import install  # noqa: E402
import peers  # noqa: E402
from differential import cases, known, repository  # noqa: E402

parser = argparse.ArgumentParser(prog="python benches/serving/differential", description=__doc__)
parser.add_argument("--mizzen", type=pathlib.Path, help="our binary [target/release/mizzen]")
parser.add_argument("--show", choices=["unknown", "all", "texts"], default="unknown",
                    help="unknown differences, known ones too, or also error texts side by side [%(default)s]")
parser.add_argument("--json", type=pathlib.Path, help="write all answers of both here")
args = parser.parse_args()

FLAGS = ["--model-control-mode", "explicit", "--load-model", "*", "--exit-on-error", "false", "--strict-readiness", "false"]
HEADERS = ("content-type", "inference-header-content-length", "allow")


def ask_rest(address, case):
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request(case.method, case.path, case.body, case.headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return {"status": f"no answer: {type(error).__name__}"}
    finally:
        connection.close()
    headers = {name: answer.getheader(name) for name in HEADERS if answer.getheader(name)}
    length = int(headers.get("inference-header-content-length", 0))
    seen = {"status": answer.status, "headers": headers}
    text = body[:length] if length else body
    try:
        seen["body"] = json.loads(text) if text else None
    except ValueError:
        seen["body"] = text.decode(errors="replace")
    if length:
        seen["binary"] = body[length:].hex()
        seen["headers"]["inference-header-content-length"] = "set"
    return seen


def overload(address):
    """The statuses of twelve requests at once to a model with a queue of one, and whether refusals say when to return."""
    case = cases.infer("", "queue", cases.one([0.0] * 256, (1, 256)))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        seen = list(pool.map(lambda _: ask_rest(address, case), range(12)))
    refused = sorted({answer["status"] for answer in seen} - {200}, key=str)
    return {"status": 200 if any(answer["status"] == 200 for answer in seen) else "none is answered",
            "refused": refused, "texts": sorted({answer["body"]["error"] for answer in seen if answer["status"] in refused})}


def ask_grpc(channel, method, document):
    import grpc
    from google.protobuf import json_format
    from tritonclient.grpc import service_pb2 as pb

    # The service's own table of methods says which messages they take and give.
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[method]
    request = getattr(pb, service.input_type.name)()
    json_format.ParseDict(document, request)
    reply = getattr(pb, service.output_type.name)
    call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}", pb.ModelInferRequest.SerializeToString
                               if method == "ModelInfer" else type(request).SerializeToString, reply.FromString)
    try:
        return {"status": "OK", "body": json_format.MessageToDict(call(request, timeout=20), preserving_proto_field_name=True)}
    except grpc.RpcError as error:
        return {"status": error.code().name, "body": {"error": error.details()}}


def comparable(seen):
    """What is held against the other's: of an error its status, of an answer all but what differs from run to run."""
    body = seen.get("body")
    if seen["status"] not in (200, "OK") or (isinstance(body, dict) and set(body) == {"error"}):
        return {"status": seen["status"]}
    return {**{k: v for k, v in seen.items() if k != "texts"}, "body": stable(body)}


def stable(value, key=""):
    """The value without times and the words of reasons, and with an order where it has none (maps, the index)."""
    if isinstance(value, dict):
        return {k: stable(v, k) for k, v in sorted(value.items()) if k not in ("ns", "last_inference", "reason")}
    if isinstance(value, list):
        values = [stable(v, key) for v in value]
        named = values and all(isinstance(v, dict) and "name" in v for v in values) and key != "outputs"
        return sorted(values, key=lambda v: (v["name"], v.get("version", ""))) if named else values
    if key == "byte_size":
        return "measured"
    if value == "UNLOADING":
        return "UNAVAILABLE"  # which it is a moment later
    return round(value, 5) if isinstance(value, float) else value


def differences(theirs, ours, path=""):
    """The places where two answers differ, as (path, theirs, ours)."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            yield from differences(theirs.get(key, "(absent)"), ours.get(key, "(absent)"), f"{path}.{key}".lstrip("."))
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, pair in enumerate(zip(theirs, ours)):
            yield from differences(*pair, f"{path}[{index}]")
    elif theirs != ours:
        yield path, theirs, ours


def main():
    import grpc

    if args.mizzen:
        peers.Mizzen.binary = args.mizzen.resolve()
    both, answers = [peers.Triton(), peers.Mizzen()], []
    try:
        for peer in both:
            peer.prepare()
    except install.Unavailable as error:
        sys.exit(f"{peer.name} cannot be had here: {error}")
    for peer in both:
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            repository.make(scratch / "models")
            server = peer.start(scratch / "models", scratch, flags=FLAGS)
            with grpc.insecure_channel(server.grpc) as channel:
                rest = {("REST", case.name): ask_rest(server.http, case) for case in cases.REST}
                rpcs = {("gRPC", f"{method} {json.dumps(document)}"): ask_grpc(channel, method, document)
                        for method, document in cases.GRPC}
            rest["REST", "a queue that is full"] = overload(server.http)
            server.stop()
            answers.append({**rest, **rpcs})
    if args.json:
        args.json.write_text(json.dumps([{"case": case, "triton": theirs, "mizzen": answers[1][case]}
                                         for case, theirs in answers[0].items()], indent=1))
    report(*answers)


def report(triton, mizzen):
    same, expected, unknown, used = 0, 0, 0, set()
    for case in triton:
        theirs, ours = triton[case], mizzen[case]
        found = list(differences(comparable(theirs), comparable(ours)))
        if args.show == "texts" and isinstance(theirs.get("body"), dict) and "error" in theirs["body"]:
            print(f"{case[0]}: {case[1]}\n  Triton {theirs['status']}: {theirs['body']['error']}\n"
                  f"  Mizzen {ours['status']}: {(ours.get('body') or {}).get('error')}")
        same += not found
        # What has another status has another body, too.
        for path, a, b in [f for f in found if f[0] == "status"] or found:
            reason = known.reason(case, path, a, b, used)
            expected, unknown = expected + bool(reason), unknown + (not reason)
            if not reason or args.show != "unknown":
                print(f"{case[0]}: {case[1]}\n  {path}: Triton {shown(a)}, Mizzen {shown(b)}"
                      f"{f'  ({reason})' if reason else ''}")
                if not reason and path == "status":
                    print(f"    Triton: {shown(theirs.get('body'))}\n    Mizzen: {shown(ours.get('body'))}")
    gone = [entry for entry in known.ALL if entry not in used]
    for entry in gone:
        print(f"known difference that is gone: {entry.case} {entry.path}: {entry.reason}")
    print(f"{len(triton)} requests: {same} answered the same; {expected} known differences, {unknown} unknown")
    sys.exit(1 if unknown or gone else 0)


def shown(value):
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) < 300 else text[:300] + "…"


main()
