#!/usr/bin/env bash
# The whole use of ray_bilstm on the embedded sample corpus, in a few minutes: train, evaluate, predict, export to ONNX,
# tag without torch, serve, look at the report. It needs an installed environment: pip install -e '.[export,serve]'
#
#   docs/tour.sh            in a temporary directory, which is removed at the end
#   docs/tour.sh DIRECTORY  in a new or empty directory, which is kept
#
# PYTHON names the interpreter (default: python). Exit code 0 only if every step went well.
set -euo pipefail

if ! python=$(command -v "${PYTHON:-python}"); then
  echo "error: ${PYTHON:-python} is not found: name an interpreter that has ray_bilstm in PYTHON" >&2
  exit 1
fi
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
temporary="" server=""

clean_up() {
  [ -z "$server" ] || kill "$server"
  [ -z "$temporary" ] || rm -rf "$temporary"
}

if [ $# -gt 0 ]; then
  folder=$1
  mkdir -p "$folder"
  if [ -n "$(ls -A "$folder")" ]; then
    echo "error: $folder is not empty, expected a new or empty directory" >&2
    exit 1
  fi
else
  folder=$(mktemp -d)
  temporary=$folder
fi
trap clean_up EXIT
folder=$(cd "$folder" && pwd)
run=$folder/run model=$folder/run/best
number=0

step() {
  number=$((number + 1))
  printf '\n== %d. %s\n' "$number" "$*"
}

failed() {
  echo "error: step $number: $*" >&2
  exit 1
}

# ---- steps, each on its own once there is a model ----

train() {
  step "train: a few epochs on the embedded sample"
  "$python" -m ray_bilstm train --device cpu --train-epochs 4 --learning-rate 0.02 --batch-size 32 \
    --embedding-size 64 --hidden-size 64 --output-dir "$run"
  [ -s "$run/result.json" ] || failed "no $run/result.json"
}

evaluate() {
  step "evaluate: the model on the sample's test sentences"
  "$python" -m ray_bilstm evaluate "$model" --json "$folder/scores.json" >"$folder/scores.txt"
  "$python" -c 'import json, sys; print("entity F1", round(json.load(open(sys.argv[1]))["entity"]["f1"], 4))' \
    "$folder/scores.json"
}

predict() {
  step "predict: a file of texts, as JSON lines and as a page"
  printf '%s\n' "沈遥：女，中国国籍，无境外居留权，" "汉族，硕士，曾任副总经理。" >"$folder/texts.txt"
  "$python" -m ray_bilstm predict "$model" "$folder/texts.txt" --output "$folder/tagged.jsonl"
  "$python" -m ray_bilstm predict "$model" "$folder/texts.txt" --output "$folder/tagged.html"
  cat "$folder/tagged.jsonl"
  [ "$(wc -l <"$folder/tagged.jsonl")" -eq 2 ] || failed "expected two lines in $folder/tagged.jsonl"
}

export_model() {
  step "export: the model as ONNX, with a tagger"
  "$python" -m ray_bilstm export "$model" --output-dir "$folder/onnx"
}

tag_without_torch() {
  step "tag with the export, where torch cannot be imported"
  (cd "$folder/onnx" && PYTHONUTF8=1 "$python" - ../texts.txt ../tagged.jsonl) <<'PROGRAM' || failed "the export does not tag as the model does"
import json
import sys

sys.modules["torch"] = None  # importing it raises ImportError from here on

from tagger import OnnxTagger

texts = open(sys.argv[1], encoding="utf-8").read().splitlines()
found = [[(entity.start, entity.end, entity.type) for entity in entities] for entities in OnnxTagger(".").predict(texts)]
lines = [json.loads(line) for line in open(sys.argv[2], encoding="utf-8")]
expected = [[(entity["start"], entity["end"], entity["type"]) for entity in line["entities"]] for line in lines]
print(found)
assert found == expected, f"expected what the model found: {expected}"
PROGRAM
}

serve() {
  step "serve: the model over HTTP, on a port that is free"
  "$python" -m ray_bilstm serve "$model" --port 0 >"$folder/serve.out" 2>"$folder/serve.log" &
  server=$!
  local url
  until url=$(grep -o 'http://[^ ]*' "$folder/serve.out"); do
    if ! kill -0 "$server" 2>/dev/null; then
      server=""
      failed "the server has ended: $(cat "$folder/serve.log")"
    fi
    sleep 0.5
  done
  "$python" - "$url" "$folder/texts.txt" "$folder/tagged.jsonl" <<'PROGRAM' || failed "the service does not tag as the model does"
import json
import sys
from urllib.request import Request, urlopen

url, texts, tagged = sys.argv[1:]
print(urlopen(f"{url}/health").read().decode())
body = json.dumps({"text": open(texts, encoding="utf-8").read().splitlines()}).encode()
answer = json.load(urlopen(Request(f"{url}/tag", body, {"Content-Type": "application/json"})))
found = [[(entity["start"], entity["end"], entity["type"]) for entity in one["entities"]] for one in answer["results"]]
lines = [json.loads(line) for line in open(tagged, encoding="utf-8")]
expected = [[(entity["start"], entity["end"], entity["type"]) for entity in line["entities"]] for line in lines]
assert found == expected, f"got {found}, expected what the model found: {expected}"
PROGRAM
  kill -TERM "$server"
  wait "$server" || failed "the server did not end well: $(cat "$folder/serve.log")"
  server=""
}

look_at_report() {
  step "open the report in a browser"
  local browser
  browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
  if [ -z "$browser" ]; then
    echo "no Chromium here: left out; the report is $run/report.html"
    return
  fi
  "$browser" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --enable-logging=stderr --user-data-dir="$folder/browser" --dump-dom \
    "file://$run/report.html" >"$folder/report.dom" 2>"$folder/report.log" || failed "see $folder/report.log"
  if grep 'CONSOLE' "$folder/report.log" >&2; then
    failed "the page complains"
  fi
  grep -q 'id="curves"' "$folder/report.dom" || failed "no curves in $folder/report.dom"
  grep -q '</html>' "$folder/report.dom" || failed "half a page in $folder/report.dom"
  echo "$(grep -c '<section' "$folder/report.dom") sections, no complaint"
}

train
evaluate
predict
export_model
tag_without_torch
serve
look_at_report

printf '\nAll %d steps went well.\n' "$number"
