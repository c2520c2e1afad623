// The controls of the brush: tool, size, colour, feather, and whether the mask is shown.

import {$, make, rove} from "./dom.js";

const COLOURS = {red: "#c8102e", orange: "#e8772e", yellow: "#f2c230", green: "#3d8b4f", blue: "#2f66c4", violet: "#7b4fa3", white: "#f4f1ea", black: "#2a2521"};
const LEAST = 1; // pixel

export class Controls {
  /** onTool: called when another tool is chosen. */
  constructor(view, tools, onTool) {
    Object.assign(this, {view, tools, onTool});
    for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => this.setTool(button.dataset.tool));
    // Logarithmic, so that a step is the same factor at every size.
    $("size").addEventListener("input", () => this.setSize(LEAST * (this.#most() / LEAST) ** ($("size").value / 100)));
    $("feather").addEventListener("input", () => this.setFeather($("feather").value));
    $("show-mask").addEventListener("click", () => this.toggleMask());
    this.#buildSwatches();
    this.setTool("brush");
    this.setFeather(-1);
  }

  #most() {
    return Math.max(64, Math.round(Math.max(this.view.picture?.width ?? 0, this.view.picture?.height ?? 0) / 2));
  }

  setTool(name) {
    this.tools.tool = name;
    for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === name);
    $("swatches").hidden = name !== "scribble";
    $("size-row").hidden = ["box", "hand"].includes(name);
    this.view.cursor = null;
    if (name !== "hand") this.onTool(); // a comparison can be moved about, too
    this.view.draw();
  }

  setSize(size) {
    const {tools, view} = this;
    tools.size = Math.round(Math.min(Math.max(size, LEAST), this.#most()));
    $("size").value = (100 * Math.log(tools.size / LEAST)) / Math.log(this.#most() / LEAST);
    $("size-text").textContent = tools.size;
    $("size").setAttribute("aria-valuetext", `${tools.size} pixels`);
    if (view.cursor) view.cursor.radius = tools.size / 2;
    view.draw();
  }

  smaller() {
    this.setSize(Math.min(this.tools.size - 1, this.tools.size / 1.2));
  }

  larger() {
    this.setSize(Math.max(this.tools.size + 1, this.tools.size * 1.2));
  }

  setColour(colour) {
    this.tools.colour = colour;
    for (const swatch of $("swatches").querySelectorAll("button")) swatch.setAttribute("aria-checked", swatch.dataset.colour === colour);
    $("swatches").querySelector("input").value = colour;
  }

  #buildSwatches() {
    const swatches = Object.entries(COLOURS).map(([name, colour]) => {
      const swatch = make("button", {type: "button", title: name});
      swatch.style.background = colour;
      swatch.dataset.colour = colour;
      swatch.setAttribute("role", "radio");
      swatch.setAttribute("aria-label", name);
      swatch.addEventListener("click", () => this.setColour(colour));
      return swatch;
    });
    const other = make("input", {type: "color", title: "Another colour"});
    other.setAttribute("aria-label", "Another colour");
    other.addEventListener("input", () => this.setColour(other.value));
    $("swatches").append(...swatches, other);
    this.setColour(COLOURS.red);
    rove($("swatches"), (swatch) => this.setColour(swatch.dataset.colour));
    rove(document.querySelector(".rail"));
  }

  /** Pixels of the soft edge; -1 leaves it to the server. */
  setFeather(value) {
    this.view.feather = Number(value);
    $("feather").value = value;
    $("feather-text").textContent = value < 0 ? "auto" : value;
    $("feather").setAttribute("aria-valuetext", value < 0 ? "automatic" : `${value} pixels`);
    this.view.draw();
  }

  toggleMask() {
    this.view.showMask = !this.view.showMask;
    $("show-mask").setAttribute("aria-pressed", this.view.showMask);
    this.view.draw();
  }
}
