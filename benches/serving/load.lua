-- wrk's script: one body, its headers, and the figures as one line of JSON.
-- Arguments: the file with the body, its content type, and the length of the JSON in front of binary tensors (or 0).

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   wrk.headers["Content-Type"] = args[2]
   if args[3] ~= "0" then
      wrk.headers["Inference-Header-Content-Length"] = args[3]
   end
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      '\n{"answers":%d,"not_2xx":%d,"lost":%d,"timeouts":%d,"seconds":%f,"p50":%f,"p99":%f,"p99_9":%f,"max":%f}\n',
      summary.requests, e.status, e.connect + e.read + e.write, e.timeout, summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
