// Without JavaScript everything is there; this only sorts and filters.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows].at(-1).cells;
  const body = table.tBodies[0];
  const initial = [...body.rows];
  for (const button of table.tHead.querySelectorAll("th button")) {
    const head = button.closest("th");
    button.addEventListener("click", () => {
      const previous = head.getAttribute("aria-sort");
      // First click highest first, second lowest first, third as in the config.
      const next = previous === null ? "descending" : previous === "descending" ? "ascending" : null;
      for (const other of heads) other.removeAttribute("aria-sort");
      const sign = next === "descending" ? -1 : 1;
      const value = (row) => Number.parseFloat(row.cells[head.cellIndex].dataset.value);
      const rows = [...initial];
      if (next !== null) {
        head.setAttribute("aria-sort", next);
        // Rows without a value come last either way.
        rows.sort((a, b) => Number.isNaN(value(a)) - Number.isNaN(value(b)) || sign * (value(a) - value(b)) || 0);
      }
      body.append(...rows);
    });
  }
}
for (const select of document.querySelectorAll("select[data-gallery]")) {
  const rows = [...document.getElementById(select.dataset.gallery).querySelectorAll(".row")];
  const count = document.getElementById(`${select.dataset.gallery}-count`);
  const show = () => {
    for (const row of rows) row.hidden = select.value !== "" && row.dataset.category !== select.value;
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} images`;
  };
  select.addEventListener("change", show);
  show(); // a browser may restore the choice of the last visit
}
