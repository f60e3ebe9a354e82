-- Batches of updates to five arms by name. Arguments after `--`: the size of a batch, and "different" for rewards of
-- which no two in a batch are alike; else they are ones and zeros.
function init(args)
  local size, updates = tonumber(args[1]), {}
  for i = 1, size do
    local reward = args[2] == "different" and i / size or i % 2
    updates[i] = string.format('{"arm_id":"arm-%d","reward":%.9g}', i % 5 + 1, reward)
  end
  wrk.headers["Content-Type"] = "application/json"
  batch = wrk.format("POST", nil, nil, '{"updates":[' .. table.concat(updates, ",") .. "]}")
end

function request()
  return batch
end
