-- The same request with a token, as wrk sends it without one. Arguments after `--`: the token.
function init(args)
  wrk.headers["Authorization"] = "Bearer " .. args[1]
end
