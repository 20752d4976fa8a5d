// The charts: drawn when they come into view, in the page's colours, from the rows that the page gives them.

const SPECS = JSON.parse(document.getElementById("charts").textContent);
const charts = {};

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const COLUMNS = { curves: [2, 1], spend: [4, 2] }; // of legends, on a wide and on a narrow place

function look(name, narrow) {
  const soft = colour("soft"), grid = colour("grid"), line = colour("line"), font = colour("sans");
  return {
    background: null, font,
    view: { stroke: null },
    axis: {
      labelColor: soft, titleColor: soft, gridColor: grid, domainColor: line, tickColor: line,
      labelFontSize: 11, titleFontSize: 11.5, titleFontWeight: 400, titlePadding: 8, labelPadding: 4, tickSize: 4,
    },
    axisY: { labelLimit: narrow ? 110 : 170 },
    axisBand: { grid: false, domain: false, ticks: false },
    legend: {
      orient: "top", labelColor: colour("ink"), titleColor: soft, titleFontWeight: 400,
      labelFontSize: 11.5, titleFontSize: 11.5, symbolSize: 70, offset: 6, columnPadding: 14,
      labelLimit: name === "curves" && !narrow ? 150 : 230, columns: (COLUMNS[name] || [6, 1])[Number(narrow)],
    },
    header: { labelColor: soft, titleColor: soft },
  };
}

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const seen = new IntersectionObserver((found) => {
  for (const one of found) if (one.isIntersecting) {
    seen.unobserve(one.target);
    draw(one.target.id.slice("chart-".length));
  }
}, { rootMargin: "400px" });

/** Give a chart its rows by name; without any, say what makes them. */
function chart(name, datasets, missing, command) {
  const place = document.getElementById(`chart-${name}`);
  const [main] = Object.values(datasets);
  const known = charts[name] || (charts[name] = { view: null });
  known.datasets = datasets;
  if (!main.length) {
    known.view?.finalize();
    known.view = null;
    place.classList.remove("vega-embed");
    return command ? empty(place, missing, command) : place.replaceChildren(element("p", { class: "empty" }, missing));
  }
  if (known.view) {
    for (const [data, rows] of Object.entries(datasets)) known.view.data(data, rows);
    if (SPECS[name].usermeta) known.view.height(heightOf(SPECS[name], datasets));
    known.view.runAsync();
  } else {
    place.replaceChildren();
    seen.observe(place);
  }
  return undefined;
}

/** Run the library, once, when the first chart needs it: tables don't wait for it. The page's policy knows its hash. */
async function library() {
  await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
  if (!window.vegaEmbed) document.head.append(element("script", {}, document.getElementById("library").textContent));
}

/** Of a chart with a line for each value of a field. */
function heightOf({ usermeta: { row, field } }, datasets) {
  return row * new Set(Object.values(datasets)[0].map((one) => one[field])).size;
}

async function draw(name) {
  const known = charts[name];
  const place = document.getElementById(`chart-${name}`);
  const asked = known.asked = {};
  await library();
  if (known.asked !== asked || !Object.values(known.datasets)[0].length) return;
  const spec = { ...SPECS[name], datasets: known.datasets };
  delete spec.config;
  if (spec.usermeta) spec.height = heightOf(spec, known.datasets);
  const made = await vegaEmbed(place, spec, {
    renderer: "canvas", config: look(name, place.clientWidth < 420), tooltip: { theme: dark() ? "dark" : "light" },
    actions: { export: true, source: false, compiled: false, editor: false }, downloadFileName: `fairway-${name}`,
  });
  if (known.asked !== asked || !Object.values(known.datasets)[0].length) {
    made.finalize();
    return;
  }
  known.view?.finalize();
  known.view = made.view;
  for (const [data, rows] of Object.entries(known.datasets)) if (rows !== spec.datasets[data]) made.view.data(data, rows);
  made.view.addEventListener("click", (event, item) => {
    const datum = item?.datum;
    if (datum?.entry !== undefined && RUNS[datum.index]) openRun(RUNS[datum.index]);
    else if (datum?.origin && ENTRIES[datum.index]) openEntry(ENTRIES[datum.index]);
  });
  await made.view.runAsync();
  performance.mark("drawn");
}

function redraw() {
  for (const [name, known] of Object.entries(charts)) if (known.view) {
    known.view.finalize();
    known.view = null;
    draw(name);
  }
}
