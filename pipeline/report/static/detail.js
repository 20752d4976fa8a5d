// A run or a record in full, in a dialog.

const detail = document.getElementById("detail");

function facts(pairs) {
  return element("dl", {}, ...pairs.filter(([, value]) => value != null && value !== "")
    .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
}

function openDetail(title, ...parts) {
  document.getElementById("detail-title").textContent = title;
  document.getElementById("detail-body").replaceChildren(...parts);
  detail.showModal();
}

function known(value, form) {
  return value == null ? null : form(value);
}

function answer(value) {
  return value == null ? "not known" : value ? "yes" : "no";
}

function openEntry(entry) {
  const own = entry.origin === "own";
  const parts = [facts([
    ["score", known(entry.bpb, (v) => `${v.toFixed(6)} bits per byte`)],
    ["spread", known(entry.std, (v) => `${v.toFixed(6)} over ${entry.seeds} seeds`)],
    ["scored text", entry.text], ["size", known(entry.bytes, (v) => `${whole(v)} bytes`)],
    ["legal", answer(entry.legal)], ["under the cap", answer(entry.fits)],
    ["author", entry.author], ["track", entry.track], ["date", known(entry.time, dateOf)],
    ["verdict", entry.note], ["findings", entry.findings], ["sweep", entry.sweep], ["experiment", entry.experiment],
    ["commit", entry.code], [own ? "MLflow run" : "folder", entry.id],
  ])];
  if (own) {
    const place = element("div");
    new Table(place, { caption: `Seeds of ${entry.name}`, columns: [
      { key: "seed", title: "seed", kind: "num" }, { key: "bpb", title: "bpb", kind: "num", form: fixed(5) },
      { key: "gap", title: "quantisation", kind: "num", form: fixed(5, true) }, { key: "bytes", title: "bytes", kind: "num", form: whole },
      { key: "seconds", title: "spent", kind: "num", form: duration },
    ] }).show(RUNS.filter((run) => run.entry === entry.index));
    const params = paramsOf(entry.index);
    parts.push(element("h3", {}, "Seeds"), place);
    if (params.length) parts.push(element("h3", {}, "Parameters in which runs differ"), facts(params));
  }
  openDetail(entry.name, ...parts);
}

function openRun(run) {
  openEntry(ENTRIES[run.entry]);
}
