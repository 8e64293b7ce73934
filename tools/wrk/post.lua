-- POST a body. Its size comes from -H "X-Body-Bytes: N" (default 1024), its type is text/plain.
--   wrk -t1 -c64 -d10s --latency -s tools/wrk/post.lua -H "X-Body-Bytes: 16384" http://127.0.0.1:5900/all/echo
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
dofile(here .. "report.lua")

local bytes = tonumber(wrk.headers["X-Body-Bytes"]) or 1024
wrk.headers["X-Body-Bytes"] = nil
wrk.headers["Content-Type"] = "text/plain"
wrk.method = "POST"
wrk.body = string.rep("0123456789abcdef", math.ceil(bytes / 16)):sub(1, bytes)
