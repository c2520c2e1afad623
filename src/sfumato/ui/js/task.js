// The task (edit, remove, fill, extend) and the margins of extend.

import {$} from "./dom.js";

const SIDES = ["left", "top", "right", "bottom"];
const PROMPTS = {
  edit: ["What should appear?", "a red ball"],
  remove: ["What should be there instead? (optional)", "found by itself"],
  fill: ["What should be there? (optional)", "continued from around"],
  outpaint: ["What should appear around it? (optional)", "continued from the picture"],
};

export class Task {
  /** onChange: called when the task or a margin changes. */
  constructor(view, onChange) {
    Object.assign(this, {view, onChange});
    $("task").addEventListener("change", () => this.#changed());
    for (const side of SIDES) $(`margin-${side}`).addEventListener("input", () => this.#changed());
    this.#changed();
  }

  get name() {
    return $("task").value;
  }

  get needsWords() {
    return this.name === "edit";
  }

  get needsMask() {
    return this.name !== "outpaint";
  }

  /** Pixels on the left, top, right and bottom of the open picture; null if the task has none or one cannot be read. */
  margins() {
    const {picture} = this.view;
    if (this.name !== "outpaint" || !picture) return null;
    const pixels = this.#written().map((text, i) => {
      const found = /^(\d+(?:\.\d+)?)\s*(%?)$/.exec(text);
      if (!found || (!found[2] && text.includes("."))) return NaN;
      return found[2] ? Math.round((Number(found[1]) * (i % 2 ? picture.height : picture.width)) / 100) : Number(found[1]);
    });
    return pixels.every(Number.isFinite) && pixels.some(Boolean) ? pixels : null;
  }

  /** Fields of the request; none for an edit. */
  options() {
    if (this.name === "edit") return {};
    const expand = () => this.#written().map((text) => (/^\d+$/.test(text) ? Number(text) : text));
    return this.name === "outpaint" ? {task: this.name, expand: expand()} : {task: this.name};
  }

  set({task = "edit", expand}) {
    $("task").value = task;
    expand?.forEach((margin, i) => ($(`margin-${SIDES[i]}`).value = margin));
    this.#changed();
  }

  /** Hint on what is missing, or on what the task will do; null if that depends on the mask. */
  problem(limit) {
    if (this.name !== "outpaint") return null;
    const margins = this.margins();
    if (!margins) return {problem: "Give a margin, as 64 or 25%."};
    const [width, height] = this.#size(margins);
    if (limit && width * height > limit) return {problem: "With these margins the picture is larger than this server takes."};
    return {hint: `The picture grows to ${width} by ${height} pixels.`};
  }

  #size([left, top, right, bottom]) {
    return [this.view.picture.width + left + right, this.view.picture.height + top + bottom];
  }

  #written() {
    return SIDES.map((side) => $(`margin-${side}`).value.trim() || "0");
  }

  #changed() {
    $("margins").hidden = this.name !== "outpaint";
    [$("prompt-label").textContent, $("prompt").placeholder] = PROMPTS[this.name];
    this.view.setMargins(this.margins());
    this.onChange();
  }

  /** Update after another picture was opened, which changes margins in percent. */
  refit() {
    this.view.setMargins(this.margins());
  }
}
