-- What a script may use, and what stops it. Runs once per runtime, before the script; gives its environment.
-- Rules: nothing that loads code, reaches the system or other runtimes; nothing in C that takes long (pattern matching,
-- finalizers); an exhausted budget cannot be caught.
local sethook, clock, find, load = debug.sethook, os.clock, string.find, load
local error, pcall, rawget, setmetatable, type = error, pcall, rawget, setmetatable, type
local EXHAUSTED = "the script took more instructions or time than it may"
local STEP = 100 -- an instruction may be a call into C that takes a millisecond, so not more
local NESTED = 8 -- pcalls within each other: near the end of the C stack hooks fail, and errors there can be caught
local left, until_, exhausted, depth = 0, 0, false, 0

local function hook()
    left = left - STEP
    if left < 0 or clock() > until_ then
        exhausted = true
        sethook(hook, "", 1) -- from now on nothing more is done, wherever it was caught
        error(EXHAUSTED, 0)
    end
end

local function allow(instructions, seconds)
    left, until_, exhausted, depth = instructions, clock() + seconds, false, 0
    sethook(hook, "", STEP)
end

local function checked(...)
    depth = depth - 1
    if exhausted then error(EXHAUSTED, 0) end
    return ...
end

local text = {
    byte = string.byte, char = string.char, format = string.format, len = string.len, lower = string.lower,
    rep = string.rep, reverse = string.reverse, sub = string.sub, upper = string.upper,
}
function text.find(s, what, init) return find(s, what, init, true) end -- plain: patterns may take for ever

local strings = getmetatable("")
strings.__index = text
strings.__metatable = false

local env = {
    assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, rawequal = rawequal, rawget = rawget,
    rawlen = rawlen, rawset = rawset, select = select, tonumber = tonumber, tostring = tostring, type = type,
    getmetatable = getmetatable, string = text, utf8 = { char = utf8.char, len = utf8.len, codepoint = utf8.codepoint },
    math = math,
    table = { concat = table.concat, insert = table.insert, pack = table.pack, remove = table.remove,
              unpack = table.unpack },
}
function env.pcall(f, ...)
    if depth >= NESTED then error("pcall is nested too deeply", 2) end
    depth = depth + 1
    return checked(pcall(f, ...))
end
-- no xpcall: its handler runs within the hook that failed, where no hook can stop it
function env.setmetatable(t, meta)
    if type(meta) == "table" and rawget(meta, "__gc") ~= nil then error("finalizers are not allowed", 2) end
    return setmetatable(t, meta)
end
env._G = env

local function run(code, name) -- text only: bytecode can break out
    local chunk, problem = load(code, name, "t", env)
    if not chunk then error(problem, 0) end
    return chunk()
end

return { env = env, allow = allow, run = run, unhook = sethook } -- unhook: in C, so that no hook stops it
