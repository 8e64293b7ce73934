-- A Kairos plugin in Lua: answers robots itself, and tells everybody else's backend the language they asked for.
--
--   plugins: [{file: examples/plugins/greet.lua, settings: {language: en}}]

function on_request()
    if match(request.header("user-agent") or "", "(?i)bot|crawler") then
        return respond(403, "no robots\n", { ["Content-Type"] = "text/plain" })
    end
    request.set_header("X-Language", request.query("lang") or settings.language)
end

function on_response()
    response.set_header("X-Greeted", "yes")
end
