// The page of a study: tables that sort, drawings that grow when clicked, and where one is.

/** Heads of a table as buttons: once for the order, again for its reverse. */
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const first = [...body.rows];
  const text = new Intl.Collator("en", { numeric: true });
  heads.forEach((head, column) => {
    const numeric = head.classList.contains("number");
    const value = (row) => {
      const cell = row.cells[column];
      return numeric ? Number(cell.dataset.value) : cell.textContent;
    };
    const press = () => {
      const starts = numeric ? "descending" : "ascending";
      const other = numeric ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === starts ? other : starts;
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const compare = numeric
        ? (a, b) => value(a) - value(b)
        : (a, b) => text.compare(value(a), value(b));
      body.append(...[...first].sort((a, b) => sign * compare(a, b)));
    };
    const words = head.textContent;
    head.replaceChildren(button(words, `Sort by ${words}`, press));
  });
}

/** A click shows a drawing at full size, around the place clicked; another all of it. */
function zooms(drawing) {
  const width = () => drawing.shadowRoot.querySelector("svg").width.baseVal.value;
  new ResizeObserver(() => {
    const larger = drawing.hasAttribute("data-full") || width() > drawing.clientWidth;
    drawing.toggleAttribute("data-zooms", larger);
  }).observe(drawing);
  drawing.addEventListener("click", (event) => {
    if (!drawing.hasAttribute("data-zooms") || String(getSelection())) return;
    const shown = drawing.shadowRoot.querySelector("svg");
    const before = shown.getBoundingClientRect();
    const across = (event.clientX - before.left) / before.width;
    const down = (event.clientY - before.top) / before.height;
    const full = drawing.toggleAttribute("data-full");
    drawing.previousElementSibling
      ?.querySelector(".toggle")
      ?.setAttribute("aria-pressed", String(full));
    const after = shown.getBoundingClientRect();
    drawing.scrollLeft += after.left + across * after.width - event.clientX;
    scrollBy({ top: after.top + down * after.height - event.clientY, behavior: "instant" });
  });
}

/** Marks the link of the section in view. */
function follow(links, sections) {
  const mark = () => {
    const line = innerHeight / 3;
    const above = sections.filter((part) => part.getBoundingClientRect().top < line);
    const ended = scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
    const current = (ended ? sections.at(-1) : (above.at(-1) ?? sections[0]))?.id;
    for (const link of links) {
      if (link.hash === `#${current}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
}

for (const table of document.querySelectorAll("table.sorted")) sortable(table);
for (const drawing of document.querySelectorAll(".picture")) {
  drawing.before(sizeToggle(drawing));
  zooms(drawing);
}
follow([...document.querySelectorAll(".tabs a")], [...document.querySelectorAll(".part")]);
