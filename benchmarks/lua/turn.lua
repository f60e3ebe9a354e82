-- A draw, then its update with the decision_id, in turn. wrk runs one thread here, so one queue of decision ids serves
-- all its connections: whichever may send next takes the oldest open decision, or draws where there is none.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

local ids, first, last = {}, 1, 0
local draw, head
local id_length, post = -1, ""
sent, accepted = 0, 0

function init(args)
  local path = wrk.path
  draw = wrk.format("GET", path .. "/draw")
  head = "POST " .. path .. "/update HTTP/1.1\r\nHost: " .. wrk.headers["Host"] ..
    "\r\nContent-Type: application/json\r\nContent-Length: "
end

function request()
  if first > last then
    return draw
  end
  local id = ids[first]
  ids[first] = nil
  first = first + 1
  sent = sent + 1
  if #id ~= id_length then -- ids of one experiment are of one length
    id_length = #id
    post = head .. (#id + 29) .. '\r\n\r\n{"decision_id":"'
  end
  return post .. id .. '","reward":1}'
end

function response(_, _, body)
  local id = body:match('"decision_id":"([^"]+)"')
  if id then
    last = last + 1
    ids[last] = id
  elseif body:find('"accepted":1', 1, true) then
    accepted = accepted + 1
  end
end

function done()
  io.write(string.format("updates sent %d accepted %d\n", threads[1]:get("sent"), threads[1]:get("accepted")))
end
