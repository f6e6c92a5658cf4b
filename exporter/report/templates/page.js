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
