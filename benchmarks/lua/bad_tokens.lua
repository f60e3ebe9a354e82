-- Requests with tokens whose signatures are wrong, each another one. Arguments after `--`: a good token.
local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
local signed, serial = "", 0

function init(args)
  signed = args[1]:match("^(.*%.)")
end

function request()
  serial = serial + 1
  local n, digits = serial, {}
  for i = 1, 42 do
    local digit = n % 64
    n = math.floor(n / 64) + digit * i
    digits[i] = DIGITS:sub(digit + 1, digit + 1)
  end
  return wrk.format("GET", nil, { Host = wrk.headers["Host"], Authorization = "Bearer " .. signed .. table.concat(digits) .. "A" })
end
