// The predictions of one job: a strip, best first, and the chosen one beside the original.

import * as api from "./api.js";
import {commandLine, python} from "./command.js";
import {$, copy, make, rove, save, toast} from "./dom.js";

/** Move the focus to the picture before the focused element is hidden. */
function handOn(...elements) {
  if (elements.some((element) => element.contains(document.activeElement))) $("canvas").focus({preventScroll: true});
}

export class Results {
  constructor(view, onUse, onMode) {
    Object.assign(this, {view, onUse, onMode, result: null, edit: null, chosen: 0});
    this.stop = rove($("strip"));
    $("compare").addEventListener("input", () => this.#split(Number($("compare").value) / 100));
    this.#split(Number($("compare").value) / 100);
    $("close-results").addEventListener("click", () => this.back());
    $("use").addEventListener("click", () => this.#use());
    $("download").addEventListener("click", () => this.#download());
    $("copy-cli").addEventListener("click", () => this.#copy(commandLine, "Command"));
    $("copy-python").addEventListener("click", () => this.#copy(python, "Python"));
  }

  /** edit: as in command.js. */
  async show(result, edit) {
    Object.assign(this, {result, edit});
    $("strip").replaceChildren(...result.images.map((image, index) => this.#tile(image, index)));
    $("results").hidden = false;
    await this.choose(0);
    if ([$("canvas"), document.body].includes(document.activeElement)) $("strip").firstElementChild.focus({preventScroll: true});
  }

  /** Seed of the prediction that was chosen last. */
  get seed() {
    return this.result?.images[this.chosen].seed;
  }

  #tile(image, index) {
    const score = image.scores.total === undefined ? "" : image.scores.total.toFixed(2);
    const best = index === 0 && score;
    const name = `Prediction ${index + 1}, ${best ? "best, " : ""}${score ? `score ${score}, ` : ""}seed ${image.seed}`;
    const tile = make("button", {type: "button", title: name});
    tile.setAttribute("aria-label", name);
    if (best) tile.append(make("span", {className: "best", textContent: "best"}), " ");
    tile.append(make("img", {src: image.url, alt: ""}), score ? `score ${score}` : `seed ${image.seed}`);
    tile.addEventListener("click", () => this.choose(index));
    return tile;
  }

  async choose(index) {
    if (!this.result?.images[index]) return;
    this.chosen = index;
    [...$("strip").children].forEach((tile, i) => tile.setAttribute("aria-pressed", i === index));
    this.stop($("strip").children[index]);
    const blob = await api.blob(this.result.images[index].url);
    const bitmap = await createImageBitmap(blob);
    if (this.chosen !== index) return;
    this.blob = blob;
    this.view.shownMargins = this.edit.margins ?? null;
    this.view.after = bitmap;
    this.view.preview = null;
    $("divider").hidden = false;
    this.onMode("compare");
    this.view.draw();
  }

  #split(share) {
    this.view.split = share;
    $("compare").setAttribute("aria-valuetext", `${Math.round(share * 100)} percent original`);
    $("tag-before").hidden = share < 0.04;
    $("tag-after").hidden = share > 0.96;
    this.view.draw();
  }

  /** Back to painting; the strip of results stays. */
  back() {
    if (!this.view.after) return false;
    this.view.after = null;
    handOn($("actions"), $("divider"));
    $("divider").hidden = true;
    [...$("strip").children].forEach((tile) => tile.setAttribute("aria-pressed", false));
    this.onMode("paint");
    this.view.draw();
    return true;
  }

  clear() {
    this.back();
    this.result = null;
    handOn($("results"));
    $("results").hidden = true;
  }

  #use() {
    const {blob, edit} = this;
    if (!blob) return;
    this.clear();
    this.onUse(blob, edit.name.replace(/(-edited)?\.\w+$/, "") + "-edited.png");
  }

  #download() {
    if (!this.blob) return;
    const {seed} = this.result.images[this.chosen];
    save(this.blob, `${this.edit.name.replace(/\.\w+$/, "")}-${seed}.png`);
  }

  async #copy(write, what) {
    const text = write(this.edit);
    const beside = this.edit.hasMask === false ? "picture" : "picture and the saved mask";
    if (await copy(text)) toast(`${what} copied. It expects the ${beside} beside it.`);
    else toast(text);
  }
}
