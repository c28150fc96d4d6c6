#!/bin/sh
# A Lovage worker in shell: socat listens and runs this script again for each request (`worker.sh handle`).
# It needs socat and curl. It registers itself at LOVAGE_URL as "shell" for the tasks "ex.*" and listens on PORT.
# Signatures are not checked here: listen where only Lovage can reach you.
set -eu
export LC_ALL=C # lengths are bytes
port="${PORT:-8000}"
lovage="${LOVAGE_URL:-http://127.0.0.1:8275}"

if [ "${1:-}" != handle ]; then
  socat "TCP-LISTEN:$port,bind=127.0.0.1,reuseaddr,fork" "EXEC:sh $0 handle,nofork" &
  trap 'kill $!' EXIT INT TERM
  # A call that comes before socat listens is a fault of the endpoint: Lovage tries again soon.
  curl -sS --fail-with-body -o /dev/null -X PUT "$lovage/v1/workers/shell" -H 'content-type: application/json' \
    ${LOVAGE_KEY:+-H "authorization: Bearer $LOVAGE_KEY"} \
    -d "{\"url\":\"http://127.0.0.1:$port/\",\"tasks\":[\"ex.*\"]}"
  echo "serving ex.* on port $port"
  wait
  exit
fi

# The request: headers up to an empty line, then the body.
length=0 attempt_url="" resume="" cr=$(printf '\r')
while read -r line && line="${line%"$cr"}" && [ -n "$line" ]; do
  value="${line#*: }"
  case "$line" in
  [Cc]ontent-[Ll]ength:*) length="$value" ;;
  [Ll]ovage-[Aa]ttempt-[Uu]rl:*) attempt_url="$value" ;;
  [Ll]ovage-[Rr]esume:*) resume="$value" ;;
  esac
done
body=$(head -c "$length")
task=$(printf '%s' "$body" | sed -n 's/.*"task": *"\([^"]*\)".*/\1/p')
args=$(printf '%s' "$body" | sed -n 's/.*"args": *\[\(.*\)\], *"kwargs".*/\1/p') # what is between the outer brackets

answer() { # status, content type, body, a further header
  printf 'HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %s\r\nConnection: close\r\n' "$1" "$2" "${#3}"
  [ -z "${4:-}" ] || printf '%s\r\n' "$4"
  printf '\r\n%s' "$3"
}
sum() { # of numbers, one a line
  awk '{ total += $1 } END { print total + 0 }'
}

case "$task" in
ex.add) # the answer is the result
  answer '200 OK' application/json "$(printf '%s\n' "$args" | tr ',' '\n' | sum)"
  ;;
ex.later) # 202: the result is reported to the URL of the attempt; a report without an answer may be sent again
  answer '202 Accepted' text/plain '' 'Lovage-Lease: 1m'
  printf '%s\n' "$args" | tr ',' '\n' | sum |
    curl -sS --fail-with-body --retry 5 "$attempt_url/complete" -H 'content-type: application/json' --data-binary @- >/dev/null
  ;;
ex.steps) # a stream of lines: progress, and at the end the result
  printf 'HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n'
  step=1
  while [ "$step" -le "$args" ]; do
    printf '{"progress":{"step":%s}}\n' "$step"
    step=$((step + 1))
  done
  printf '{"result":%s}\n' "$args"
  ;;
ex.total) # starts a task for each pair and is called again when all of them are final
  if [ "$resume" = 1 ]; then
    answer '200 OK' application/json "$(printf '%s' "$body" | grep -o '"result": *[0-9.-]*' | sed 's/.*://' | sum)"
  else
    tasks=$(printf '%s' "$args" | sed 's/\[\([^]]*\)\]/{"task":"ex.add","args":[\1]}/g')
    answer '200 OK' application/vnd.lovage.outcome+json "{\"outcome\":\"spawn\",\"tasks\":[$tasks],\"then\":\"wait\"}"
  fi
  ;;
*) # 422: it would fail again, so it is not tried again
  answer '422 Unprocessable Content' application/json '{"type":"Refused","message":"the shell cannot work with this"}'
  ;;
esac
