-- One reward to an arm by name; the five arms in turn, ones and zeros.
local requests, turn = {}, 0

function init(args)
  wrk.headers["Content-Type"] = "application/json"
  for i = 0, 9 do
    local body = string.format('{"arm_id":"arm-%d","reward":%d}', i % 5 + 1, math.floor(i / 5))
    requests[i] = wrk.format("POST", nil, nil, body)
  end
end

function request()
  turn = (turn + 1) % 10
  return requests[turn]
end
