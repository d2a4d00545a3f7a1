-- The requests of wrk: wrk ... -- <get|list|post|path> <users> <number of this run>

local posted = 0
local kinds = {}
local kind, users, run

function kinds.get()
  return wrk.format("GET", string.format("/users/00000000-0000-4000-8000-%012x", math.random(users)))
end

function kinds.list()
  return wrk.format("GET", "/users?limit=50")
end

function kinds.post()
  posted = posted + 1
  local body = string.format('{"name": "Ada", "email": "posted-%s-%d@example.com"}', run, posted)
  return wrk.format("POST", "/users", { ["Content-Type"] = "application/json" }, body)
end

function init(arguments)
  users, run = tonumber(arguments[2]), arguments[3]
  kind = kinds[arguments[1]] or function() return wrk.format("GET", arguments[1]) end
  math.randomseed(tonumber(run))
end

function request()
  return kind()
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "not_2xx": %d, "socket_errors": %d, "timeouts": %d, "p50": %f, "p99": %f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write, errors.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6
  ))
end
