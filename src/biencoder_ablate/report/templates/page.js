// Sorting and filtering of the report's tables, and a link to the view: #TABLE?sort=3&order=desc&filter=words
"use strict";
(() => {
  const collator = new Intl.Collator("en", { sensitivity: "base" });

  // A cell's number, its text, or null where there is nothing to sort by.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if ("v" in cell.dataset) {
      const number = Number(cell.dataset.v);
      return Number.isNaN(number) ? null : number;
    }
    const text = cell.textContent.trim();
    return text === "" || text === "–" ? null : text;
  };

  // Texts by their words, and by the numbers between them: "neg 0.02" before "neg 0.1" before "neg 0.1, x=2".
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    const [left, right] = [a, b].map((value) => String(value).split(/(\d+(?:\.\d+)?)/));
    for (let k = 0; k < Math.min(left.length, right.length); k++) {
      const order = k % 2 ? Number(left[k]) - Number(right[k]) : collator.compare(left[k], right[k]);
      if (order) return order;
    }
    return left.length - right.length;
  };

  const sort = (box, column, order) => {
    const body = box.querySelector("tbody");
    const sign = order === "desc" ? -1 : 1;
    const keyed = Array.from(body.rows, (row) => [valueOf(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // nothing goes last either way
      return sign * compare(a, b);
    });
    body.append(...keyed.map(([, row]) => row));
    box.querySelectorAll("th").forEach((head, k) => {
      if (k === column) head.setAttribute("aria-sort", order === "desc" ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    box.dataset.sort = column;
    box.dataset.order = order;
  };

  // A row stays if it holds every word. A word in quotes is a whole cell; a number is no part of a longer one.
  const filter = (box, text) => {
    const wanted = Array.from(text.toLowerCase().matchAll(/"([^"]+)"|[^\s"]+/g), ([word, cell]) => {
      if (cell !== undefined) return (cells) => cells.includes(cell.trim());
      if (!/^\d+(\.\d+)?$/.test(word)) return (cells) => cells.some((held) => held.includes(word));
      const number = new RegExp(`(?<![\\d.])${word.replace(".", "\\.")}(?![\\d.])`);
      return (cells) => cells.some((held) => number.test(held));
    });
    const rows = Array.from(box.querySelector("tbody").rows);
    let left = 0;
    for (const row of rows) {
      const cells = Array.from(row.cells, (cell) => cell.textContent.trim().toLowerCase());
      row.hidden = !wanted.every((holds) => holds(cells));
      left += row.hidden ? 0 : 1;
    }
    box.querySelector("output").textContent =
      left === rows.length ? `${rows.length} rows` : `${left} of ${rows.length} rows`;
    box.dataset.filter = text;
  };

  const remember = (box) => {
    const view = new URLSearchParams();
    for (const key of ["sort", "order", "filter"]) if (box.dataset[key]) view.set(key, box.dataset[key]);
    try {
      history.replaceState(null, "", `#${box.id}${view.size ? `?${view}` : ""}`);
    } catch {
      // some browsers allow no address to a page opened from a file
    }
  };

  const restore = () => {
    const [id, view] = location.hash.slice(1).split("?", 2);
    const box = id ? document.getElementById(id) : null;
    if (!box || !box.classList.contains("table") || view === undefined) return;
    const asked = new URLSearchParams(view);
    const column = Number(asked.get("sort"));
    if (asked.has("sort") && column < box.querySelectorAll("th").length) sort(box, column, asked.get("order"));
    const search = box.querySelector("input");
    if (asked.has("filter") && search) {
      search.value = asked.get("filter");
      filter(box, search.value);
    }
    for (let up = box.closest("details"); up; up = up.parentElement.closest("details")) up.open = true;
    box.scrollIntoView();
  };

  for (const box of document.querySelectorAll(".table")) {
    box.querySelectorAll("th").forEach((head, column) => {
      const choose = () => {
        const again = box.dataset.sort === String(column) && box.dataset.order === "asc";
        sort(box, column, again ? "desc" : "asc");
        remember(box);
      };
      head.tabIndex = 0;
      head.title = "Sort by this column";
      head.addEventListener("click", choose);
      head.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        choose();
      });
    });
    const search = box.querySelector("input");
    if (search) {
      search.addEventListener("input", () => {
        filter(box, search.value);
        remember(box);
      });
    }
  }
  // A table wider than its place says so: telephones hide their scroll bars.
  const measure = () => {
    for (const box of document.querySelectorAll(".table")) {
      const inner = box.querySelector(".scroll");
      box.classList.toggle("overflows", inner.scrollWidth > inner.clientWidth + 1);
    }
  };
  window.addEventListener("resize", measure);
  document.addEventListener("toggle", measure, true);
  document.documentElement.classList.add("js");
  measure();
  window.addEventListener("hashchange", restore);
  restore();
})();
