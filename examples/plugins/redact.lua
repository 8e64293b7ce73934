-- A Kairos plugin in Lua that reads bodies: orders without a customer are refused, card numbers never leave.
--
--   plugins: [{file: examples/plugins/redact.lua, body_limit: 65536}]

function on_request_body(body)
    if not match(body, [["customer"\s*:]]) then
        return respond(422, "an order needs a customer\n", { ["Content-Type"] = "text/plain" })
    end
    return replace(body, [["note"\s*:\s*"[^"]*"]], '"note":""')
end

function on_response_body(body)
    return replace(body, [[\b\d{12}(\d{4})\b]], "************$1")
end
