# Reaches the one host that is allowed, and is refused another one. curl is told
# of the way out by its environment.
curl -sS -o /dev/null -w 'example.com: %{http_code}\n' http://example.com/
curl -sS http://example.net/secret?key=123
