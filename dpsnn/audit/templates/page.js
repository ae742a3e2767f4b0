"use strict";
// Without this script the page shows everything: it adds sorting and sliders, and takes nothing else away.

// ---- tables: a button in each heading; a second click turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, at) => {
    const text = row.cells[at].dataset.sort;
    return text === "" ? null : Number(text);
  };
  heads.forEach((head, at) => {
    const label = head.querySelector("span");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...label.childNodes);
    label.replaceWith(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, two) => {
        const a = value(one, at), b = value(two, at);
        if (a === null || b === null) return (a === null) - (b === null);
        return up ? a - b : b - a;
      });
      body.append(...rows);
      document.getElementById("sorted").textContent =
        `Sorted by ${button.textContent}, ${up ? "lowest" : "highest"} first.`;
    });
  });
  heads[0].setAttribute("aria-sort", "ascending");
}

// ---- galleries: one state at a time. Printed, all of them stand there: that is the style sheet's doing.
for (const gallery of document.querySelectorAll(".gallery")) {
  const states = [...gallery.querySelectorAll(".state")];
  if (states.length < 2) continue;
  const range = gallery.querySelector("input");
  const output = gallery.querySelector("output");
  const show = () => {
    const at = Number(range.value);
    states.forEach((state, index) => state.classList.toggle("off", index !== at));
    const { name, told } = states[at].dataset;
    range.setAttribute("aria-valuetext", told ? `${name}: ${told}` : name);
    output.textContent = `${at + 1} of ${states.length}`;
  };
  range.value = gallery.dataset.start; // browsers keep what was chosen before a reload
  range.addEventListener("input", show);
  gallery.querySelector(".slider").hidden = false;
  show();
}

// ---- paper has no folds.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const each of folded) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of folded) each.open = false;
});
