"use strict";
// Tables can be sorted by a click; without this script they are in the order of the file.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.tHead.rows[0].querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      const key = (row) => row.cells[column].textContent.trim();
      const size = (text) => Number.parseFloat(text.replaceAll(",", ""));
      const rows = [...body.rows].sort((a, b) => {
        const [left, right] = [key(a), key(b)];
        const gap = size(left) - size(right);
        return Number.isNaN(gap) ? left.localeCompare(right, "en", { numeric: true }) : gap;
      });
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...(descending ? rows.reverse() : rows));
    });
  });
}

// A large graph begins where its first node is, not in an empty corner.
const canvas = document.querySelector("#graph .canvas");
const start = () => {
  const texts = [...canvas.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
  if (texts.length === 0) return;
  const first = texts.reduce((a, b) => (b.top < a.top ? b : a));
  const box = canvas.getBoundingClientRect();
  canvas.scrollBy(first.left + first.width / 2 - box.left - box.width / 2, first.top - box.top - 32);
};
if (canvas) {
  start();
  for (const input of document.querySelectorAll("#graph input")) input.addEventListener("change", start);
}
