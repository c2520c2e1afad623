// The picture being edited, its mask and its scribble, at the picture's own size, with undo.

import {canvasOf, toBlob} from "./dom.js";
import {upright} from "./orientation.js";

const MOST_STEPS = 60;
const MOST_BYTES = 300e6;
export const MASK_COLOUR = "#3557d6";

export class Picture extends EventTarget {
  /** blob: what is sent to the server, unchanged; bitmap: what is shown, upright. */
  constructor(blob, bitmap, name) {
    super();
    Object.assign(this, {blob, bitmap, name, width: bitmap.width, height: bitmap.height, done: [], undone: []});
    this.mask = canvasOf(this.width, this.height); // opaque where the edit is
    this.scribble = canvasOf(this.width, this.height);
    this.maskPen = this.mask.getContext("2d", {willReadFrequently: true});
    this.scribblePen = this.scribble.getContext("2d", {willReadFrequently: true});
    this.area = 0; // share of the picture that is masked
    this.hasScribble = false;
    this.end = null; // where the last stroke ended
    this.spot = null; // position of the brush when moved by arrow keys
  }

  static async from(blob, name) {
    const {bitmap} = await upright(blob);
    return new Picture(blob, bitmap, name);
  }

  /** Change mask or scribble in one step that can be undone: work(maskPen, scribblePen). */
  change(work) {
    this.begin();
    work(this.maskPen, this.scribblePen);
    this.commit();
  }

  begin() {
    this.before = this.#copy();
  }

  /** Discard what was painted since begin(). */
  abandon() {
    if (this.before) this.#put(this.before);
    this.before = null;
    this.#changed();
  }

  commit() {
    if (!this.before) return;
    this.done.push(this.before);
    this.undone = [];
    const bytes = (step) => step.alpha.length + (step.scribble?.data.length ?? 0);
    while (this.done.length > MOST_STEPS || this.done.reduce((sum, step) => sum + bytes(step), 0) > MOST_BYTES) this.done.shift();
    this.before = null;
    this.#changed();
  }

  undo() {
    this.#step(this.done, this.undone);
  }

  redo() {
    this.#step(this.undone, this.done);
  }

  #step(from, to) {
    if (!from.length || this.before) return;
    to.push(this.#copy());
    this.#put(from.pop());
    this.#changed();
  }

  /** Snapshot for undo: one byte per pixel for the mask, and the scribble if there is one. */
  #copy() {
    const all = [0, 0, this.width, this.height];
    const data = this.maskPen.getImageData(...all).data;
    const alpha = new Uint8Array(this.width * this.height);
    for (let i = 0; i < alpha.length; i++) alpha[i] = data[4 * i + 3];
    return {alpha, scribble: this.hasScribble ? this.scribblePen.getImageData(...all) : null};
  }

  #put({alpha, scribble}) {
    const image = this.maskPen.createImageData(this.width, this.height);
    for (let i = 0; i < alpha.length; i++) image.data[4 * i + 3] = alpha[i];
    this.maskPen.putImageData(image, 0, 0);
    tint(this.maskPen, this.width, this.height);
    this.scribblePen.clearRect(0, 0, this.width, this.height);
    if (scribble) this.scribblePen.putImageData(scribble, 0, 0);
  }

  #changed() {
    this.area = count(this.maskPen, this.width, this.height) / (this.width * this.height);
    this.hasScribble = count(this.scribblePen, this.width, this.height) > 0;
    this.dispatchEvent(new Event("change"));
  }

  invert() {
    this.change((pen) => flip(pen, this.width, this.height));
  }

  clear() {
    this.change((pen, scribblePen) => {
      pen.clearRect(0, 0, this.width, this.height);
      scribblePen.clearRect(0, 0, this.width, this.height);
    });
  }

  box(x, y, width, height) {
    this.change((pen) => {
      pen.fillStyle = MASK_COLOUR;
      pen.fillRect(x, y, width, height);
    });
  }

  /** Grow the mask by a disc of this radius in pixels; shrink it if negative. */
  grow(radius) {
    this.change((pen) => {
      if (radius < 0) flip(pen, this.width, this.height);
      const copy = canvasOf(this.width, this.height);
      copy.getContext("2d").drawImage(this.mask, 0, 0);
      const turns = Math.max(16, Math.ceil(Math.abs(radius) * 4));
      for (let i = 0; i < turns; i++) {
        const angle = (2 * Math.PI * i) / turns;
        pen.drawImage(copy, Math.abs(radius) * Math.cos(angle), Math.abs(radius) * Math.sin(angle));
      }
      if (radius < 0) flip(pen, this.width, this.height);
    });
  }

  /** Load a mask of white on black, as the server returns it. */
  async loadMask(blob) {
    const canvas = canvasOf(this.width, this.height);
    const pen = canvas.getContext("2d");
    pen.drawImage(await createImageBitmap(blob), 0, 0);
    const image = pen.getImageData(0, 0, this.width, this.height);
    const data = image.data;
    for (let i = 0; i < data.length; i += 4) data[i + 3] = data[i] > 127 ? 255 : 0;
    pen.putImageData(image, 0, 0);
    tint(pen, this.width, this.height);
    this.change((maskPen) => {
      maskPen.clearRect(0, 0, this.width, this.height);
      maskPen.drawImage(canvas, 0, 0);
    });
  }

  /** The mask as a file: white = edit, black = keep. */
  maskBlob() {
    const canvas = canvasOf(this.width, this.height);
    const pen = canvas.getContext("2d");
    pen.drawImage(this.mask, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, this.width, this.height);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, this.width, this.height);
    return toBlob(canvas);
  }

  /** The scribble as a file, on the canvas of a picture with margins if there are any. */
  scribbleBlob([left, top, right, bottom] = [0, 0, 0, 0]) {
    const canvas = canvasOf(this.width + left + right, this.height + top + bottom);
    canvas.getContext("2d").drawImage(this.scribble, left, top);
    return toBlob(canvas);
  }
}

function flip(pen, width, height) {
  fill(pen, width, height, "source-out");
}

function tint(pen, width, height) {
  fill(pen, width, height, "source-in");
}

function fill(pen, width, height, operation) {
  pen.save();
  pen.globalCompositeOperation = operation;
  pen.fillStyle = MASK_COLOUR;
  pen.fillRect(0, 0, width, height);
  pen.restore();
}

function count(pen, width, height) {
  const data = pen.getImageData(0, 0, width, height).data;
  let set = 0;
  for (let i = 3; i < data.length; i += 4) if (data[i] > 127) set++;
  return set;
}
