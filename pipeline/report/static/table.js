// Elements and tables. Texts go in as texts: no markup is ever made of data.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) made.append(child);
  return made;
}

/** A text whose `code spans` are code. */
function marked(text) {
  const made = document.createDocumentFragment();
  text.split("`").forEach((part, i, all) => {
    made.append(i % 2 && i < all.length - 1 ? element("code", {}, part) : i % 2 ? `\`${part}` : part);
  });
  return made;
}

function empty(place, what, command) {
  place.replaceChildren(element("p", { class: "empty" }, `${what} `, element("code", {}, command), " fills this."));
}

function compare(a, b) {
  if (typeof a === "string" || typeof b === "string") return String(a).localeCompare(String(b), "en", { numeric: true });
  return a - b;
}

/**
 * A table that sorts by its headers and shows a page of rows at a time.
 *
 * columns: {key, title, kind: "num" | "text" | "name" | "wrap" | "mark", form: (value, row) => text or node,
 *           descending: bool, open: (row) => void}
 */
class Table {
  constructor(place, { caption, columns, sort = null, descending = false, page = 50 }) {
    Object.assign(this, { columns, sort, descending, page, first: 0, rows: [] });
    this.body = element("tbody");
    this.heads = columns.map((column) => element(
      "th", { scope: "col", class: column.kind === "num" ? "num thead" : "" },
      element("button", { type: "button", onclick: () => this.sortBy(column) }, column.title)));
    const table = element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, ...this.heads)), this.body);
    this.count = element("output", { "aria-live": "polite" });
    this.back = element("button", { type: "button", onclick: () => this.turn(-1) }, "Previous");
    this.next = element("button", { type: "button", onclick: () => this.turn(1) }, "Next");
    this.pages = element("div", {}, this.back, this.next);
    place.replaceChildren(
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table),
      element("div", { class: "under" }, this.count, this.pages));
  }

  /** Show these rows; `total`: of how many. */
  show(rows, total = rows.length) {
    this.rows = rows;
    this.total = total;
    this.first = 0;
    this.order();
  }

  sortBy(column) {
    this.descending = this.sort === column.key ? !this.descending : Boolean(column.descending);
    this.sort = column.key;
    this.first = 0;
    this.order();
  }

  turn(direction) {
    this.first += direction * this.page;
    this.draw();
  }

  order() {
    const { sort, descending } = this;
    this.sorted = [...this.rows];
    if (sort !== null) {
      this.sorted.sort((a, b) => {
        const left = a[sort], right = b[sort];
        if (left == null || right == null || left === "" || right === "") return (left == null || left === "") - (right == null || right === "");
        return descending ? compare(right, left) : compare(left, right);
      });
    }
    this.columns.forEach((column, i) => {
      const state = column.key !== sort ? "none" : descending ? "descending" : "ascending";
      this.heads[i].setAttribute("aria-sort", state);
    });
    this.draw();
  }

  draw() {
    const shown = this.sorted.slice(this.first, this.first + this.page);
    this.body.replaceChildren(...shown.map((row, i) => this.line(row, this.first + i)));
    const many = this.sorted.length > this.page;
    const last = this.first + shown.length;
    const all = this.total > this.sorted.length ? `, ${whole(this.total)} in all` : "";
    const count = `${whole(this.sorted.length)}${many ? "" : this.sorted.length === 1 ? " row" : " rows"}`;
    this.count.textContent = (many ? `${whole(this.first + 1)} to ${whole(last)} of ` : "") + count + all;
    this.pages.hidden = !many;
    this.back.disabled = this.first === 0;
    this.next.disabled = last >= this.sorted.length;
  }

  line(row, place) {
    return element("tr", {}, ...this.columns.map((column) => this.cell(column, row, place)));
  }

  cell({ key, kind, form, open }, row, place) {
    const value = key === "rank" ? place + 1 : row[key];
    if (value == null || value === "") return element("td", { class: kind === "num" ? "num none" : "none" }, "–");
    const content = form ? form(value, row) : String(value);
    const cell = element(kind === "name" ? "th" : "td", { class: kind === "mark" ? "" : kind, scope: kind === "name" ? "row" : null });
    cell.append(open ? element("button", { type: "button", title: String(value), onclick: () => open(row) }, content) : content);
    return cell;
  }
}

/** yes, no, or not known; in words and in colour. */
function mark(yes, no) {
  return (value) => element("span", { class: value ? "good" : "bad" }, value ? yes : no);
}

/** Call `changed` with the form's values now and after each change. */
function filters(form, changed) {
  const read = () => {
    const found = {};
    for (const field of form.elements) if (field.name) found[field.name] = field.type === "checkbox" ? field.checked : field.value;
    return found;
  };
  form.addEventListener("input", () => changed(read()));
  form.addEventListener("submit", (event) => event.preventDefault());
  changed(read());
}

function options(select, values, all) {
  const made = all == null ? [] : [element("option", { value: "" }, all)];
  select.replaceChildren(...made, ...values.map((value) => element("option", { value }, value)));
}
