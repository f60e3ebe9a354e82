-- Batches of updates to five arms by name. Arguments after `--`: the size of a batch.
function init(args)
  local updates = {}
  for i = 1, tonumber(args[1]) do
    updates[i] = string.format('{"arm_id":"arm-%d","reward":%d}', i % 5 + 1, i % 2)
  end
  wrk.headers["Content-Type"] = "application/json"
  batch = wrk.format("POST", nil, nil, '{"updates":[' .. table.concat(updates, ",") .. "]}")
end

function request()
  return batch
end
