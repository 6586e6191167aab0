# The main job from nothing: install an agent, ask what it is, run it on a real file, look at the result.
# usage: sh docs/demo.sh DIRECTORY
set -eu
out=$1
rm -rf "$out"
mkdir -p "$out"
export AGENTHUB_HOME="$PWD/$out/home"

say() { printf '\n$ %s\n' "$*" >&2; "$@"; }

say agenthub install --yes ./sample_agents/data-analyst
say agenthub info data-analyst
say agenthub run data-analyst query --file sample_agents/data-analyst/examples/sales.csv \
    --sql "select region, sum(amount) as total from data group by region order by total desc"
say agenthub run data-analyst plot --file sample_agents/data-analyst/examples/sales.csv \
    --x month --y amount > "$out/chart.png"
printf '\na chart was written to %s\n' "$out/chart.png"
