"use strict";

// Tables sort by their column heads: up, down, and back to how they came.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const given = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];

  const key = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.dataset.value ?? cell.textContent).trim();
    if (text === "" || text === "–") return null;
    const plain = text.replaceAll(",", "").replace("−", "-");
    const value = Number(plain);
    return Number.isNaN(value) ? text : value;
  };

  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === "none" ? "ascending" : now === "ascending" ? "descending" : "none";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      const rows = given.map((row) => ({ row, key: key(row, column) }));
      if (next !== "none") {
        const sign = next === "ascending" ? 1 : -1;
        rows.sort((a, b) => {
          // What was not measured stays below, whichever way is up.
          if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
          return sign * compare(a.key, b.key);
        });
      }
      body.append(...rows.map((one) => one.row));
    });
  });
}

// The pictures of a sample lie over each other, and the slider wipes from each to the next.
for (const box of document.querySelectorAll(".compare")) {
  const stack = box.querySelector(".stack");
  const slider = box.querySelector("input");
  const said = box.querySelector("output");
  const layers = [...box.querySelectorAll(".layer")];
  const names = layers.map((layer) => layer.dataset.name);

  const show = () => {
    const value = Number(slider.value);
    layers.forEach((layer, place) => {
      const shown = Math.min(100, Math.max(0, value - 100 * (place - 1)));
      layer.style.setProperty("--shown", `${shown}%`);
    });
    const rest = value % 100;
    const step = Math.floor(value / 100);
    stack.style.setProperty("--edge", `${rest}%`);
    stack.classList.toggle("whole", rest === 0);
    const text = rest ? `left ${names[step + 1]}, right ${names[step]}` : names[step];
    slider.setAttribute("aria-valuetext", text);
    said.value = rest ? text : (layers[step].dataset.said ?? "");
  };

  box.classList.add("live");
  slider.addEventListener("input", show);
  for (const stop of box.querySelectorAll("[data-stop]")) {
    stop.addEventListener("click", () => {
      slider.value = stop.dataset.stop;
      show();
    });
  }
  show();
}

// A table that is wider than the page is a stop for the keyboard, which scrolls it; others are not.
const widths = new ResizeObserver((changes) => {
  for (const { target } of changes) {
    target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
  }
});
for (const frame of document.querySelectorAll(".scroll")) widths.observe(frame);

// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) {
    one.dataset.closed = "";
    one.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const one of document.querySelectorAll("details[data-closed]")) {
    one.open = false;
    delete one.dataset.closed;
  }
});
