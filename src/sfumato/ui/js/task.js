// The task (edit, shape, remove, fill, extend) and the margins of extend.

import {$, make} from "./dom.js";

const SIDES = ["left", "top", "right", "bottom"];
const PROMPTS = {
  edit: ["What should appear?", "a red ball"],
  shape: ["What should have this shape?", "a red ball"],
  remove: ["What should replace it?", "found by itself"],
  fill: ["What should be there?", "continued from around"],
  outpaint: ["What surrounds it?", "continued from the picture"],
};

export class Task {
  /** onChange: called when the task or a margin changes. */
  constructor(view, onChange) {
    Object.assign(this, {view, onChange, methods: []});
    $("task").addEventListener("change", () => this.#changed());
    for (const side of SIDES) $(`margin-${side}`).addEventListener("input", () => this.#changed());
    this.#show();
  }

  get name() {
    return $("task").value;
  }

  get needsWords() {
    return this.name === "edit" || this.name === "shape";
  }

  get needsMask() {
    return this.name !== "outpaint";
  }

  /** The methods that there are: those without the task cannot be chosen. */
  offer(methods) {
    this.methods = methods;
    this.#dim();
  }

  #dim() {
    for (const option of $("method").options) option.disabled = option.value && !this.methods.find(({name}) => name === option.value).tasks.includes(this.name);
  }

  /** Pixels on the left, top, right and bottom of the open picture; null if the task has none or one cannot be read. */
  margins() {
    const {picture} = this.view;
    if (this.name !== "outpaint" || !picture) return null;
    const pixels = this.#written().map((text, i) => {
      const {value, percent} = read(text);
      return percent ? Math.round((value * (i % 2 ? picture.height : picture.width)) / 100) : value;
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

  /** What keeps the edit from being made; empty if nothing does. limit: pixels that the server takes, once it is known. */
  problem(limit) {
    const {picture} = this.view;
    const method = this.methods.find(({name}) => name === $("method").value);
    if (!picture) return "Open a picture to begin.";
    if (method && !method.tasks.includes(this.name)) return `${method.title} cannot do this task: choose another method.`;
    if (picture.area === 0 && this.needsMask) return "Paint over what is to change.";
    if (picture.area === 1) return "Leave some of the picture unpainted.";
    if (this.needsWords && !$("prompt").value.trim()) return "Say what should appear.";
    if (this.name !== "outpaint") return "";
    if (!this.margins()) return "Give a margin, as 64 or 25%.";
    const [width, height] = this.#grown();
    return width * height > limit ? "With these margins the picture is larger than this server takes." : "";
  }

  /** How large the picture will be, as a sentence; empty if it stays as it is. */
  get size() {
    return this.margins() ? `The picture grows to ${this.#grown().join(" by ")} pixels.` : "";
  }

  #grown() {
    const [left, top, right, bottom] = this.margins();
    return [this.view.picture.width + left + right, this.view.picture.height + top + bottom];
  }

  #written() {
    return SIDES.map((side) => $(`margin-${side}`).value.trim() || "0");
  }

  #changed() {
    this.#show();
    this.onChange();
  }

  #show() {
    $("margins").hidden = this.name !== "outpaint";
    for (const side of SIDES) {
      const input = $(`margin-${side}`);
      if (Number.isNaN(read(input.value.trim() || "0").value)) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    }
    const [question, example] = PROMPTS[this.name];
    $("prompt-label").replaceChildren(question, ...(this.needsWords ? [] : [" ", make("small", {textContent: "(optional)"})]));
    $("prompt").placeholder = example;
    this.#dim();
    this.view.setMargins(this.margins());
  }

  /** Another picture is open, whose margins in percent are others. */
  refit() {
    this.view.setMargins(this.margins());
  }
}

/** A margin as it is typed, in whole pixels or percent; its value is NaN if it is neither. */
function read(text) {
  const found = /^(\d+(?:\.\d+)?)\s*(%?)$/.exec(text);
  const percent = Boolean(found?.[2]);
  return {value: found && (percent || !text.includes(".")) ? Number(found[1]) : NaN, percent};
}

/** Name of an edit in lists: its words, or what was done without any. */
export function nameOf({prompt, task}) {
  return prompt || [...$("task").options].find(({value}) => value === task)?.textContent.split(":")[0] || task;
}
