-- GET random paths below the URL's own: <path>/<number up to the argument> (default 10000), to walk routes and parameters.
--   wrk -t1 -c64 -d10s --latency -s tools/wrk/paths.lua http://127.0.0.1:5900/api/users -- 100000
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
dofile(here .. "report.lua")

local prefix, greatest

function init(arguments)
  prefix = wrk.path:gsub("/$", "") .. "/"
  greatest = tonumber(arguments[1]) or 10000
  math.randomseed(os.time())
end

function request()
  return wrk.format("GET", prefix .. math.random(greatest))
end
