// Keyboard shortcuts. Single letters can be switched off, for users of speech input.

import {$, make} from "./dom.js";

const SETTING = "sfumato.single-keys";

const CONTROL = /Mac|iP(hone|ad)/.test(navigator.platform) ? "⌘" : "Ctrl";

/** actions: [{keys: ["b"], label, run, control}]; those with a label are also what the dialog shows. */
export function listen(actions, tools) {
  const single = $("single-keys");
  single.checked = localStorage.getItem(SETTING) !== "off";
  single.addEventListener("change", () => localStorage.setItem(SETTING, single.checked ? "on" : "off"));
  const kbd = (key) => make("kbd", {textContent: key === "Ctrl" ? CONTROL : key});
  const listed = actions.filter(({label}) => label);
  $("keys-list").replaceChildren(...listed.flatMap(({shown, label}) => [make("dt", {}, ...shown.map(kbd)), make("dd", {textContent: label})]));
  document.querySelector("#run kbd").textContent = `${CONTROL} ↵`;
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === " " && !takesText(event.target) && event.target.tagName !== "BUTTON" && event.target.tagName !== "SUMMARY") {
      tools.space = true;
      event.preventDefault();
    }
    const control = event.ctrlKey || event.metaKey;
    const action = actions.find((one) => Boolean(one.control) === control && one.keys.includes(event.key.toLowerCase()) && Boolean(one.shift) === (control && event.shiftKey));
    if (!action || event.altKey) return;
    if (!action.everywhere && takesText(event.target)) return;
    if (!control && !action.everywhere && !single.checked) return;
    if (action.run(event) !== false) event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") tools.space = false;
  });
}

function takesText(element) {
  return element.tagName === "TEXTAREA" || element.tagName === "SELECT" || (element.tagName === "INPUT" && !["checkbox", "range"].includes(element.type));
}
