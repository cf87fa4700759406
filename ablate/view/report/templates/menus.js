// Menus of the toolbar: a button that opens a list of choices with their counts.

/** A menu of a facet. `update(counts)` writes how many cells each choice would leave. */
function menu(facet) {
  const id = `menu-${facet.number}`;
  const label = make("span", { class: "label" }, facet.name);
  const chosen = make("span", { class: "chosen" });
  const opener = make(
    "button",
    {
      type: "button",
      class: "opener",
      popovertarget: id,
      "aria-haspopup": "true",
      "data-facet": facet.name,
      "data-of-cells": facet.ofCells,
    },
    label,
    chosen,
  );
  const boxes = facet.labels.map((_, value) =>
    make("input", {
      type: "checkbox",
      onchange: (event) => filters.choose(facet, value, event.target.checked),
    }),
  );
  const counts = facet.labels.map(() => make("span", { class: "count" }));
  const list = make(
    "div",
    { class: "menu", id, popover: "auto", role: "group", "aria-label": facet.name },
    ...facet.labels.map((text, i) =>
      make("label", { title: text }, boxes[i], make("span", { class: "text" }, text), counts[i]),
    ),
  );
  list.addEventListener("toggle", (event) => event.newState === "open" && placeBelow(list, opener));
  list.addEventListener("keydown", (event) => walk(event, boxes));
  document.body.append(list);
  const update = (numbers) => {
    const set = filters.chosen[facet.number];
    boxes.forEach((box, i) => {
      box.checked = set.has(i);
    });
    counts.forEach((span, i) => {
      span.textContent = count(numbers[i]);
      span.parentElement.classList.toggle("none", numbers[i] === 0 && !set.has(i));
    });
    opener.classList.toggle("on", set.size > 0);
    chosen.textContent =
      set.size === 1 ? facet.labels[[...set][0]] : set.size ? String(set.size) : "";
  };
  return { opener, update };
}

function placeBelow(list, opener) {
  const at = opener.getBoundingClientRect();
  list.style.left = `${Math.max(8, Math.min(at.left, innerWidth - list.offsetWidth - 8))}px`;
  list.style.top = `${at.bottom + 6}px`;
  list.style.maxHeight = `${Math.max(160, innerHeight - at.bottom - 20)}px`;
  list.querySelector("input")?.focus();
}

/** Arrow keys walk through the choices of a menu. */
function walk(event, boxes) {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const at = boxes.indexOf(document.activeElement);
  boxes[(at + by + boxes.length) % boxes.length].focus();
}
