// The seed's field and its die: -1, or nothing, is a random seed for every edit.

import {$} from "./dom.js";

const RANDOM = -1;
const isRandom = () => ["", String(RANDOM)].includes($("seed").value);
const showDie = () => $("dice").setAttribute("aria-pressed", isRandom());

export const seed = () => (isRandom() ? RANDOM : Number($("seed").value));

export function setSeed(value) {
  $("seed").value = value;
  showDie();
}

/** The die makes every edit random; pressed again, it keeps a seed: that of what is shown. */
export function listenToDie(shown) {
  $("seed").addEventListener("input", showDie);
  $("dice").addEventListener("click", () => setSeed(isRandom() ? shown() ?? 0 : RANDOM));
}
