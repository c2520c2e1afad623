// Painting with mouse, pen, touch or keyboard.

import {$, say} from "./dom.js";
import {MASK_COLOUR} from "./picture.js";

export class Tools {
  constructor(view) {
    Object.assign(this, {view, tool: "brush", size: 32, colour: "#c8102e", active: null, fingers: new Map(), space: false});
    const canvas = view.canvas;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event, name === "pointercancel"));
    canvas.addEventListener("pointerleave", () => this.#hover(null));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), {passive: false});
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  get picture() {
    return this.view.picture;
  }

  get paints() {
    return this.picture && !this.view.after && !this.view.preview && !this.locked;
  }

  #at(event) {
    return this.view.toPicture(event.offsetX, event.offsetY);
  }

  #down(event) {
    if (!this.picture) return;
    this.view.canvas.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (this.fingers.size === 2) {
      if (this.active?.kind === "stroke") this.picture.abandon();
      this.view.rubber = null;
      this.active = {kind: "pinch"};
      return;
    }
    if (this.#divides(event)) {
      this.active = {kind: "divide"};
      return this.#divide(event);
    }
    const pans = this.tool === "hand" || this.space || event.button === 1 || !this.paints;
    if (pans) this.active = {kind: "pan"};
    else if (event.button === 0) this.#start(this.#at(event), event.shiftKey);
  }

  /** In a comparison, dragging anywhere moves the line; with the hand tool, only near the line. */
  #divides(event) {
    const {view} = this;
    if (!view.after || this.space || event.button === 1) return false;
    const line = view.x + view.split * this.picture.width * view.scale;
    return this.tool !== "hand" || Math.abs(event.offsetX - line) < 24;
  }

  #divide(event) {
    const [x] = this.#at(event);
    $("compare").value = (100 * x) / this.picture.width;
    $("compare").dispatchEvent(new Event("input"));
  }

  /** With Shift, a stroke starts where the last one ended: a straight line. */
  #start([x, y], line) {
    if (this.tool === "box") {
      this.active = {kind: "box", x, y};
      return;
    }
    this.picture.begin();
    this.active = {kind: "stroke", x, y};
    this.stroke((line && this.picture.end) || [x, y], [x, y]);
  }

  #move(event) {
    const before = this.fingers.get(event.pointerId);
    if (before) this.fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (this.active?.kind === "pinch" && before) return this.#pinch(event.pointerId, before);
    const [x, y] = this.#at(event);
    if (event.pointerType !== "touch") this.#hover([x, y]);
    if (this.active?.kind === "divide") this.#divide(event);
    if (this.active?.kind === "pan" && before) this.view.pan(event.offsetX - before[0], event.offsetY - before[1]);
    if (this.active?.kind === "box") this.view.rubber = this.#rectangle(x, y);
    if (this.active?.kind === "stroke") {
      for (const part of event.getCoalescedEvents?.() ?? []) this.#strokeTo(this.#at(part));
      this.#strokeTo([x, y]);
    }
    this.view.draw();
  }

  #strokeTo([x, y]) {
    this.stroke([this.active.x, this.active.y], [x, y]);
    Object.assign(this.active, {x, y});
  }

  #up(event, cancelled) {
    this.fingers.delete(event.pointerId);
    const active = this.active;
    if (active?.kind === "pinch" && this.fingers.size) return;
    this.active = null;
    if (active?.kind === "stroke" && cancelled) this.picture.abandon();
    else if (active?.kind === "stroke") {
      this.picture.end = [active.x, active.y];
      this.picture.commit();
    }
    if (active?.kind === "box") {
      const [x, y, width, height] = this.#rectangle(...this.#at(event), active);
      this.view.rubber = null;
      if (!cancelled && width >= 1 && height >= 1) this.picture.box(x, y, width, height);
    }
    this.view.draw();
  }

  #rectangle(x, y, from = this.active) {
    const clamp = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
    const [left, right] = [from.x, x].map((value) => clamp(value, this.picture.width)).sort((a, b) => a - b);
    const [top, bottom] = [from.y, y].map((value) => clamp(value, this.picture.height)).sort((a, b) => a - b);
    return [left, top, right - left, bottom - top];
  }

  #pinch(id, before) {
    const other = [...this.fingers].find(([key]) => key !== id)[1];
    const now = this.fingers.get(id);
    const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
    this.view.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    this.view.zoom(distance(now, other) / distance(before, other), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  #wheel(event) {
    if (!this.picture) return;
    event.preventDefault();
    if (event.shiftKey) this.view.pan(-event.deltaY - event.deltaX, 0);
    else this.view.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), event.offsetX, event.offsetY);
  }

  /** Paint or erase a segment with the chosen tool. */
  stroke(from, to) {
    const {maskPen, scribblePen} = this.picture;
    const erases = this.tool === "eraser";
    const pens = this.tool === "brush" ? [maskPen] : [maskPen, scribblePen];
    for (const pen of pens) {
      pen.save();
      pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
      pen.strokeStyle = pen === scribblePen ? this.colour : MASK_COLOUR;
      pen.lineWidth = this.size;
      pen.lineCap = "round";
      pen.beginPath();
      pen.moveTo(...from);
      pen.lineTo(to[0] + (from[0] === to[0] && from[1] === to[1] ? 0.01 : 0), to[1]);
      pen.stroke();
      pen.restore();
    }
    this.view.draw();
  }

  #hover(at) {
    const rings = at && ["brush", "eraser", "scribble"].includes(this.tool) && this.paints;
    this.view.cursor = rings ? {x: at[0], y: at[1], radius: this.size / 2, colour: this.tool === "scribble" ? this.colour : null} : null;
    const grabs = this.tool === "hand" || this.space || !this.paints;
    this.view.canvas.style.cursor = this.view.after && this.tool !== "hand" && !this.space ? "ew-resize" : grabs ? "grab" : "crosshair";
    this.view.draw();
  }

  /** Arrow keys move the brush, or with the hand tool the picture; Enter paints at the brush. */
  #key(event) {
    const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    if (!this.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps && (this.tool === "hand" || !this.paints)) {
      const far = event.shiftKey ? 200 : 40;
      const [dx, dy] = steps[event.key];
      this.view.pan(-dx * far, -dy * far);
    } else if (event.key in steps) this.#moveBrush(steps[event.key], event.shiftKey ? 5 : 1);
    else if (event.key === "Enter" && this.paints && !["box", "hand"].includes(this.tool)) {
      const at = this.#spot();
      this.#hover(at);
      this.picture.change(() => this.stroke(at, at));
    } else return;
    event.preventDefault();
  }

  /** Position of the keyboard's brush: the last one, or the centre. */
  #spot() {
    const {width, height} = this.picture;
    const {cursor} = this.view;
    const [x, y] = cursor ? [cursor.x, cursor.y] : (this.picture.spot ?? [width / 2, height / 2]);
    return [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
  }

  #moveBrush([dx, dy], times) {
    const {width, height} = this.picture;
    const step = Math.max(1, this.size / 4) * times;
    const [x, y] = this.#spot();
    const at = [Math.min(Math.max(x + dx * step, 0), width), Math.min(Math.max(y + dy * step, 0), height)];
    this.picture.spot = at;
    this.#hover(at);
    this.view.reveal(...at);
    say(`${Math.round(at[0])}, ${Math.round(at[1])}`);
  }
}
