-- SPDX-License-Identifier: GPL-2.0-or-later
-- Errors (longjmp), coroutines, closures, sorting, strings, garbage collection.
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
print(fib(18))
print(pcall(function() local x = nil; return x.field end))
print(select(2, pcall(error, { code = 3 })).code)
local co = coroutine.wrap(function() for i = 1, 5 do coroutine.yield(i * i) end end)
for i = 1, 5 do io.write(co(), " ") end print()
local t = {}
for i = 1, 2000 do t[i] = (i * 7919) % 1009 end
table.sort(t, function(a, b) return a > b end)
print(t[1], t[1000], t[2000])
print(string.format("%5.2f %s %q", 3.14159, "x", "y\n"), ("hello"):gsub("l", "L"))
print(select("#", table.unpack(t, 1, 200)), (pcall(string.rep)))
local n = 0
for i = 1, 300 do
    local ok = pcall(function() if i % 3 == 0 then error("x") end end)
    if not ok then n = n + 1 end
end
print(n)
for w in ("the quick brown fox"):gmatch("%a+") do io.write(w:reverse(), ".") end print()
collectgarbage()
print(#setmetatable({}, { __len = function() return 42 end }), 7 // 2, 7.5 % 2, 1 << 40)
print("end")
