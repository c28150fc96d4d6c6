#!/bin/sh
# A client with nothing but a shell and curl: every line "A B" of the standard input becomes a task that adds two numbers.
# All go in one request; then the results are printed in the same order.
#   printf '1 2\n3 4\n' | examples/add.sh
set -eu
url="${LOVAGE_URL:-http://127.0.0.1:8275}"

awk '{ printf "{\"task\":\"demo.add\",\"args\":[%s,%s]}\n", $1, $2 }' |
  curl -sS --fail-with-body "$url/v1/tasks:batch" -H 'content-type: application/x-ndjson' --data-binary @- |
  while read -r item; do
    id=$(printf '%s\n' "$item" | sed -n 's/.*"id":"\([^"]*\)".*/\1/p')
    # A line that was refused has a problem instead of an id.
    [ -n "$id" ] || { printf '%s\n' "$item" >&2; exit 1; }
    printf '%s\n' "$(curl -sS --fail-with-body "$url/v1/tasks/$id/result?wait=30s")"
  done
