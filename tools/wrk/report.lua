-- One line of JSON after wrk's own report, for scripts and graphs. The other scripts here include this file.
--   wrk -t1 -c64 -d10s -s tools/wrk/report.lua http://127.0.0.1:5900/ | tail -1
function done(summary, latency, requests)
  local seconds = summary.duration / 1e6
  local failed = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.3f,"rate":%.1f,"bytes":%d,'
      .. '"latency_us":{"mean":%.1f,"p50":%d,"p90":%d,"p99":%d,"p99.9":%d,"max":%d},'
      .. '"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}\n',
    summary.requests, seconds, summary.requests / seconds, summary.bytes,
    latency.mean, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    latency:percentile(99.9), latency.max,
    failed.connect, failed.read, failed.write, failed.timeout, failed.status))
end
