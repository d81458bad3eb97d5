// Pictures by whole factors and enlarged, tables sorted, animations stopped. Without it the page
// shows the same, as it is.
"use strict";
(() => {
  const make = (tag, properties, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  // Small pictures keep their pixels: as large as a whole factor in pixels of the screen allows.
  const whole = (image, room, factor) => {
    const ratio = window.devicePixelRatio || 1;
    const most = Math.floor((room * ratio) / image.naturalWidth);
    const used = Math.max(1, factor || most);
    image.style.width = `${(image.naturalWidth * used) / ratio}px`;
    return used;
  };
  // A chart is read at its own size at least, on screens with many pixels as well.
  const larger = (wanted) => {
    const used = Math.max(1, wanted || Math.floor(view.clientWidth / shown.naturalWidth));
    shown.style.width = `${shown.naturalWidth * used}px`;
    return used;
  };
  const tiles = [...document.querySelectorAll(".tiles img")];
  const widths = () => {
    for (const image of tiles) {
      const room = image.closest("figure").clientWidth;
      // On a large screen twice the file's size is enough: more is for enlarging.
      const ratio = window.devicePixelRatio || 1;
      whole(image, Math.min(room, (2 * image.naturalWidth) / ratio + 1));
    }
  };
  const ready = tiles.map((image) => (image.complete ? null : image.decode().catch(() => null)));
  Promise.all(ready).then(widths);
  window.addEventListener("resize", widths);

  // Enlarging: a dialog over the page, with the pictures of the page in order.
  const openers = [...document.querySelectorAll("button.zoom")];
  const shown = make("img", { alt: "" });
  const caption = make("p", { id: "zoomed" });
  const button = (text, label) => make("button", { type: "button", textContent: text, ariaLabel: label });
  const [back, next, less, more, close] = [
    button("←", "Previous picture"), button("→", "Next picture"),
    button("−", "Smaller"), button("+", "Larger"), button("×", "Close"),
  ];
  const view = make("div", { className: "view", tabIndex: 0 }, shown);
  const bar = make("div", { className: "bar" }, caption, back, next, less, more, close);
  const dialog = make("dialog", { className: "zoomed" }, bar, view);
  dialog.setAttribute("aria-labelledby", "zoomed");
  view.setAttribute("aria-label", "Enlarged picture");
  document.body.append(dialog);
  let at = 0;
  let factor = 1;
  const enlarge = (wanted) => {
    const sharp = openers[at].closest("figure").classList.contains("tiles");
    view.classList.toggle("sharp", sharp);
    factor = sharp ? whole(shown, view.clientWidth, wanted) : larger(wanted);
  };
  const show = (place) => {
    at = (place + openers.length) % openers.length;
    const image = openers[at].querySelector("img");
    shown.src = image.src;
    shown.alt = image.alt;
    const text = openers[at].closest("figure").querySelector("figcaption");
    caption.textContent = text ? text.textContent : image.alt;
    shown.decode().then(() => enlarge(), () => null);
  };
  openers.forEach((opener, place) => {
    opener.addEventListener("click", () => {
      dialog.showModal();
      show(place);
    });
  });
  back.addEventListener("click", () => show(at - 1));
  next.addEventListener("click", () => show(at + 1));
  less.addEventListener("click", () => enlarge(Math.max(1, factor - 1)));
  more.addEventListener("click", () => enlarge(factor + 1));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: () => show(at - 1), ArrowRight: () => show(at + 1),
      "+": () => enlarge(factor + 1), "-": () => enlarge(Math.max(1, factor - 1)) }[event.key];
    if (step) {
      event.preventDefault();
      step();
    }
  });

  // Sorting: a head of a column sorts the rows, a head of a row sorts the columns.
  const value = (cell) => (cell.dataset.value === undefined ? NaN : Number(cell.dataset.value));
  const order = (items, of, down) => {
    const known = items.filter((item) => !Number.isNaN(of(item)));
    const rest = items.filter((item) => Number.isNaN(of(item)));
    known.sort((a, b) => (down ? of(b) - of(a) : of(a) - of(b)));
    return [...known, ...rest];
  };
  const mark = (table, head, down) => {
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const sorter of document.querySelectorAll("th > button.sort")) {
    sorter.addEventListener("click", () => {
      const head = sorter.parentElement;
      const table = head.closest("table");
      const before = head.getAttribute("aria-sort");
      // The better end comes first; a second press turns it round.
      const first = head.dataset.better === "higher" ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const down = (before === first ? other : first) === "descending";
      if (head.scope === "col") {
        const body = table.tBodies[0];
        body.append(...order([...body.rows], (row) => value(row.cells[head.cellIndex]), down));
      } else {
        const row = head.parentElement;
        const moved = [...row.cells].filter((cell) => cell.dataset.value !== undefined || cell.dataset.moves);
        const places = moved.map((cell) => cell.cellIndex);
        const sorted = order(moved, value, down).map((cell) => cell.cellIndex);
        for (const each of table.rows) {
          const cells = [...each.cells];
          const behind = cells[places[places.length - 1] + 1] || null;
          sorted.forEach((place) => each.insertBefore(cells[place], behind));
        }
      }
      mark(table, head, down);
    });
  }

  // An animation can be stopped, and stands still at first for those who want little motion.
  for (const figure of document.querySelectorAll("figure.moving")) {
    const image = figure.querySelector("img");
    const still = make("canvas", { className: "still", hidden: true });
    const switched = button("Stop", "Stop the animation");
    const stop = () => {
      still.width = image.naturalWidth;
      still.height = image.naturalHeight;
      still.getContext("2d").drawImage(image, 0, 0);
      still.style.width = image.style.width;
      still.hidden = false;
      image.hidden = true;
      switched.textContent = "Play";
      switched.ariaLabel = "Play the animation";
    };
    const play = () => {
      still.hidden = true;
      image.hidden = false;
      switched.textContent = "Stop";
      switched.ariaLabel = "Stop the animation";
    };
    switched.className = "stop";
    switched.addEventListener("click", () => (still.hidden ? stop() : play()));
    image.after(still);
    figure.append(switched);
    if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) {
      Promise.all(ready).then(() => { widths(); stop(); });
    }
  }
})();
