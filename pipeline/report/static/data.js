// The page's data, once: columns become rows, and every number has one way to be written.

const DATA = JSON.parse(document.getElementById("data").textContent);

/** Rows of columns: a text column is {values, of}, any other a list. */
function rowsOf(columns) {
  const names = Object.keys(columns);
  const lists = names.map((name) => {
    const column = columns[name];
    return Array.isArray(column) ? column : column.of.map((index) => column.values[index]);
  });
  const count = lists.length ? lists[0].length : 0;
  const rows = new Array(count);
  for (let i = 0; i < count; i++) {
    const row = { index: i };
    for (let j = 0; j < names.length; j++) row[names[j]] = lists[j][i];
    rows[i] = row;
  }
  return rows;
}

const ENTRIES = rowsOf(DATA.entries);
const RUNS = rowsOf(DATA.runs);

for (const entry of ENTRIES) {
  entry.state = entry.legal === true && entry.fits === true ? "valid" : "ruled out";
  entry.mb = entry.bytes == null ? null : entry.bytes / 1e6;
  entry.hay = [entry.name, entry.author, entry.findings, entry.sweep, entry.experiment, entry.id, entry.track]
    .filter(Boolean).join("\n").toLowerCase();
}
for (const run of RUNS) {
  const entry = ENTRIES[run.entry];
  run.state = entry.name;
  run.name = `${entry.name}, seed ${run.seed}`;
  run.sweep = entry.sweep || "";
  run.mb = run.bytes == null ? null : run.bytes / 1e6;
  run.verdict = run.audit == null ? "unknown" : run.audit ? "passed" : "failed";
}

/** The parameters of a state in which states differ, as [name, value]. */
function paramsOf(place) {
  return Object.entries(DATA.params)
    .map(([name, column]) => [name, column.values[column.of[place]]])
    .filter(([, value]) => value != null);
}

/** What a search of runs looks through; made when first asked for. */
function runText(run) {
  if (run.hay === undefined) {
    const params = paramsOf(run.entry).map(([name, value]) => `${name}=${value}`);
    run.hay = [run.name, run.device, run.sweep, ENTRIES[run.entry].experiment, ...params].join("\n").toLowerCase();
  }
  return run.hay;
}

/** Whether each word of the query stands in the text. */
function matches(text, query) {
  return query.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function fixed(digits, signed = false) {
  return (value) => (signed && value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "\u2212");
}

function whole(value) {
  return Math.round(value).toLocaleString("en-US").replace("-", "\u2212");
}

function signedWhole(value) {
  return (value > 0 ? "+" : "") + whole(value);
}

function dateOf(value) {
  return new Date(value).toISOString().slice(0, 10);
}

function duration(seconds) {
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(2)} h`;
}

function money(value) {
  return value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
}
