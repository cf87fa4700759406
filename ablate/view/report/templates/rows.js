// Rows of equal height of which only those in view, and some around them, are in the document.

const MARGIN = 0.6; // of the window's height, kept ready above and below

class Rows {
  #nodes = new Map(); // by number of the row
  #count = 0;
  #height = 1;
  #asked = 0;

  /** `fill(node, row, fresh)` writes a row; fresh: the node showed another row, or none. */
  constructor(box, blank, fill) {
    Object.assign(this, { box, blank, fill, pinned: -1 });
    box.classList.add("rows");
    const ask = () => {
      this.#asked ||= requestAnimationFrame(() => this.draw());
    };
    addEventListener("scroll", ask, { passive: true });
    addEventListener("resize", ask);
  }

  /** Show another number of rows, each so many pixels high, and write those in view again. */
  lay(count, height) {
    if (height !== this.#height) this.clear();
    this.#count = count;
    this.#height = height;
    this.box.style.height = `${count * height}px`;
    for (const [row, node] of this.#nodes) if (row < count) this.fill(node, row, false);
    this.draw();
  }

  /** Remove all rows, so that they are created anew. */
  clear() {
    for (const node of this.#nodes.values()) node.remove();
    this.#nodes.clear();
  }

  draw() {
    cancelAnimationFrame(this.#asked);
    this.#asked = 0;
    if (!this.box.offsetParent) return; // the section is not shown
    const top = -this.box.getBoundingClientRect().top;
    const margin = MARGIN * innerHeight;
    const first = Math.max(0, Math.floor((top - margin) / this.#height));
    const last = Math.min(this.#count - 1, Math.floor((top + innerHeight + margin) / this.#height));
    const free = [];
    for (const [row, node] of this.#nodes) {
      const kept = row < this.#count && (row === this.pinned || (row >= first && row <= last));
      if (kept) continue;
      this.#nodes.delete(row);
      free.push(node);
    }
    for (let row = first; row <= last; row += 1) {
      if (this.#nodes.has(row)) continue;
      const node = free.pop() ?? this.blank();
      this.fill(node, row, true);
      node.style.transform = `translateY(${row * this.#height}px)`;
      if (!node.isConnected) this.box.append(node);
      this.#nodes.set(row, node);
    }
    for (const node of free) node.remove();
  }

  /** The node of a row, scrolled into view below what sticks to the top. */
  reach(row) {
    const top = this.box.getBoundingClientRect().top + row * this.#height;
    const low = document.querySelector(".bar").getBoundingClientRect().bottom + 12;
    const over = Math.min(0, top - low) || Math.max(0, top + this.#height - innerHeight);
    if (over) scrollBy({ top: over, behavior: "instant" });
    this.pinned = row;
    this.draw();
    return this.#nodes.get(row);
  }

  /** How many rows fit into the window. */
  get page() {
    const low = document.querySelector(".bar").getBoundingClientRect().bottom;
    return Math.max(1, Math.floor((innerHeight - low) / this.#height));
  }
}
