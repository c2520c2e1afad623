// Small helpers for the page's elements.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children: make("li", {className: "error"}, "text"). */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Announce a sentence to screen readers only. A new element each time, so that a repeated sentence is read again. */
export function say(text) {
  $("say").replaceChildren(make("p", {textContent: text}));
}

let toastTimer;

/** Show a sentence for as long as it takes to read, and announce it. */
export function toast(text) {
  const element = $("toast");
  element.textContent = text;
  element.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (element.hidden = true), Math.max(5000, 90 * text.length));
}

/** Copy text; false where the browser forbids it. Pages that came without TLS from another machine have no clipboard object. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const from = document.activeElement;
  const area = make("textarea", {value: text, className: "sr"});
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  from?.focus({preventScroll: true});
  return copied;
}

/**
 * A row of buttons with one Tab stop (roving tabindex); arrow keys move between them and call `take` with the button.
 * Returns a function that sets which button is the Tab stop.
 */
export function rove(row, take = () => {}) {
  const buttons = () => [...row.querySelectorAll("button")];
  const stop = (chosen) => buttons().forEach((button) => (button.tabIndex = button === chosen ? 0 : -1));
  row.addEventListener("focusin", (event) => event.target.tagName === "BUTTON" && stop(event.target));
  row.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1}[event.key];
    const all = buttons();
    const place = all.indexOf(event.target);
    if (!step || place < 0) return;
    event.preventDefault();
    const next = all[(place + step + all.length) % all.length];
    next.focus();
    take(next);
  });
  stop(row.querySelector("[aria-pressed='true'], [aria-checked='true']"));
  return stop;
}

/** Offer a blob as a download. */
export function save(blob, name) {
  const link = make("a", {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** A canvas of this size. */
export function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), {width, height});
}

export const toBlob = (canvas, type = "image/png") => new Promise((done) => canvas.toBlob(done, type));
