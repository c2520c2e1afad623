// Small helpers for the page's elements.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children: make("li", {className: "error"}, "text"). */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Tell screen readers what happened; nothing is shown. */
export function say(text) {
  $("say").textContent = text;
}

let toastTimer;

/** Show a sentence for a while, and read it out. */
export function toast(text) {
  const element = $("toast");
  element.textContent = text;
  element.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (element.hidden = true), 5000);
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
