-- wrk -s wrk.lua URL -- MODE [ARGUMENT]
--   plain              the URL, again and again: no Lua runs between requests
--   pipelined N        N requests of the URL in one write
--   random FILE        a path of the file, at random
-- The last line of the output is for programs: times in microseconds.

function init(args)
    local mode, argument = args[1], args[2]
    if mode == "pipelined" then
        local one, all = wrk.format(), {}
        for _ = 1, tonumber(argument) do all[#all + 1] = one end
        local together = table.concat(all)
        request = function() return together end
    elseif mode == "random" then
        local requests = {}
        for path in io.lines(argument) do requests[#requests + 1] = wrk.format(nil, path) end
        math.randomseed(1)
        request = function() return requests[math.random(#requests)] end
    end
end

function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    print(string.format("RESULT %d %d %d %d %d %d %d", summary.requests, summary.duration, failed,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max))
end
