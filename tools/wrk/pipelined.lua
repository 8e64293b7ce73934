-- Several GETs per write (HTTP pipelining); their number is the argument (default 8). wrk times whole batches here but counts
-- requests, so its highest percentiles come out as 0: look at the rate.
--   wrk -t1 -c64 -d10s --latency -s tools/wrk/pipelined.lua http://127.0.0.1:5900/ -- 16
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
dofile(here .. "report.lua")

local batch

function init(arguments)
  local depth = tonumber(arguments[1]) or 8
  batch = string.rep(wrk.format(), depth)
end

function request()
  return batch
end
