#!/bin/bash
# The main job from end to end, on a sample repository with a failing test.
#
#   tests/demo/run.sh start    a daemon on temporary data, the job, the proof
#   tests/demo/run.sh stop     ends the daemon and deletes what it made
#
# Without COMPY_MODEL the model is a script: it says what a model would say and
# nothing else. With COMPY_MODEL and a key a live model does the work.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
state=$target/demo
compyd=$target/release/compyd
compyctl=$target/release/compyctl
task="slugify drops the last word when max_length equals its length; fix it"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

stop() {
  [ -f "$state" ] || { echo "no demo is recorded in $state: there is nothing to stop"; return 0; }
  local dir pid
  dir=$(cat "$state")
  export COMPY_ENDPOINT=unix://$dir/compyd.sock
  if [ -S "$dir/compyd.sock" ]; then
    "$compyctl" workspace list 2>/dev/null | awk 'NR > 1 { print $1 }' |
      while read -r name; do "$compyctl" workspace delete "$name" --yes --force || true; done
  fi
  pid=$(cat "$dir/pid" 2>/dev/null || true)
  if [ -n "$pid" ] && kill "$pid" 2>/dev/null; then
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  fi
  docker volume ls --quiet --filter "label=compy.demo=$(basename "$dir")" | xargs -r docker volume rm >/dev/null
  rm -rf "$dir" "$state"
  echo "the demo's daemon, workspaces and data are gone"
}

start() {
  stop >/dev/null
  local dir model
  dir=$(mktemp -d /tmp/compy-demo.XXXXXX)
  mkdir -p "$target"
  echo "$dir" >"$state"
  export COMPY_ENDPOINT=unix://$dir/compyd.sock

  cp -r "$root/tests/sample" "$dir/textkit"
  git -C "$dir/textkit" init --quiet --initial-branch main
  git -C "$dir/textkit" add --all
  git -C "$dir/textkit" -c user.name=Demo -c user.email=demo@example.com \
    commit --quiet --message "textkit 0.3.0"

  model=${COMPY_MODEL:-scripted:$root/tests/sample-fix.jsonl}
  say "Starting compyd on $dir"
  setsid "$compyd" --data-dir "$dir/data" --listen "$COMPY_ENDPOINT" \
    --set "engine.labels=compy.demo=$(basename "$dir")" \
    >"$dir/compyd.log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
  for _ in $(seq 100); do
    [ -S "$dir/compyd.sock" ] && break
    kill -0 "$(cat "$dir/pid")" 2>/dev/null || { cat "$dir/compyd.log"; exit 1; }
    sleep 0.1
  done
  "$compyctl" doctor || true

  case $model in
    scripted:*) say "The model is SCRIPTED: a transcript is played back, nothing here is intelligent" ;;
    *) say "The model is $model" ;;
  esac
  say "compyctl run \"$task\" --repo $dir/textkit --test \"python -m pytest -q\""
  local verdict=0
  "$compyctl" run "$task" --repo "$dir/textkit" --test "python -m pytest -q" --model "$model" ||
    verdict=$?

  local session
  session=$("$compyctl" session list -o json | sed -n 's/^ *"id": "\(se-[0-9a-f]*\)",*$/\1/p' | head -n 1)
  if [ -n "$session" ]; then
    say "The session: todos, stages, proof, pull request"
    "$compyctl" session show "$session"
    say "The diff of the pull request"
    local diff
    diff=$("$compyctl" artifact list "$session" --type diff -o json |
      sed -n 's/^ *"id": "\(ar-[0-9a-f]*\)",*$/\1/p' | tail -n 1)
    [ -z "$diff" ] || "$compyctl" artifact get "$diff"
    say "The evidence"
    "$compyctl" artifact list "$session" --type evidence
    say "To look further (the daemon stays up until \`make demo-stop\`)"
    cat <<END
  export COMPY_ENDPOINT=$COMPY_ENDPOINT
  $compyctl session show $session
  $compyctl session watch $session
  $compyctl artifact list $session
  $compyctl workspace list
  $compyctl workspace shell textkit
END
  fi
  exit "$verdict"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  *) echo "usage: $0 start|stop" >&2; exit 2 ;;
esac
