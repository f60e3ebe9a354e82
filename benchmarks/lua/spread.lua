-- Draws spread at random over experiments e-1 to e-N. Arguments after `--`: N.
local requests, count = {}, 0

function init(args)
  count = tonumber(args[1])
  for i = 1, count do
    requests[i] = wrk.format("GET", "/v1/e-" .. i .. "/draw")
  end
end

function request()
  return requests[math.random(count)]
end
