#!/bin/sh
# Everything that only a GPU can tell, in ten minutes: one JSON and one table.
#
#   sh benchmarks/gpu.sh OUT          # on a GPU of 80 GB or more
#   sh benchmarks/gpu.sh OUT --tiny   # everything at tiny sizes on a CPU: only the device is untried
#
# Each part is a process with a time limit; one that fails leaves the others alone, and the table
# says so. VLMIG_GOLDEN names the folder of the golden sets.
set -u
out=${1:?a folder for the figures}
tiny=${2:-}
python=${PYTHON:-python}
mkdir -p "$out"
score="--size llama8b --k 10 --rounds 9 --new-tokens 16 --tokens 64"
train="--size gpt2 --rounds 3"
if [ -n "$tiny" ]; then
  score="--size pocket --k 2 --rounds 1 --new-tokens 2 --plain-k 2"
  train="--size pocket --rounds 1 --steps 1 --imagined-steps 0 --batch 4 --pictures 8"
  most=900 # a busy CPU
fi

# part NAME SECONDS MODULE ARGUMENTS: a part, its log, and how it ended
part() {
  name=$1 limit=${most:-$2}
  shift 2
  echo "== $name"
  rm -f "$out/$name.json"
  timeout "$limit" "$python" -m "$@" --json "$out/$name.json" >"$out/$name.log" 2>&1
  ended=$?
  tail -n 15 "$out/$name.log"
  [ $ended -eq 0 ] || echo "$name ended with status $ended"
}

part unet 150 benchmarks.gpu unet $tiny
part klein 180 benchmarks.gpu klein $tiny
part scoring 120 benchmarks.scoring $score
part parity 60 benchmarks.gpu parity $tiny
part memory 60 benchmarks.gpu memory $tiny
part training 60 benchmarks.training $train
"$python" -m benchmarks.gpu table --folder "$out" --json "$out/gpu.json"
