-- Batches of updates to five arms by name, each with a key that was never used before, so that each is new and has to be
-- looked up. Arguments after `--`: the size of a batch, and a word that no other run has used.
local size, word, serial = 0, "", 0

function init(args)
  size, word = tonumber(args[1]), args[2]
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  local updates = {}
  for i = 1, size do
    serial = serial + 1
    updates[i] = '{"arm_id":"arm-' .. (i % 5 + 1) .. '","reward":1,"key":"' .. word .. serial .. '"}'
  end
  return wrk.format("POST", nil, nil, '{"updates":[' .. table.concat(updates, ",") .. "]}")
end
