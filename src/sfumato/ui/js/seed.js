// The seed field and the die button: -1, or an empty field, is a random seed for every edit.

import {$} from "./dom.js";

const RANDOM = -1;
const isRandom = () => ["", String(RANDOM)].includes($("seed").value);
const showDie = () => $("dice").setAttribute("aria-pressed", isRandom());

export const seed = () => (isRandom() ? RANDOM : Number($("seed").value));

export function setSeed(value) {
  $("seed").value = value;
  showDie();
}

/** The die sets a random seed for every edit; pressed again, it fixes the seed of the shown result. */
export function listenToDie(shown) {
  $("seed").addEventListener("input", showDie);
  $("dice").addEventListener("click", () => setSeed(isRandom() ? shown() ?? 0 : RANDOM));
}
