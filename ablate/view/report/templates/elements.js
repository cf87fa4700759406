// Elements of the page. Text is only ever put in as text, so that no prompt becomes markup.

/** An element with attributes, listeners (`onclick: function`) and children (elements or text). */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** A button that only does something when pressed. */
function button(text, label, press, attributes = {}) {
  return make(
    "button",
    { type: "button", "aria-label": label, title: label, onclick: press, ...attributes },
    text,
  );
}

/** An image of a cell; enlarged to twice its size or more, its pixels stay sharp. */
function picture(cell, side, attributes = {}) {
  const image = make("img", { alt: "", decoding: "async", draggable: "false", ...attributes });
  image.addEventListener("load", () => sharpen(image, side));
  if (cell.source) image.src = cell.source;
  return image;
}

function sharpen(image, side) {
  image.classList.toggle("pixels", side >= 2 * Math.max(image.naturalWidth, image.naturalHeight));
}

/** What is shown instead of a missing image: it is not computed yet, or has NaN or infinity. */
function absence(cell) {
  if (cell.state === "ok") return "";
  return cell.state === "vacant" ? "not computed yet" : "NaN";
}
