// Every section of the page, from the data to its tables and charts.

const byId = (id) => document.getElementById(id);
const bestFirst = (a, b) => a.bpb - b.bpb;

/** For each origin the best score so far, legal and under the cap, by date. */
function bestSoFar(entries) {
  const found = [];
  for (const origin of ["own", "published"]) {
    let best = Infinity;
    const dated = entries.filter((e) => e.origin === origin && e.state === "valid" && e.time != null && e.bpb != null);
    for (const { time, bpb } of dated.sort((a, b) => a.time - b.time)) {
      if (bpb >= best) continue;
      best = bpb;
      found.push({ origin, time, bpb });
    }
    if (best < Infinity) found.push({ origin, time: Math.max(...dated.map((e) => e.time)), bpb: best });
  }
  return found;
}

/** Scored texts, the one with the most entries first. */
function texts() {
  const counts = new Map();
  for (const { text } of ENTRIES) counts.set(text, (counts.get(text) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([text]) => text);
}

function leaderboard() {
  if (!ENTRIES.length) {
    empty(byId("board-table"), "No run is logged yet, and no record imported.", "dvc repro, or fairway report --records DIR");
    byId("board-filters").hidden = true;
    for (const name of ["progression", "size"]) chart(name, { entries: [] }, "Nothing to draw yet.");
    return;
  }
  options(byId("board-filters").elements.text, texts(), null);
  const table = new Table(byId("board-table"), { caption: "Leaderboard", sort: "bpb", page: 15, columns: [
    { key: "rank", title: "#", kind: "num" }, { key: "name", title: "name", kind: "name", open: openEntry },
    { key: "bpb", title: "bpb", kind: "num", form: fixed(5) }, { key: "std", title: "±", kind: "num", form: fixed(5) },
    { key: "seeds", title: "seeds", kind: "num", descending: true }, { key: "bytes", title: "bytes", kind: "num", form: whole },
    { key: "legal", title: "legal", kind: "mark", form: mark("yes", "no"), descending: true },
    { key: "fits", title: "cap", kind: "mark", form: mark("under", "over"), descending: true },
    { key: "origin", title: "from", kind: "text" }, { key: "author", title: "author", kind: "name plain" },
    { key: "time", title: "date", kind: "text", form: dateOf, descending: true },
  ] });
  filters(byId("board-filters"), (wanted) => {
    const shown = ENTRIES.filter((entry) => entry.bpb != null && entry.text === wanted.text && wanted[entry.origin]
      && (!wanted.legal || entry.legal === true) && (!wanted.fits || entry.fits === true) && matches(entry.hay, wanted.query));
    table.show(shown, ENTRIES.length);
    chart("progression", { entries: shown.filter((e) => e.time != null), best: bestSoFar(shown) },
      "Nothing passes the filters, or nothing has a date.");
    chart("size", { entries: shown.filter((e) => e.mb != null), cap: [{ mb: 16, label: "cap: 16,000,000" }] },
      "Nothing passes the filters, or no size is known.");
  });
}

function audited(value) {
  return element("span", { class: { passed: "good", failed: "bad" }[value] || "none" }, value);
}

function runs() {
  if (!RUNS.length) {
    byId("run-filters").hidden = true;
    return empty(byId("run-table"), "No run is logged yet.", "dvc repro");
  }
  const form = byId("run-filters");
  options(form.elements.device, [...new Set(RUNS.map((run) => run.device))].sort(), "any");
  options(form.elements.sweep, [...new Set(RUNS.map((run) => run.sweep).filter(Boolean))].sort(), "any");
  const table = new Table(byId("run-table"), { caption: "Runs", sort: "time", descending: true, page: 20, columns: [
    { key: "state", title: "state", kind: "name", open: openRun }, { key: "seed", title: "seed", kind: "num" },
    { key: "bpb", title: "bpb", kind: "num", form: fixed(5) }, { key: "pre", title: "pre-quant", kind: "num", form: fixed(5) },
    { key: "gap", title: "gap", kind: "num", form: fixed(5, true) }, { key: "bytes", title: "bytes", kind: "num", form: whole },
    { key: "slack", title: "slack", kind: "num", form: whole },
    { key: "verdict", title: "audit", kind: "mark", form: audited },
    { key: "ms", title: "ms/step", kind: "num", form: fixed(1) }, { key: "seconds", title: "spent", kind: "num", form: duration, descending: true },
    { key: "dollars", title: "$", kind: "num", form: money, descending: true }, { key: "device", title: "device", kind: "text" },
    { key: "sweep", title: "sweep", kind: "text" }, { key: "time", title: "date", kind: "text", form: dateOf, descending: true },
  ] });
  return filters(form, (wanted) => table.show(RUNS.filter((run) => (!wanted.device || run.device === wanted.device)
    && (!wanted.sweep || run.sweep === wanted.sweep) && (!wanted.audit || run.verdict === wanted.audit)
    && (!wanted.query || matches(runText(run), wanted.query))), RUNS.length));
}

function techniques() {
  const several = new Set(DATA.effects.map((one) => one.table)).size > 1;
  const rows = DATA.effects.filter((one) => one.difference != null)
    .map((one) => ({ ...one, name: several ? `${one.switch} (${one.table})` : one.switch }))
    .sort((a, b) => a.difference - b.difference).map((one, order) => ({ ...one, order }));
  if (DATA.noise) byId("noise-note").textContent = `Noise: ${DATA.noise.std.toFixed(5)} bpb a run, over ${whole(DATA.noise.runs)} runs`
    + (DATA.noise.detectable == null ? "." : `; three seeds a side find ${DATA.noise.detectable.toFixed(5)}.`);
  chart("effects", { effects: rows, zero: [{ at: 0 }] }, "No ablation has run yet.", "fairway ablate -S key=value");
  if (!rows.length) return;
  new Table(byId("effect-table"), { caption: "Techniques", sort: "difference", columns: [
    { key: "name", title: "switch", kind: "name plain" }, { key: "difference", title: "Δ bpb", kind: "num", form: fixed(5, true) },
    { key: "low", title: "from", kind: "num", form: fixed(5, true) }, { key: "high", title: "to", kind: "num", form: fixed(5, true) },
    { key: "before", title: "Δ before quantisation", kind: "num", form: fixed(5, true) },
    { key: "ms_per_step", title: "Δ ms/step", kind: "num", form: fixed(2, true) },
    { key: "total_bytes", title: "Δ bytes", kind: "num", form: signedWhole },
    { key: "verdict", title: "verdict", kind: "text" },
  ] }).show(rows);
}

function bytes() {
  const form = byId("stream-filters");
  const seeds = [...new Set(DATA.streams.map((one) => String(one.seed)))];
  if (!seeds.length) {
    form.hidden = true;
    return chart("streams", { streams: [] }, "The workspace holds no compressed artifact.", "dvc repro compress");
  }
  options(form.elements.seed, seeds, null);
  const table = new Table(byId("stream-table"), { caption: "Streams", sort: "bytes", descending: true, page: 20, columns: [
    { key: "stream", title: "stream", kind: "name plain" }, { key: "codec", title: "codec", kind: "text" },
    { key: "bytes", title: "bytes", kind: "num", form: whole, descending: true }, { key: "raw", title: "before coding", kind: "num", form: whole },
    { key: "share", title: "share", kind: "num", form: (v) => `${(100 * v).toFixed(1)} %`, descending: true },
  ] });
  return filters(form, ({ seed }) => {
    const mine = DATA.streams.filter((one) => String(one.seed) === seed);
    const total = mine.reduce((sum, one) => sum + one.bytes, 0);
    byId("stream-total").textContent = `${whole(total)} bytes`;
    table.show(mine.map((one) => ({ ...one, share: one.bytes / total })));
    chart("streams", { streams: mine.sort((a, b) => b.bytes - a.bytes).slice(0, 24) }, "");
  });
}

function curveName(run) {
  return `${run.bpb == null ? "no score" : run.bpb.toFixed(4)} s${run.seed} ${run.state}`;
}

function training() {
  const known = DATA.curves.map((curve) => ({ ...curve, of: RUNS[curve.run] }));
  byId("curve-filters").hidden = !known.length;
  if (!known.length) chart("curves", { curves: [] }, "No run has logged its loss yet.", "dvc repro");
  else filters(byId("curve-filters"), ({ which, query }) => {
    const order = which === "best" ? (a, b) => (a.of.bpb ?? Infinity) - (b.of.bpb ?? Infinity) : (a, b) => b.of.time - a.of.time;
    const chosen = known.filter((one) => !query || matches(runText(one.of), query)).sort(order).slice(0, 10);
    byId("curve-note").textContent = `${chosen.length} of the ${known.length} curves kept here`;
    const points = ({ of, step, loss }) => step.map((at, i) => ({ run: of.index, name: curveName(of), full: of.name, step: at, loss: loss[i] }));
    chart("curves", { curves: chosen.flatMap(points) }, "No run has this name.");
  });
  const gaps = RUNS.filter((run) => run.gap != null && run.mb != null);
  chart("gap", { runs: gaps }, "No run has a score before and after quantisation.", "dvc repro");
}

/** Seconds by stage as a text, the longest first. */
function stageCosts(stages) {
  return Object.entries(stages).sort((a, b) => b[1] - a[1]).map(([stage, seconds]) => `${stage} ${duration(seconds)}`).join(", ");
}

function cost() {
  const spend = DATA.spend.map((one, order) => ({ ...one, order, hours: one.seconds / 3600 }));
  byId("price-note").textContent = DATA.priced
    ? "Seconds that stages really ran, at the price of each run's machine."
    : "Seconds that stages really ran. No price is known: hardware.dollars_per_hour was 0 in every run, so no dollars are shown.";
  chart("spend", { spend }, "No run has logged its seconds.", "dvc repro");
  let total = 0;
  const spent = RUNS.filter((run) => run.dollars != null && run.time != null).sort((a, b) => a.time - b.time)
    .map((run) => ({ time: run.time, total: total += run.dollars })).filter((at, i, all) => at.time !== all[i + 1]?.time);
  chart("money", { money: spent }, "No price is known. hardware.dollars_per_hour in params.yaml, and then", "dvc repro");
  const caption = "Seconds and dollars by stage and machine";
  if (spend.length) new Table(byId("spend-table"), { caption, sort: "seconds", descending: true, page: 10, columns: [
    { key: "device", title: "machine", kind: "text" }, { key: "stage", title: "stage", kind: "text" },
    { key: "runs", title: "runs", kind: "num", form: whole },
    { key: "seconds", title: "time", kind: "num", form: duration, descending: true },
    { key: "paid", title: "$", kind: "num", form: money, descending: true },
  ] }).show(spend.map((one) => ({ ...one, paid: one.dollars || null })));
  else empty(byId("spend-table"), "Nothing is known of stages and machines.", "dvc repro");
  if (!DATA.ledgers.length) return empty(byId("ledger-table"), "No sweep has run here.", "fairway sweep -S key=v1,v2");
  return new Table(byId("ledger-table"), { caption: "Sweeps", page: 20, columns: [
    { key: "sweep", title: "sweep", kind: "name plain" }, { key: "runs", title: "runs", kind: "num", form: whole },
    { key: "failed", title: "failed", kind: "num", form: whole, descending: true }, { key: "seconds", title: "time", kind: "num", form: duration },
    { key: "dollars", title: "$", kind: "num", form: money }, { key: "rest", title: "$ of no ended run", kind: "num", form: money },
    { key: "costs", title: "stages", kind: "wrap" }, { key: "stopped", title: "stopped", kind: "wrap" },
  ] }).show(DATA.ledgers.map((one) => ({ ...one, costs: stageCosts(one.stages) })));
}

function machines() {
  const groups = new Map();
  for (const run of RUNS) if (run.ms != null) groups.set(run.configuration, [...(groups.get(run.configuration) || []), run]);
  const devices = (group) => new Set(group.map((run) => run.device)).size;
  const [speed = []] = [...groups.values()].sort((a, b) => devices(b) - devices(a) || b.length - a.length);
  if (speed.length) byId("speed-note").textContent = `${whole(speed.length)} runs of ${speed[0].state}`;
  chart("speed", { speed }, "No run has logged its training speed.", "dvc repro");
  const rates = DATA.machines.map((one) => ({ ...one, name: `${one.machine} ${one.device}` }));
  chart("rates", { machines: rates }, "No machine was measured.", "mkdir -p logs/doctor; fairway doctor --json > logs/doctor/NAME.json");
  if (rates.length) new Table(byId("machine-table"), { caption: "Machines", columns: [
    { key: "machine", title: "machine", kind: "name plain" }, { key: "device", title: "device", kind: "text" },
    { key: "tflops", title: "TFLOP/s", kind: "num", form: (v) => v.toPrecision(4) }, { key: "peak", title: "data sheet", kind: "num", form: whole },
    { key: "share", title: "share", kind: "num", form: (v) => `${(100 * v).toFixed(0)} %` },
    { key: "attention", title: "attention TFLOP/s", kind: "num", form: (v) => v.toPrecision(4) }, { key: "chosen", title: "attention", kind: "text" },
  ] }).show(rates.map((one) => ({ ...one, share: one.peak ? one.tflops / one.peak : null })));
}

function findings() {
  const rows = DATA.log.map((cells) => ({ idea: cells[0], measured: cells[1], verdict: cells[2], hay: cells.join("\n").toLowerCase() }));
  byId("log-filters").hidden = !rows.length;
  if (!rows.length) return empty(byId("log-table"), "No ideas are logged. A table in", "docs/log.md");
  const table = new Table(byId("log-table"), { caption: "Findings", page: 15, columns: [
    { key: "idea", title: "idea", kind: "wrap", form: marked }, { key: "measured", title: "measured", kind: "wrap", form: marked },
    { key: "verdict", title: "verdict", kind: "wrap", form: marked },
  ] });
  return filters(byId("log-filters"), ({ query }) => table.show(rows.filter((row) => matches(row.hay, query)), rows.length));
}

function leftOut() {
  const none = !DATA.left_out.length;
  byId("left-out").hidden = byId("left-out-link").hidden = none;
  if (!none) new Table(byId("left-out-table"), { caption: "Left out", page: 20, columns: [
    { key: "what", title: "what", kind: "wrap" }, { key: "why", title: "why", kind: "wrap" },
  ] }).show(DATA.left_out);
}

function tiles() {
  const [text] = texts();
  const valid = ENTRIES.filter((entry) => entry.state === "valid" && entry.text === text && entry.bpb != null).sort(bestFirst);
  const tile = (what, number, more) => element("li", {}, element("div", { class: "what" }, what),
    element("div", { class: "number" }, number), element("div", { class: "more", title: more }, more));
  const best = (origin, what) => {
    const found = valid.find((entry) => entry.origin === origin);
    if (!found) return tile(what, "–", "none is legal and under the cap");
    return tile(what, found.bpb.toFixed(4), `${found.std == null ? "" : `± ${found.std.toFixed(4)}, `}${found.name}`);
  };
  const own = ENTRIES.filter((entry) => entry.origin === "own").length;
  const seconds = RUNS.reduce((sum, run) => sum + run.seconds, 0), dollars = RUNS.reduce((sum, run) => sum + (run.dollars || 0), 0);
  byId("tiles").replaceChildren(
    best("own", "best own score, bpb"), best("published", "best published, bpb"),
    tile("runs", whole(RUNS.length), `${whole(own)} states, ${whole(ENTRIES.length - own)} records`),
    tile("spent", DATA.priced ? `$${money(dollars)}` : duration(seconds), DATA.priced ? duration(seconds) : "no price known"),
    tile("noise of a run, bpb", DATA.noise ? DATA.noise.std.toFixed(5) : "–",
      DATA.noise?.detectable != null ? `3 seeds find ${DATA.noise.detectable.toFixed(5)}` : "not measured"));
}

function theme() {
  const button = byId("theme"), names = ["system", "light", "dark"];
  let at = 0;
  button.addEventListener("click", () => {
    at = (at + 1) % names.length;
    if (at) document.documentElement.dataset.theme = names[at];
    else delete document.documentElement.dataset.theme;
    button.textContent = `Theme: ${names[at]}`;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

byId("subtitle").textContent = `${DATA.root}, experiment ${DATA.experiment}; made ${DATA.created}`;
for (const section of [tiles, leaderboard, runs, techniques, bytes, training, cost, machines, findings, leftOut, theme]) section();
performance.mark("ready");
