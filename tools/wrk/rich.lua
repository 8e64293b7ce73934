-- GET with the twelve headers a browser application sends.
--   wrk -t1 -c64 -d10s --latency -s tools/wrk/rich.lua http://127.0.0.1:5900/
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
dofile(here .. "report.lua")

wrk.headers["Accept"] = "application/json, text/plain, */*"
wrk.headers["Accept-Encoding"] = "gzip, deflate, br, zstd"
wrk.headers["Accept-Language"] = "en-GB,en;q=0.9,de;q=0.8"
wrk.headers["Authorization"] = "Bearer 7f3c2b1a9d8e4f60b5a4c3d2e1f00918"
wrk.headers["Cache-Control"] = "no-cache"
wrk.headers["Cookie"] = "session=5d41402abc4b2a76b9719d911017c592; theme=dark; consent=1"
wrk.headers["Origin"] = "https://app.example.com"
wrk.headers["Referer"] = "https://app.example.com/dashboard?tab=usage"
wrk.headers["Sec-Fetch-Mode"] = "cors"
wrk.headers["Sec-Fetch-Site"] = "same-site"
wrk.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
wrk.headers["X-Requested-With"] = "XMLHttpRequest"
