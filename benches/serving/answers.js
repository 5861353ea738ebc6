// k6's script: every request has numbers of its own, and every answer must be twice those.
// Environment: HTTP, GRPC (addresses), PROTO (the repository's folder proto), MODEL, PROTOCOL (rest or grpc).

import { check } from 'k6';
import encoding from 'k6/encoding';
import grpc from 'k6/net/grpc';
import http from 'k6/http';

const client = new grpc.Client();
client.load([__ENV.PROTO], 'inference/inference.proto');
let connected = false;

function same(values, x) {
  return values.length === x.length && values.every((v, i) => Math.abs(v - 2 * x[i]) < 1e-3);
}

function rest(x) {
  const body = JSON.stringify({ inputs: [{ name: 'x', datatype: 'FP32', shape: [1, 4], data: x }] });
  const answer = http.post(`http://${__ENV.HTTP}/v2/models/${__ENV.MODEL}/infer`, body,
    { headers: { 'Content-Type': 'application/json' } });
  check(answer, {
    'status is right': (a) => a.status === 200,
    'answer is right': (a) => a.status === 200 && same(a.json().outputs[0].data, x),
  });
}

function rpc(x) {
  if (!connected) {
    client.connect(__ENV.GRPC, { plaintext: true });
    connected = true;
  }
  const answer = client.invoke('inference.GRPCInferenceService/ModelInfer', {
    model_name: __ENV.MODEL,
    inputs: [{ name: 'x', datatype: 'FP32', shape: [1, 4], contents: { fp32_contents: x } }],
  });
  check(answer, {
    'status is right': (a) => a.status === grpc.StatusOK,
    'answer is right': (a) => a.status === grpc.StatusOK
      && same(Array.from(new Float32Array(encoding.b64decode(a.message.rawOutputContents[0]))), x),
  });
}

export default function () {
  const x = Array.from({ length: 4 }, () => Math.fround(Math.random() * 100));
  (__ENV.PROTOCOL === 'grpc' ? rpc : rest)(x);
}
