// The canvas: draws picture, mask, preview or comparison, and holds the zoom.

import {$, canvasOf} from "./dom.js";

const MARGIN = 28;

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    Object.assign(this, {picture: null, scale: 1, x: 0, y: 0, fitted: true, showMask: true, feather: -1});
    Object.assign(this, {after: null, split: 0.5, preview: null, cursor: null, rubber: null});
    Object.assign(this, {margins: null, shownMargins: null}); // to be painted; and of what was: left, top, right, bottom
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  show(picture) {
    this.picture = picture;
    this.after = this.preview = this.rubber = null;
    this.fit();
  }

  /** Pixels around the picture that are to be painted; null for none. */
  setMargins(margins) {
    if (String(margins) === String(this.margins)) return;
    this.margins = margins;
    if (this.fitted) this.fit();
    this.draw();
  }

  /** The picture with its margins, as x, y, width and height in the picture's pixels. */
  get #frame() {
    const [left, top, right, bottom] = (this.after || this.preview ? this.shownMargins : this.margins) ?? [0, 0, 0, 0];
    return [-left, -top, this.picture.width + left + right, this.picture.height + top + bottom];
  }

  #resize() {
    const ratio = window.devicePixelRatio || 1;
    const {clientWidth, clientHeight} = this.canvas;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    if (this.fitted) this.fit();
    this.draw();
  }

  fit() {
    if (!this.picture) return this.draw();
    const {clientWidth: width, clientHeight: height} = this.canvas;
    const margin = Math.min(MARGIN, width * 0.03);
    const [left, top, wide, high] = this.#frame;
    this.scale = Math.min((width - 2 * margin) / wide, (height - 2 * margin) / high);
    this.x = (width - wide * this.scale) / 2 - left * this.scale;
    this.y = (height - high * this.scale) / 2 - top * this.scale;
    this.fitted = true;
    this.draw();
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(40, Math.max(0.02, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  /** Scroll a point of the picture into view, for keyboard use. */
  reveal(x, y) {
    const inside = (at, most) => Math.min(Math.max(at, MARGIN), most - MARGIN) - at;
    const [dx, dy] = [inside(this.x + x * this.scale, this.canvas.clientWidth), inside(this.y + y * this.scale, this.canvas.clientHeight)];
    if ((dx || dy) && !this.fitted) this.pan(dx, dy);
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.draw();
  }

  /** From the canvas's CSS pixels to the picture's. */
  toPicture(x, y) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.#paint();
    });
  }

  #paint() {
    const {pen, canvas, picture} = this;
    const ratio = canvas.width / (canvas.clientWidth || 1);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    $("zoom-text").textContent = `${Math.round(this.scale * 100)}%`;
    if (!picture) return;
    pen.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    pen.imageSmoothingEnabled = this.scale < 6;
    pen.imageSmoothingQuality = "high";
    this.#ground();
    pen.drawImage(picture.bitmap, 0, 0);
    if (this.after) this.#compare();
    else if (this.preview) pen.drawImage(this.preview, ...this.#frame);
    else this.#mask();
    if (this.rubber) this.#outline(...this.rubber);
    if (this.cursor && !this.after && !this.preview) this.#ring();
    this.#placeDivider();
  }

  /** A light checkerboard under transparent pictures, and a shadow around the picture. */
  #ground() {
    const {pen} = this;
    const style = getComputedStyle(this.canvas);
    pen.save();
    pen.shadowColor = "rgb(30 20 10 / .28)";
    pen.shadowBlur = 26;
    pen.shadowOffsetY = 6;
    pen.fillStyle = style.getPropertyValue("--check-b");
    pen.fillRect(...this.#frame);
    pen.restore();
    const side = 9 / this.scale;
    const tile = canvasOf(2, 2);
    const dots = tile.getContext("2d");
    dots.fillStyle = style.getPropertyValue("--check-a");
    dots.fillRect(0, 0, 1, 1);
    dots.fillRect(1, 1, 1, 1);
    const pattern = pen.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix().scale(side));
    pen.save();
    pen.imageSmoothingEnabled = false;
    pen.fillStyle = pattern;
    pen.fillRect(...this.#frame);
    pen.restore();
  }

  #mask() {
    const {pen, picture} = this;
    if (this.showMask) this.#tint();
    if (this.margins) this.#around();
    pen.drawImage(picture.scribble, 0, 0); // on top: its colours are what the edit starts from
  }

  #tint() {
    const {pen, picture} = this;
    pen.save();
    pen.globalAlpha = picture.hasScribble ? 0.28 : 0.5;
    // A light outline shows the mask's border on any colour; a feathered mask has none.
    const ratio = this.canvas.width / this.canvas.clientWidth;
    pen.filter = this.feather > 0 ? `blur(${(this.feather * this.scale * ratio) / 3}px)` : `drop-shadow(0 0 ${1.5 * ratio}px #fff)`;
    pen.drawImage(picture.mask, 0, 0);
    pen.restore();
  }

  /** The margins that will be painted, in the mask's colour. */
  #around() {
    const {pen, picture} = this;
    pen.save();
    pen.beginPath();
    pen.rect(...this.#frame);
    pen.rect(0, 0, picture.width, picture.height);
    pen.fillStyle = "rgb(53 87 214 / .5)";
    pen.fill("evenodd");
    pen.restore();
  }

  #compare() {
    const {pen} = this;
    const [left, top, width, height] = this.#frame;
    const edge = left + width * this.split;
    pen.save();
    pen.beginPath();
    pen.rect(edge, top, left + width - edge, height);
    pen.clip();
    this.#ground();
    pen.drawImage(this.after, ...this.#frame);
    pen.restore();
    if (this.split <= 0 || this.split >= 1) return;
    const radius = 13 / this.scale;
    const middle = top + height / 2;
    pen.fillStyle = "#fff";
    pen.shadowColor = "rgb(0 0 0 / .4)";
    pen.shadowBlur = 6;
    pen.fillRect(edge - 1 / this.scale, top, 2 / this.scale, height);
    pen.beginPath();
    pen.arc(edge, middle, radius, 0, 7);
    pen.fill();
    pen.shadowBlur = 0;
    pen.strokeStyle = "#57493c";
    pen.lineWidth = 1.6 / this.scale;
    pen.beginPath();
    for (const side of [-1, 1]) {
      pen.moveTo(edge + side * radius * 0.3, middle - radius * 0.3);
      pen.lineTo(edge + side * radius * 0.62, middle);
      pen.lineTo(edge + side * radius * 0.3, middle + radius * 0.3);
    }
    pen.stroke();
  }

  #outline(x, y, width, height) {
    const {pen} = this;
    pen.save();
    pen.lineWidth = 1.5 / this.scale;
    pen.setLineDash([6 / this.scale, 4 / this.scale]);
    pen.strokeStyle = "#fff";
    pen.fillStyle = "rgb(53 87 214 / .28)";
    pen.fillRect(x, y, width, height);
    pen.strokeRect(x, y, width, height);
    pen.restore();
  }

  #ring() {
    const {pen} = this;
    const {x, y, radius, colour} = this.cursor;
    for (const [line, width] of [["rgb(0 0 0 / .55)", 3], [colour ?? "#fff", 1.4]]) {
      pen.strokeStyle = line;
      pen.lineWidth = width / this.scale;
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.stroke();
    }
  }

  /** Place the slider over the picture, so that its thumb is at the line. */
  #placeDivider() {
    const divider = $("divider");
    if (divider.hidden) return;
    const [left, top, width, height] = this.#frame;
    Object.assign(divider.style, {
      left: `${this.x + left * this.scale}px`,
      top: `${this.y + top * this.scale}px`,
      width: `${width * this.scale}px`,
      height: `${height * this.scale}px`,
    });
  }
}
